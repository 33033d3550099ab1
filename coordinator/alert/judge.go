package alert

import (
	"fmt"
	"strings"
	"time"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// minAttempts is how many attempts there must have been before their failures
// are a ratio.
const minAttempts = 20

// Key names what an alert is about. It is the same each time.
type Key struct {
	Kind         Kind
	Tenant       string
	Subscription string // id; empty: it is about the cluster
	Object       string // of the cluster, as `partitions/3`
}

// Condition says whether something holds.
type Condition struct {
	Key
	Rule     Rule
	Holds    bool
	Gone     bool      // what it was about is no more: there is nothing to wait for
	Since    time.Time // while it holds: since when; zero: since it is noticed
	Text     string    // while it holds: what is wrong, in words
	Evidence Evidence
}

// Evidence is what is known of an attempt that failed.
type Evidence struct {
	URL        string
	Delivery   string // as the history names it; empty: it is about none
	StatusCode int32
	ErrorClass string
	Error      string
}

// Mode is whether a subscription is sent to.
type Mode int

// The modes.
const (
	Active Mode = iota
	Paused
	Disabled
)

// Subscription is what is known of one. Zero times are unknown, or never.
type Subscription struct {
	Tenant, ID string
	Mode       Mode
	ModeReason string
	ModeSince  time.Time

	Failures uint64    // attempts in a row
	Since    time.Time // when that row began
	Disables time.Time // when it is disabled, if it goes on like this

	Oldest  time.Time // since when its oldest delivery is owed
	Expires time.Time // when what is owed to it, or may be, begins to expire
	// Retention is how long what is owed is kept.
	Retention time.Duration

	Attempts, Failed int // within the period of FailureRatio
	Died             int // within the period of DeliveryDead

	CertificateEnds time.Time // the first of its certificates that does
	SecretEnds      time.Time // the first of its secrets that does

	Evidence Evidence // of the last attempt that failed
	Dead     Evidence // of the last delivery that died
}

// Judge calls each with every condition that a subscription can be in, whether
// it holds or not.
func Judge(s Subscription, rules Rules, now time.Time, each func(Condition)) {
	for _, d := range definitions {
		if !d.tenants {
			continue
		}
		c := Condition{Key: Key{Kind: d.kind, Tenant: s.Tenant, Subscription: s.ID}, Rule: rules.Of(d.kind), Evidence: s.Evidence}
		s.judge(&c, now)
		c.Holds = c.Holds && !c.Rule.Disabled
		each(c)
	}
}

// judge fills in whether a condition holds, since when, and why.
func (s *Subscription) judge(c *Condition, now time.Time) {
	rule, active := c.Rule, s.Mode == Active
	switch c.Kind {
	case EndpointFailing:
		c.Holds = active && s.Failures > 0 && float64(s.Failures) >= rule.Threshold
		c.Since = s.Since
		c.Text = fmt.Sprintf("%d attempts in a row have failed since %s", s.Failures, moment(s.Since))
	case EndpointDisabledSoon:
		c.Holds = active && ends(s.Disables, now, rule.Period)
		c.Since = s.Disables.Add(-rule.Period)
		c.Text = fmt.Sprintf("the endpoint has failed since %s and will be disabled on %s", moment(s.Since), moment(s.Disables))
	case EndpointDisabled:
		c.Holds = s.Mode == Disabled
		c.Since = s.ModeSince
		c.Text = "the endpoint is disabled: " + s.ModeReason
	case FailureRatio:
		c.Holds = active && s.Attempts >= minAttempts && float64(s.Failed) >= rule.Threshold*float64(s.Attempts)
		c.Text = fmt.Sprintf("%d of %d attempts within %s have failed", s.Failed, s.Attempts, length(rule.Period))
	case DeliveryDead:
		c.Holds = s.Died > 0 && float64(s.Died) >= rule.Threshold
		c.Evidence = s.Dead
		given := "deliveries were"
		if s.Died == 1 {
			given = "delivery was"
		}
		c.Text = fmt.Sprintf("%d %s given up within %s", s.Died, given, length(rule.Period))
	case BacklogAge:
		c.Holds = active && !s.Oldest.IsZero() && now.Sub(s.Oldest) >= rule.Period
		c.Since = s.Oldest.Add(rule.Period)
		c.Text = "what is owed has waited since " + moment(s.Oldest)
	case EventsExpiring:
		notice := Notice(rule, s.Retention)
		c.Holds = ends(s.Expires, now, notice)
		c.Since = s.Expires.Add(-notice)
		c.Text = "what is owed, or may be among what waits in the log, begins to expire on " + moment(s.Expires)
	case CertificateExpiring:
		c.Holds = ends(s.CertificateEnds, now, rule.Period)
		c.Since = s.CertificateEnds.Add(-rule.Period)
		c.Text = "a certificate of the subscription ends on " + moment(s.CertificateEnds)
		c.Evidence = Evidence{URL: s.Evidence.URL}
	case SecretExpiring:
		c.Holds = s.SecretEnds.After(now) && ends(s.SecretEnds, now, rule.Period)
		c.Since = s.SecretEnds.Add(-rule.Period)
		c.Text = "a signing secret that was replaced ends on " + moment(s.SecretEnds)
		c.Evidence = Evidence{URL: s.Evidence.URL}
	case PublishRefused, ShardUnowned, PartitionLeaderless, PartitionHalted, LogSilent, LogNotSyncing,
		HistoryLag, LeaseMargin, ControlPlaneLost: // of the cluster
	}
}

// Notice returns how long before what is owed expires a rule wants to be told.
// What is kept for less than that is told of when a seventh of its time is left.
func Notice(rule Rule, retention time.Duration) time.Duration {
	if rule.Period >= retention {
		return retention / 7
	}
	return rule.Period
}

// ends reports whether a time is near, or over.
func ends(at, now time.Time, within time.Duration) bool {
	return !at.IsZero() && at.Sub(now) <= within
}

// moment shows a time.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// length shows how long something takes, without the zeros of less: 1h30m.
func length(d time.Duration) string {
	text := d.String()
	for _, zeros := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zeros) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// Cluster is what is known of the cluster.
type Cluster struct {
	Partitions []Partition
	Shards     []*fanfarev1.Shard
	Engines    []*fanfarev1.Engine
	// CertificatesEnd says when each member's certificate does.
	CertificatesEnd map[string]time.Time
}

// Partition is what is known of one.
type Partition struct {
	ID      int32
	Led     bool
	Halted  string // why it is; empty: it is not, as far as is known
	Refuses string // why it takes no events; empty: it does
	Silent  bool   // its log does not answer
	Lag     uint64 // of its history, in records
	Unknown bool   // its leader did not say
}

// Member is what a coordinator knows of itself.
type Member struct {
	ID     string
	Doubt  string  // why it cannot reach the cluster's store; empty: it can
	Margin float64 // share of its lease that is left; 1 if it was just renewed
}

// Survey calls each with every condition that the cluster can be in, whether
// it holds or not. tenant is where alerts of the cluster are. What a leader
// would have to say that did not answer is left out: nothing is known of it.
func Survey(c Cluster, tenant string, rules Rules, each func(Condition)) {
	s := surveyor{tenant: tenant, rules: rules, each: each}
	for _, p := range c.Partitions {
		s.partition(p)
	}
	for _, shard := range c.Shards {
		s.note(ShardUnowned, fmt.Sprintf("shards/%d/%d", shard.GetPartition(), shard.GetSlot()),
			shard.GetWorker() == "" && shard.GetSubscriptions() > 0,
			fmt.Sprintf("shard %d/%d has %d subscriptions and no worker", shard.GetPartition(), shard.GetSlot(), shard.GetSubscriptions()))
	}
	for _, engine := range c.Engines {
		s.note(LogNotSyncing, "engines/"+engine.GetName(), engine.GetUnsynced(),
			fmt.Sprintf("%s does not sync each write: %s", engine.GetName(), engine.GetSync()))
	}
}

// SurveyCertificates is Survey for the certificates of members.
func SurveyCertificates(c Cluster, tenant string, rules Rules, now time.Time, each func(Condition)) {
	s := surveyor{tenant: tenant, rules: rules, each: each}
	within := rules.Of(CertificateExpiring).Period
	for member, at := range c.CertificatesEnd {
		s.note(CertificateExpiring, "members/"+member, ends(at, now, within),
			fmt.Sprintf("the certificate of %s ends on %s", member, moment(at)))
	}
}

// SurveyMember is Survey for what a coordinator knows of itself.
func SurveyMember(m Member, tenant string, rules Rules, each func(Condition)) {
	s := surveyor{tenant: tenant, rules: rules, each: each}
	s.note(ControlPlaneLost, "members/"+m.ID, m.Doubt != "", m.Doubt)
	s.note(LeaseMargin, "members/"+m.ID, m.Doubt == "" && m.Margin < rules.Of(LeaseMargin).Threshold,
		fmt.Sprintf("%s renews its lease late: %.0f %% of it was left", m.ID, 100*max(m.Margin, 0)))
}

// surveyor says what it sees of the cluster.
type surveyor struct {
	tenant string
	rules  Rules
	each   func(Condition)
}

func (s surveyor) note(kind Kind, object string, holds bool, text string) {
	rule := s.rules.Of(kind)
	s.each(Condition{
		Key: Key{Kind: kind, Tenant: s.tenant, Object: object}, Rule: rule, Holds: holds && !rule.Disabled, Text: text,
	})
}

func (s surveyor) partition(p Partition) {
	object := fmt.Sprintf("partitions/%d", p.ID)
	s.note(PartitionHalted, object, p.Halted != "", p.Halted)
	s.note(PartitionLeaderless, object, !p.Led && p.Halted == "", fmt.Sprintf("partition %d has no leader", p.ID))
	if p.Led && p.Unknown {
		return
	}
	s.note(PublishRefused, object, p.Led && p.Refuses != "", fmt.Sprintf("partition %d refuses events: %s", p.ID, p.Refuses))
	s.note(LogSilent, object, p.Led && p.Silent, fmt.Sprintf("the log of partition %d does not answer", p.ID))
	s.note(HistoryLag, object, p.Led && float64(p.Lag) >= s.rules.Of(HistoryLag).Threshold,
		fmt.Sprintf("the history of partition %d is %d records behind", p.ID, p.Lag))
}

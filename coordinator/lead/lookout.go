package lead

import (
	"crypto/x509"
	"encoding/pem"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// lookInterval is how often the lookout judges what time alone may have
	// changed.
	lookInterval = 15 * time.Second
	// expiryInterval is how often it looks at certificates and secrets.
	expiryInterval = 10 * time.Minute
	// maxWatched is how many subscriptions it keeps an eye on: those that are
	// not well. The others get their turn when some of these are well again.
	maxWatched = alert.DefaultLimit
)

// lookout watches, in what the follower folds, for subscriptions that need
// somebody's attention, and says so to the alerter. It costs the loop nothing,
// and the follower no more than what fails: of a subscription that is well
// nothing is kept, and nothing is asked. Owned by the follower.
type lookout struct {
	leader   *Leader
	inbox    *inbox // of the alerter
	watched  map[ledger.Number]*ailing
	expiries map[ledger.Number]expiry // of those whose certificates or secrets end
	touched  map[ledger.Number]bool   // that something has happened to since they were judged
	shortest time.Duration            // of the periods there are of BacklogAge and EventsExpiring
	from     uint64                   // record
	begun    bool
	looked   time.Time // when all that are watched were judged
	aged     time.Time // when all expiries were
}

// ailing is a subscription that is not well, or was not a moment ago.
type ailing struct {
	tenant, id     string
	attempts, died alert.Window
	evidence, dead alert.Evidence
	holds          map[alert.Kind]bool // that the alerter was told
}

// expiry says when what a subscription has ends; zero: never.
type expiry struct{ certificate, secret time.Time }

func newLookout(l *Leader, from uint64) *lookout {
	return &lookout{
		leader: l, inbox: l.inbox, from: from,
		watched:  make(map[ledger.Number]*ailing),
		expiries: make(map[ledger.Number]expiry),
		touched:  make(map[ledger.Number]bool),
		shortest: soonest(alert.Rules{}, l.config.Retention),
	}
}

// soonest returns how old what is owed must be at the least for an alert of it
// to fire.
func soonest(rules alert.Rules, retention time.Duration) time.Duration {
	return min(rules.Of(alert.BacklogAge).Period, retention-alert.Notice(rules.Of(alert.EventsExpiring), retention))
}

// ready is told up to which record the state has come. From the first that it
// led with on, what it shows is no longer the past.
func (o *lookout) ready(sequence uint64) bool { return o.begun || sequence >= o.from }

// waits returns how long nothing needs to be judged if nothing happens.
func (o *lookout) waits(state *ledger.Ledger) time.Duration {
	if !o.begun || len(o.watched) > 0 || state.Outstanding() > 0 || state.BehindCount() > 0 {
		return lookInterval
	}
	return expiryInterval
}

// see takes what a record has changed in the state.
func (o *lookout) see(state *ledger.Ledger, result ledger.Result) {
	now := time.UnixMilli(state.Time())
	for i := range result.Deliveries {
		if change := &result.Deliveries[i]; change.Outcome != nil {
			o.seeAttempt(state, now, change)
		}
	}
	for _, change := range result.Subscriptions {
		if change.Current == nil {
			o.remove(change.Number)
			continue
		}
		o.learn(state, change.Current)
		o.touched[change.Number] = true
	}
	for _, s := range result.Paced { // among them those that were stopped, or resumed
		if s.Pace().Stopped || o.watched[s.Number] != nil {
			o.touched[s.Number] = true
		}
	}
}

func (o *lookout) seeAttempt(state *ledger.Ledger, now time.Time, change *ledger.DeliveryChange) {
	failed := change.Kind != ledger.Delivered
	w := o.watched[change.Subscription]
	if w == nil && failed {
		w = o.watch(state, state.Subscription(change.Subscription))
	}
	if w == nil {
		return
	}
	w.attempts.Add(now, failed)
	o.touched[change.Subscription] = true
	if !failed {
		return
	}
	w.evidence = alert.Evidence{
		Delivery:   history.DeliveryID(keyOf(o.leader.config.Partition, change.Delivery)),
		StatusCode: int32(change.Outcome.GetStatusCode()), //nolint:gosec // three digits
		ErrorClass: change.Outcome.GetErrorClass(), Error: change.Outcome.GetError(),
	}
	if change.Kind == ledger.Died {
		w.died.Add(now, true)
		w.dead = w.evidence
	}
}

// watch keeps an eye on a subscription. It returns nil if there are too many,
// or none.
func (o *lookout) watch(state *ledger.Ledger, s *ledger.Subscription) *ailing {
	if s == nil || len(o.watched) >= maxWatched {
		return nil
	}
	if w := o.watched[s.Number]; w != nil {
		return w
	}
	w := &ailing{tenant: string(s.Tenant), id: s.ID(), holds: make(map[alert.Kind]bool)}
	rules := rulesOf(state, s)
	w.attempts.SetPeriod(rules.Of(alert.FailureRatio).Period)
	w.died.SetPeriod(rules.Of(alert.DeliveryDead).Period)
	o.watched[s.Number] = w
	return w
}

// rulesOf returns the rules of a subscription that were changed.
func rulesOf(state *ledger.Ledger, s *ledger.Subscription) alert.Rules {
	return alert.Rules{
		Tenant:       state.Tenant(s.Tenant).GetAlertRules(),
		Subscription: s.Stored.GetSubscription().GetAlertRules(),
	}
}

// remove forgets a subscription that was deleted.
func (o *lookout) remove(number ledger.Number) {
	if w := o.watched[number]; w != nil {
		for kind := range w.holds {
			o.inbox.put(alert.Condition{
				Key: alert.Key{Kind: kind, Tenant: w.tenant, Subscription: w.id}, Rule: alert.Default(kind), Gone: true,
			})
		}
	}
	delete(o.watched, number)
	delete(o.expiries, number)
	delete(o.touched, number)
}

// learn takes how a subscription is configured.
func (o *lookout) learn(state *ledger.Ledger, s *ledger.Subscription) {
	if found := expiryOf(s.Stored); found != (expiry{}) {
		o.expiries[s.Number] = found
	} else {
		delete(o.expiries, s.Number)
	}
	if rules := rulesOf(state, s); len(rules.Tenant)+len(rules.Subscription) > 0 {
		o.shortest = min(o.shortest, soonest(rules, o.leader.config.Retention))
	}
}

// expiryOf returns when the first certificate of a subscription ends, and the
// first of its secrets that was replaced.
func expiryOf(stored *linkv1.StoredSubscription) (found expiry) {
	for _, ms := range stored.GetSecretExpireTimesUnixMs() {
		if at := time.UnixMilli(ms); ms != 0 && (found.secret.IsZero() || at.Before(found.secret)) {
			found.secret = at
		}
	}
	options := stored.GetSubscription().GetTls()
	for _, text := range []string{options.GetClientCertificate(), options.GetCaCertificates()} {
		for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err == nil && (found.certificate.IsZero() || certificate.NotAfter.Before(found.certificate)) {
				found.certificate = certificate.NotAfter
			}
		}
	}
	return found
}

// judge says what needs attention. It is called when the state is as new as it
// can be.
func (o *lookout) judge(state *ledger.Ledger) {
	now := time.Now()
	if !o.begun {
		o.begin(state)
	}
	if now.Sub(o.looked) < lookInterval {
		for number := range o.touched {
			o.judgeOne(state, number, now, false)
		}
		clear(o.touched)
		return
	}
	o.looked = now
	for _, s := range state.Overdue(state.SequenceAt(now.Add(-o.shortest)), maxWatched) {
		o.touched[s.Number] = true
	}
	if now.Sub(o.aged) >= expiryInterval {
		o.aged = now
		for number := range o.expiries {
			o.touched[number] = true
		}
	}
	for number := range o.watched {
		o.touched[number] = true
	}
	for number := range o.touched {
		o.judgeOne(state, number, now, true)
	}
	clear(o.touched)
}

// begin looks at everything, once: what is not well is watched from here on,
// and so is what alerts fire of, which may be well by now.
func (o *lookout) begin(state *ledger.Ledger) {
	o.begun = true
	for _, s := range state.Subscriptions() {
		o.learn(state, s)
		if health := s.Health(); health.Failures > 0 || health.Mode != ledger.Active {
			o.watch(state, s)
		}
	}
	for _, id := range state.Alerts() {
		stored := state.Alert(id)
		if stored.GetSource() != "" || stored.GetAlert().GetState() != fanfarev1.Alert_FIRING {
			continue
		}
		key := alert.KeyOf(stored.GetTenant(), stored.GetAlert())
		s := state.SubscriptionByID(ledger.TenantID(key.Tenant), key.Subscription)
		if s == nil {
			o.inbox.put(alert.Condition{Key: key, Rule: alert.Default(key.Kind), Gone: true})
			continue
		}
		if w := o.watch(state, s); w != nil {
			w.holds[key.Kind] = true
		}
	}
}

// judgeOne judges a subscription. What holds, and has held before, is said
// again only if all of it is wanted: its rule may have changed.
func (o *lookout) judgeOne(state *ledger.Ledger, number ledger.Number, now time.Time, all bool) {
	s := state.Subscription(number)
	if s == nil {
		return
	}
	rules := rulesOf(state, s)
	w := o.watched[number]
	seen := o.look(state, s, w, rules, now)
	quiet := seen.Failures == 0 && seen.Mode == alert.Active && seen.Attempts == 0 && seen.Died == 0
	alert.Judge(seen, rules, now, func(c alert.Condition) {
		switch {
		case c.Holds && w == nil:
			if w = o.watch(state, s); w == nil {
				return
			}
			fallthrough
		case c.Holds:
			quiet = false
			if !w.holds[c.Kind] || all {
				o.inbox.put(c)
			}
			w.holds[c.Kind] = true
		case w != nil && w.holds[c.Kind]:
			o.inbox.put(c)
			delete(w.holds, c.Kind)
		}
	})
	if quiet {
		delete(o.watched, number)
	}
}

// look returns what is known of a subscription; w is nil if it is well.
func (o *lookout) look(state *ledger.Ledger, s *ledger.Subscription, w *ailing, rules alert.Rules, now time.Time) alert.Subscription {
	health, ends := s.Health(), o.expiries[s.Number]
	seen := alert.Subscription{
		Tenant: string(s.Tenant), ID: s.ID(), ModeReason: health.ModeReason, ModeSince: health.ModeSince,
		Failures: health.Failures, Since: health.Since,
		Oldest: s.OwedSince(), CertificateEnds: ends.certificate, SecretEnds: ends.secret,
	}
	switch health.Mode {
	case ledger.Paused:
		seen.Mode = alert.Paused
	case ledger.Disabled:
		seen.Mode = alert.Disabled
	case ledger.Active:
	}
	if !health.Since.IsZero() {
		seen.Disables = health.Since.Add(state.DisableAfter())
	}
	if sequence, ok := state.Awaits(s); ok {
		seen.Retention = o.leader.config.Retention
		seen.Expires = state.WrittenBy(sequence).Add(seen.Retention)
	}
	if w != nil {
		w.attempts.SetPeriod(rules.Of(alert.FailureRatio).Period)
		w.died.SetPeriod(rules.Of(alert.DeliveryDead).Period)
		seen.Attempts, seen.Failed = w.attempts.Sum(now)
		seen.Died, _ = w.died.Sum(now)
		seen.Evidence, seen.Dead = w.evidence, w.dead
	}
	seen.Evidence.URL = s.Stored.GetSubscription().GetUrl()
	seen.Dead.URL = seen.Evidence.URL
	return seen
}

// inbox holds the newest of the conditions of each key until the alerter takes
// them, so that there are no more than there are keys. Safe for concurrent use.
type inbox struct {
	mu         sync.Mutex
	conditions map[alert.Key]alert.Condition // guarded by mu
	filled     chan struct{}                 // capacity 1: there are conditions
}

func newInbox() *inbox {
	return &inbox{conditions: make(map[alert.Key]alert.Condition), filled: make(chan struct{}, 1)}
}

func (b *inbox) put(c alert.Condition) {
	b.mu.Lock()
	b.conditions[c.Key] = c
	b.mu.Unlock()
	select {
	case b.filled <- struct{}{}:
	default:
	}
}

func (b *inbox) take() map[alert.Key]alert.Condition {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.conditions
	b.conditions = make(map[alert.Key]alert.Condition)
	return taken
}

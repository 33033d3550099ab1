package alert

import (
	"slices"
	"time"
)

// Kind is what can be wrong.
type Kind string

// What can be wrong with a subscription.
const (
	EndpointFailing      Kind = "endpoint_failing"
	EndpointDisabledSoon Kind = "endpoint_disabled_soon"
	EndpointDisabled     Kind = "endpoint_disabled"
	FailureRatio         Kind = "failure_ratio"
	DeliveryDead         Kind = "delivery_dead"
	BacklogAge           Kind = "backlog_age"
	EventsExpiring       Kind = "events_expiring"
	CertificateExpiring  Kind = "certificate_expiring" // of a member, too
	SecretExpiring       Kind = "secret_expiring"
)

// What can be wrong with the cluster.
const (
	PublishRefused      Kind = "publish_refused"
	ShardUnowned        Kind = "shard_unowned"
	PartitionLeaderless Kind = "partition_leaderless"
	PartitionHalted     Kind = "partition_halted"
	LogSilent           Kind = "log_silent"
	LogNotSyncing       Kind = "log_not_syncing"
	HistoryLag          Kind = "history_lag"
	LeaseMargin         Kind = "lease_margin"
	ControlPlaneLost    Kind = "control_plane_lost"
)

// How bad it is.
const (
	Info     = "info"
	Warning  = "warning"
	Critical = "critical"
)

// Bounds of what a rule may say.
const (
	MinPeriod = time.Minute
	MaxPeriod = 90 * 24 * time.Hour
	MaxFor    = 7 * 24 * time.Hour
)

const (
	day = 24 * time.Hour
	// repeatOften is how often what is critical for the whole cluster is said.
	repeatOften = 4 * time.Hour
)

// definition is all there is to know of a kind.
type definition struct {
	kind        Kind
	rule        Rule // by default
	description string
	fires, ends string // types of the events that say so, without `fanfare.`
	cluster     bool   // it is, or can be, about the cluster
	tenants     bool   // it is, or can be, about a subscription
	// hasThreshold and hasPeriod say which numbers the kind has.
	hasThreshold, hasPeriod bool
	// share: the threshold is a share, from 0 to 1.
	share bool
	// counted: it rests on what is counted since a leader began.
	counted bool
}

// definitions are all kinds there are, in the order in which they are shown.
var definitions = []definition{ //nolint:gochecknoglobals // a table that nobody writes to
	{
		kind:        EndpointFailing,
		description: "So many attempts have failed in a row, for so long.",
		rule:        Rule{Severity: Warning, Threshold: 5, For: 5 * time.Minute, Repeat: day},
		fires:       "endpoint.failing", ends: "endpoint.recovered", tenants: true, hasThreshold: true,
	},
	{
		kind:        EndpointDisabledSoon,
		description: "The endpoint fails, and will be disabled within the period.",
		rule:        Rule{Severity: Warning, Period: day, Repeat: day},
		fires:       "endpoint.disabled_soon", ends: "endpoint.disabled_soon_resolved", tenants: true, hasPeriod: true,
	},
	{
		kind:        EndpointDisabled,
		description: "The endpoint has failed for too long or said that it is gone, and nothing is sent to it any more.",
		rule:        Rule{Severity: Critical, Repeat: day},
		fires:       "endpoint.disabled", ends: "endpoint.enabled", tenants: true,
	},
	{
		kind:        FailureRatio,
		description: "Of at least 20 attempts within the period, this share has failed.",
		rule:        Rule{Severity: Warning, Threshold: 0.5, Period: 10 * time.Minute, Repeat: day},
		fires:       "failure_ratio.high", ends: "failure_ratio.resolved", tenants: true,
		hasThreshold: true, hasPeriod: true, share: true, counted: true,
	},
	{
		kind:        DeliveryDead,
		description: "So many deliveries were given up within the period.",
		rule:        Rule{Severity: Warning, Threshold: 1, Period: time.Hour, Repeat: day},
		fires:       "delivery.dead", ends: "delivery.dead_resolved", tenants: true,
		hasThreshold: true, hasPeriod: true, counted: true,
	},
	{
		kind:        BacklogAge,
		description: "What is owed to a subscription that is sent to has waited for the period.",
		rule:        Rule{Severity: Warning, Period: time.Hour, Repeat: day},
		fires:       "backlog.old", ends: "backlog.resolved", tenants: true, hasPeriod: true,
	},
	{
		kind:        EventsExpiring,
		description: "What is owed to a subscription will expire within the period, because retention ends then.",
		rule:        Rule{Severity: Critical, Period: day, Repeat: day},
		fires:       "events.expiring", ends: "events.expiring_resolved", tenants: true, hasPeriod: true,
	},
	{
		kind:        CertificateExpiring,
		description: "A certificate ends within the period: one that a subscription shows or trusts, or a member's.",
		rule:        Rule{Severity: Warning, Period: 14 * day, Repeat: day},
		fires:       "certificate.expiring", ends: "certificate.renewed", tenants: true, cluster: true, hasPeriod: true,
	},
	{
		kind:        SecretExpiring,
		description: "A signing secret that was replaced ends within the period: the receiver must know the new one by then.",
		rule:        Rule{Severity: Info, Period: time.Hour, Repeat: day},
		fires:       "secret.expiring", ends: "secret.expired", tenants: true, hasPeriod: true,
	},
	{
		kind:        PublishRefused,
		description: "A partition refuses events: its log or its disk has no space.",
		rule:        Rule{Severity: Critical, Repeat: repeatOften},
		fires:       "publish.refused", ends: "publish.resumed", cluster: true,
	},
	{
		kind:        ShardUnowned,
		description: "A shard with subscriptions has no worker.",
		rule:        Rule{Severity: Critical, For: time.Minute, Repeat: repeatOften},
		fires:       "shard.unowned", ends: "shard.owned", cluster: true,
	},
	{
		kind:        PartitionLeaderless,
		description: "Nobody leads a partition: it takes no events, and sends none.",
		rule:        Rule{Severity: Critical, For: 30 * time.Second, Repeat: repeatOften},
		fires:       "partition.leaderless", ends: "partition.led", cluster: true,
	},
	{
		kind:        PartitionHalted,
		description: "A partition is not served because of what its log holds, or lacks.",
		rule:        Rule{Severity: Critical, Repeat: repeatOften},
		fires:       "partition.halted", ends: "partition.resumed", cluster: true,
	},
	{
		kind:        LogSilent,
		description: "The log of a partition does not answer.",
		rule:        Rule{Severity: Critical, Repeat: repeatOften},
		fires:       "log.silent", ends: "log.answering", cluster: true,
	},
	{
		kind:        LogNotSyncing,
		description: "The log answers before what it was given is on disk.",
		rule:        Rule{Severity: Critical, Repeat: day},
		fires:       "log.not_syncing", ends: "log.syncing", cluster: true,
	},
	{
		kind:        HistoryLag,
		description: "The history of a partition is so many records behind its log.",
		rule:        Rule{Severity: Warning, Threshold: 10_000, For: 5 * time.Minute, Repeat: repeatOften},
		fires:       "history.lagging", ends: "history.caught_up", cluster: true, hasThreshold: true,
	},
	{
		kind:        LeaseMargin,
		description: "Of a coordinator's lease less than this share was left before it was renewed.",
		rule:        Rule{Severity: Warning, Threshold: 0.25, For: 30 * time.Second, Repeat: repeatOften},
		fires:       "lease.thin", ends: "lease.resolved", cluster: true, hasThreshold: true, share: true,
	},
	{
		kind:        ControlPlaneLost,
		description: "A coordinator cannot reach etcd: it serves on, but nothing moves, and what dies is not replaced.",
		rule:        Rule{Severity: Critical, For: 30 * time.Second, Repeat: repeatOften},
		fires:       "control_plane.lost", ends: "control_plane.found", cluster: true,
	},
}

// definitionOf returns what there is to know of a kind, or nil.
func definitionOf(kind Kind) *definition {
	i := slices.IndexFunc(definitions, func(d definition) bool { return d.kind == kind })
	if i < 0 {
		return nil
	}
	return &definitions[i]
}

// Kinds returns the kinds of what can be wrong with subscriptions and, if asked
// for, with the cluster.
func Kinds(cluster bool) []Kind {
	var all []Kind
	for _, d := range definitions {
		if d.tenants || cluster {
			all = append(all, d.kind)
		}
	}
	return all
}

// EventType returns the type of the event that says that an alert of a kind
// fires, or is resolved.
func (k Kind) EventType(firing bool) string {
	d := definitionOf(k)
	switch {
	case d == nil && firing:
		return "fanfare.alert.firing" // of a newer coordinator
	case d == nil:
		return "fanfare.alert.resolved"
	case firing:
		return "fanfare." + d.fires
	default:
		return "fanfare." + d.ends
	}
}

// Description says what fires, in words.
func (k Kind) Description() string {
	if d := definitionOf(k); d != nil {
		return d.description
	}
	return ""
}

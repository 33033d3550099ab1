package lead

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// alertInterval is how often alerts are fired and resolved: what comes
	// within it is told together.
	alertInterval = 5 * time.Second
	// alertsPerRecord is how many changes of alerts one record has at most.
	alertsPerRecord = 500
	// alertLookups is of how many alerts that fire together the event is looked
	// up, and alertLookup how long that may take.
	alertLookups = 20
	alertLookup  = time.Second
	// maxRecorded is how many alerts others may have kept in a partition.
	maxRecorded = 4096

	alertTarget = "alerts"
)

// ErrTooManyAlerts says that a partition keeps as many alerts of others as it
// will.
var ErrTooManyAlerts = errors.New("too many alerts are kept")

// Told is who is told of alerts. Its methods return at once.
type Told interface {
	// Tell tells what has happened. source names where, as `partitions/3`.
	Tell(source string, what alert.Notification)
	// Remind says which alerts of a source fire though nobody need be told
	// again: of those who were told some must be reminded.
	Remind(source string, firing []*fanfarev1.Alert)
	// Forget takes that another looks after a source from here on.
	Forget(source string)
}

// nobody is told.
type nobody struct{}

func (nobody) Tell(string, alert.Notification)   {}
func (nobody) Remind(string, []*fanfarev1.Alert) {}
func (nobody) Forget(string)                     {}

// alerter makes alerts of what the lookout has seen: it keeps them in the log,
// and tells who is to be told. One goroutine.
type alerter struct {
	leader *Leader
	board  *alert.Board
}

func (a *alerter) source() string { return fmt.Sprintf("partitions/%d", a.leader.config.Partition) }

func (a *alerter) run(ctx context.Context) error {
	select {
	case <-a.leader.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := a.restore(ctx); err != nil { // it no longer leads, or ctx has ended
		<-ctx.Done()
		return ctx.Err()
	}
	defer a.leader.config.Told.Forget(a.source())
	ticker := time.NewTicker(alertInterval)
	defer ticker.Stop()
	ticking := true
	for {
		if idle := a.board.Idle(); idle == ticking {
			ticking = !idle
			if ticking {
				ticker.Reset(alertInterval)
			} else {
				ticker.Stop()
			}
		}
		select {
		case <-a.leader.inbox.filled:
			now := time.Now()
			for _, condition := range a.leader.inbox.take() {
				a.board.Take(now, condition)
			}
		case <-ticker.C:
			a.advance(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// restore goes on with the alerts that the leader before has left.
func (a *alerter) restore(ctx context.Context) error {
	kept := make(map[string]*linkv1.StoredAlert)
	err := a.leader.Query(ctx, func(l *ledger.Ledger) {
		for _, id := range l.Alerts() {
			if stored := l.Alert(id); stored.GetSource() == "" {
				kept[id] = stored
			}
		}
	})
	if err != nil {
		return err
	}
	now := time.Now()
	var firing []*fanfarev1.Alert
	for _, id := range slices.Sorted(maps.Keys(kept)) {
		stored := kept[id]
		a.board.Restore(now, stored.GetTenant(), stored.GetAlert(), stored.GetTold())
		if stored.GetTold() && stored.GetAlert().GetState() == fanfarev1.Alert_FIRING {
			firing = append(firing, a.leader.ShowAlert(id, stored))
		}
	}
	a.leader.config.Told.Remind(a.source(), firing)
	return nil
}

// advance fires, repeats and resolves what it is time for.
func (a *alerter) advance(ctx context.Context) {
	changes := a.board.Advance(time.Now())
	if left := a.board.Left(); left > 0 {
		a.leader.logger.Warn("there are more alerts than are followed: the others are left out", "limit", alert.DefaultLimit, "left_out", left)
	}
	if len(changes) == 0 {
		return
	}
	a.complete(ctx, changes)
	if !a.keep(ctx, changes) {
		return // the next leader goes on
	}
	for _, what := range alert.Group(changes, a.leader.config.AlertLink) {
		a.leader.config.Told.Tell(a.source(), what)
	}
	var told []alert.Change
	for _, change := range changes {
		a.count(ctx, change)
		if change.Tell {
			told = append(told, a.board.Told(time.Now(), change))
		}
	}
	a.keep(ctx, told)
}

// complete finds the events that could not be delivered, of some of the alerts
// that fire.
func (a *alerter) complete(ctx context.Context, changes []alert.Change) {
	ctx, cancel := context.WithTimeout(ctx, alertLookup)
	defer cancel()
	left := alertLookups
	for _, change := range changes {
		key, err := history.ParseDeliveryID(change.Delivery)
		if change.Delivery == "" || err != nil || left == 0 {
			continue
		}
		left--
		// It may be gone, or the history away: the alert does without.
		if delivery, err := a.leader.config.History.Delivery(ctx, change.Tenant, key); err == nil {
			change.Alert.Event, change.Alert.TraceId = delivery.GetEvent(), delivery.GetTraceId()
		}
	}
}

// keep makes changes durable, and reports whether this leader should go on: it
// does so without a log that takes nothing just now, since what is wrong is
// better told twice than not at all.
func (a *alerter) keep(ctx context.Context, changes []alert.Change) bool {
	var kept []*linkv1.AlertChange
	for _, change := range changes {
		switch {
		case change.Kept:
		case change.Alert == nil:
			kept = append(kept, &linkv1.AlertChange{Id: change.ID})
		default:
			kept = append(kept, &linkv1.AlertChange{
				Id:    change.ID,
				Put:   &linkv1.StoredAlert{Tenant: change.Tenant, Alert: change.Alert, Told: change.Told},
				Quiet: change.Told && change.Transition != alert.Repeats && change.Alert.GetNotifyTime() != nil,
			})
		}
	}
	for chunk := range slices.Chunk(kept, alertsPerRecord) {
		err := a.leader.changeAlerts(ctx, chunk)
		if errors.Is(err, ErrNotLeading) || ctx.Err() != nil {
			return false
		}
		if err != nil {
			a.leader.logger.Warn("keeping alerts: they are told all the same", "error", err)
		}
	}
	return true
}

// changeAlerts makes changes of alerts durable, and shows them to who watches.
func (l *Leader) changeAlerts(ctx context.Context, changes []*linkv1.AlertChange) error {
	err := l.Change(ctx, alertTarget, func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		record.Alerts = append(record.Alerts, changes...)
		return nil
	})
	if err != nil {
		return err
	}
	for _, change := range changes {
		if change.GetPut() != nil && !change.GetQuiet() {
			l.alertWatchers.publish(l.ShowAlert(change.GetId(), change.GetPut()))
		}
	}
	return nil
}

// RecordAlerts keeps alerts that another looks after, and returns all that it
// does: for the assigner, `cluster`, those of everybody but the leader itself.
func (l *Leader) RecordAlerts(ctx context.Context, source string, changes []*linkv1.AlertChange) ([]*linkv1.AlertChange, error) {
	var kept []*linkv1.AlertChange
	err := l.Query(ctx, func(state *ledger.Ledger) {
		for _, id := range state.Alerts() {
			if stored := state.Alert(id); stored.GetSource() == source || stored.GetSource() != "" && source == ClusterSource {
				kept = append(kept, &linkv1.AlertChange{Id: id, Put: stored})
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if len(kept)+len(changes) > maxRecorded {
		return nil, ErrTooManyAlerts
	}
	for chunk := range slices.Chunk(changes, alertsPerRecord) {
		if err := l.changeAlerts(ctx, chunk); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// ClusterSource is the source of what the assigner sees.
const ClusterSource = "cluster"

// ShowAlert returns an alert as clients see it.
func (l *Leader) ShowAlert(id string, stored *linkv1.StoredAlert) *fanfarev1.Alert {
	return alert.Show(stored.GetTenant(), id, stored.GetAlert(), l.config.AlertLink)
}

// alerting is what a leader has for alerts.
type alerting struct {
	inbox         *inbox // from the lookout to the alerter
	alertWatchers *alertWatchers
	alerts        metric.Int64Counter // counts what has happened to them
}

func newAlerting(meter metric.Meter) (alerting, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	counter, err := meter.Int64Counter("fanfare.alerts",
		metric.WithDescription("Alerts that fired, were said again, or were resolved, by kind."), metric.WithUnit("{alert}"))
	if err != nil {
		return alerting{}, fmt.Errorf("making an instrument: %w", err)
	}
	return alerting{inbox: newInbox(), alertWatchers: newAlertWatchers(), alerts: counter}, nil
}

// count counts what has happened to an alert.
func (a *alerter) count(ctx context.Context, change alert.Change) {
	if change.Alert == nil {
		return
	}
	a.leader.alerts.Add(ctx, 1, metric.WithAttributes(
		attribute.String("fanfare.alert.kind", change.Alert.GetKind()),
		attribute.String("fanfare.alert.change", change.Transition.String())))
}

// WatchAlerts begins to watch a tenant's alerts: no change from now on is
// missed. An empty subscription name stands for all. End must be called.
func (l *Leader) WatchAlerts(tenant ledger.TenantID, subscription string) (*AlertWatcher, error) {
	prefix := "tenants/" + string(tenant) + "/"
	w := &AlertWatcher{
		of: l.alertWatchers, alerts: make(chan *fanfarev1.Alert, alertWatchBuffer),
		wants: func(a *fanfarev1.Alert) bool {
			return strings.HasPrefix(a.GetName(), prefix) && (subscription == "" || a.GetSubscription() == subscription)
		},
	}
	if !l.alertWatchers.add(w) {
		return nil, ErrNotLeading
	}
	return w, nil
}

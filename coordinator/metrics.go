package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
)

// measureTimeout bounds how long whoever looks at the metrics waits for the
// leaders; one that has not answered is left out.
const measureTimeout = 2 * time.Second

// coordinatorMetrics is what is asked of a coordinator when somebody looks, and
// what the assigner counts.
type coordinatorMetrics struct {
	halted        metric.Int64ObservableGauge
	led           metric.Int64ObservableGauge
	backlog       metric.Int64ObservableGauge
	backlogSize   metric.Int64ObservableGauge
	backlogAge    metric.Float64ObservableGauge
	logSize       metric.Int64ObservableGauge
	subscriptions metric.Int64ObservableGauge
	behind        metric.Int64ObservableGauge
	breakers      metric.Int64ObservableGauge
	inHand        metric.Int64ObservableGauge
	sessions      metric.Int64ObservableGauge
	historyLag    metric.Int64ObservableGauge
	pending       metric.Int64ObservableGauge
	pendingLimit  metric.Int64ObservableGauge
	margin        metric.Float64ObservableGauge
	moved         metric.Int64Counter
}

func newMetrics(meter metric.Meter) (*coordinatorMetrics, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	m := new(coordinatorMetrics)
	var errs [16]error
	m.halted, errs[0] = meter.Int64ObservableGauge("fanfare.partitions.halted",
		metric.WithDescription("Partitions that are not served because of what their log holds."), metric.WithUnit("{partition}"))
	m.led, errs[1] = meter.Int64ObservableGauge("fanfare.partitions.led",
		metric.WithDescription("Partitions that are led here."), metric.WithUnit("{partition}"))
	m.backlog, errs[2] = meter.Int64ObservableGauge("fanfare.backlog.deliveries",
		metric.WithDescription("Deliveries that are owed, without those of subscriptions that are behind."), metric.WithUnit("{delivery}"))
	m.backlogSize, errs[3] = meter.Int64ObservableGauge("fanfare.backlog.size",
		metric.WithDescription("About how much of the log there is from the oldest record that something is owed of."), metric.WithUnit("By"))
	m.backlogAge, errs[4] = meter.Float64ObservableGauge("fanfare.backlog.age",
		metric.WithDescription("How long ago the oldest delivery that is owed began to be."), metric.WithUnit("s"))
	m.logSize, errs[5] = meter.Int64ObservableGauge("fanfare.log.size",
		metric.WithDescription("Size of the log."), metric.WithUnit("By"))
	m.subscriptions, errs[6] = meter.Int64ObservableGauge("fanfare.subscriptions",
		metric.WithDescription("Subscriptions there are."), metric.WithUnit("{subscription}"))
	m.behind, errs[7] = meter.Int64ObservableGauge("fanfare.subscriptions.behind",
		metric.WithDescription("Subscriptions that are caught up from the log, paused and disabled ones included."), metric.WithUnit("{subscription}"))
	m.breakers, errs[8] = meter.Int64ObservableGauge("fanfare.breakers.open",
		metric.WithDescription("Subscriptions whose breaker is open."), metric.WithUnit("{subscription}"))
	m.inHand, errs[9] = meter.Int64ObservableGauge("fanfare.dispatch.in_hand",
		metric.WithDescription("Deliveries in the hands of workers."), metric.WithUnit("{delivery}"))
	m.sessions, errs[10] = meter.Int64ObservableGauge("fanfare.workers.attached",
		metric.WithDescription("Workers that are attached."), metric.WithUnit("{worker}"))
	m.historyLag, errs[11] = meter.Int64ObservableGauge("fanfare.history.lag",
		metric.WithDescription("Records of the log that the history lacks."), metric.WithUnit("{record}"))
	m.pending, errs[12] = meter.Int64ObservableGauge("fanfare.publish.pending",
		metric.WithDescription("Size of the events that wait to be written."), metric.WithUnit("By"))
	m.pendingLimit, errs[13] = meter.Int64ObservableGauge("fanfare.publish.pending.limit",
		metric.WithDescription("From which size on a request to publish waits."), metric.WithUnit("By"))
	m.margin, errs[14] = meter.Float64ObservableGauge("fanfare.lease.margin",
		metric.WithDescription("How long the member's lease is certain yet; negative: it is in doubt."), metric.WithUnit("s"))
	m.moved, errs[15] = meter.Int64Counter("fanfare.shards.moved",
		metric.WithDescription("Shards that were given to a worker."), metric.WithUnit("{shard}"))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making instruments: %w", err)
	}
	return m, nil
}

// observables returns what observe is asked for.
func (m *coordinatorMetrics) observables() []metric.Observable {
	return []metric.Observable{
		m.halted, m.led, m.backlog, m.backlogSize, m.backlogAge, m.logSize, m.subscriptions, m.behind, m.breakers,
		m.inHand, m.sessions, m.historyLag, m.pending, m.pendingLimit, m.margin,
	}
}

// startMeasuring has the coordinator measured until stop is called.
func (c *Coordinator) startMeasuring() (stop func() error, err error) {
	if c.metrics, err = newMetrics(c.config.Meter); err != nil {
		return nil, err
	}
	if c.tenants, err = lead.NewTenantMetrics(c.config.Meter, c.config.TenantMetrics); err != nil {
		return nil, err
	}
	if c.config.Meter == nil {
		return func() error { return nil }, nil
	}
	registration, err := c.config.Meter.RegisterCallback(c.observe, c.metrics.observables()...)
	if err != nil {
		return nil, fmt.Errorf("registering instruments: %w", err)
	}
	return registration.Unregister, nil
}

// observe asks everything led here how it is doing, all at once.
func (c *Coordinator) observe(ctx context.Context, o metric.Observer) error {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	c.mu.Lock()
	leaders, life := maps.Clone(c.leaders), c.life
	c.mu.Unlock()
	o.ObserveInt64(c.metrics.halted, int64(len(c.HaltedPartitions())))
	o.ObserveInt64(c.metrics.led, int64(len(leaders)))
	if life != nil {
		o.ObserveFloat64(c.metrics.margin, life.Margin().Seconds(), metric.WithAttributes(attribute.String("fanfare.member", string(life.ID()))))
	}
	var asking sync.WaitGroup
	for partition, leader := range leaders {
		asking.Go(func() {
			if g, err := leader.Gauges(ctx); err == nil { // else it leads no more
				c.metrics.observe(o, partition, g)
			}
		})
	}
	asking.Wait()
	return nil
}

func (m *coordinatorMetrics) observe(o metric.Observer, partition int, g lead.Gauges) {
	in := metric.WithAttributeSet(attribute.NewSet(attribute.Int("fanfare.partition", partition)))
	for gauge, value := range map[metric.Int64Observable]int64{
		m.backlog:       int64(g.Outstanding),
		m.backlogSize:   int64(g.OwedBytes), //nolint:gosec // no log is so long
		m.logSize:       int64(g.LogBytes),  //nolint:gosec // likewise
		m.subscriptions: int64(g.Subscriptions),
		m.behind:        int64(g.Behind),
		m.breakers:      int64(g.OpenBreakers),
		m.inHand:        int64(g.InHand),
		m.sessions:      int64(g.Sessions),
		m.historyLag:    int64(g.HistoryLag), //nolint:gosec // likewise
		m.pending:       g.PendingBytes,
		m.pendingLimit:  g.PendingLimit,
	} {
		o.ObserveInt64(gauge, value, in)
	}
	o.ObserveFloat64(m.backlogAge, g.OldestAge.Seconds(), in)
}

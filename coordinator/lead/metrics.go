package lead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// metrics counts what a leader commits, by partition.
type metrics struct {
	partition  attribute.KeyValue
	in         metric.MeasurementOption // the partition; made once
	events     metric.Int64Counter
	deliveries metric.Int64Counter
	attempts   metric.Int64Counter
	block      metric.Int64Histogram
	appended   metric.Float64Histogram
	folded     metric.Float64Histogram
	snapshot   metric.Float64Histogram
	dispatch   metric.Float64Histogram
	tenants    *TenantMetrics // nil: tenants are not counted each
}

func newMetrics(config Config) (*metrics, error) {
	meter := config.Meter
	if meter == nil {
		meter = noop.Meter{}
	}
	m := &metrics{partition: attribute.Int("fanfare.partition", config.Partition), tenants: config.TenantMetrics}
	m.in = metric.WithAttributeSet(attribute.NewSet(m.partition))
	var errs [8]error
	m.events, errs[0] = meter.Int64Counter("fanfare.events.published",
		metric.WithDescription("Events made durable."), metric.WithUnit("{event}"))
	m.deliveries, errs[1] = meter.Int64Counter("fanfare.deliveries",
		metric.WithDescription("Deliveries that began to be owed or ended, by state."), metric.WithUnit("{delivery}"))
	m.attempts, errs[2] = meter.Int64Counter("fanfare.attempts",
		metric.WithDescription("Attempts whose outcome became durable, by error class."), metric.WithUnit("{attempt}"))
	m.block, errs[3] = meter.Int64Histogram("fanfare.log.block.size",
		metric.WithDescription("Size of the records appended to the log."), metric.WithUnit("By"),
		metric.WithExplicitBucketBoundaries(256, 1<<10, 4<<10, 16<<10, 64<<10, 128<<10, 256<<10, 512<<10, 1<<20))
	m.appended, errs[4] = meter.Float64Histogram("fanfare.log.append.duration",
		metric.WithDescription("How long the log takes to make a record durable, its sync included."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	m.folded, errs[5] = meter.Float64Histogram("fanfare.log.fold.duration",
		metric.WithDescription("How long a record takes to be folded into the ledger."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.00001, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1))
	m.snapshot, errs[6] = meter.Float64Histogram("fanfare.snapshot.duration",
		metric.WithDescription("How long a snapshot of the ledger takes to be made and saved."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	m.dispatch, errs[7] = meter.Float64Histogram("fanfare.dispatch.duration",
		metric.WithDescription("From when an event became durable until it was handed to a worker for the first attempt."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600, 86400))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making instruments: %w", err)
	}
	return m, nil
}

// committed counts a block that is in the log.
func (m *metrics) committed(ctx context.Context, b *block, result ledger.Result) {
	m.block.Record(ctx, int64(len(b.data)), m.in)
	m.events.Add(ctx, int64(len(b.events)), m.in)
	states := make(map[string]int64)
	classes := make(map[string]int64)
	for _, d := range result.Deliveries {
		if d.Kind != ledger.Retried && d.Kind != ledger.Rescheduled {
			states[stateOf(d.Kind).String()]++
		}
		if d.Outcome != nil {
			classes[d.Outcome.GetErrorClass()]++
		}
	}
	for state, n := range states {
		m.deliveries.Add(ctx, n, metric.WithAttributes(m.partition, attribute.String("fanfare.delivery.state", state)))
	}
	for class, n := range classes {
		m.attempts.Add(ctx, n, metric.WithAttributes(m.partition, attribute.String("error.type", class)))
	}
	m.tenants.committed(ctx, b, result)
}

// dispatched takes note of an event that goes to a worker.
func (m *metrics) dispatched(ctx context.Context, d *linkv1.Dispatch) {
	if d.GetTargets()[0].GetAttempt() == 1 {
		m.dispatch.Record(ctx, max(0, time.Since(time.UnixMilli(d.GetPublishTimeUnixMs())).Seconds()), m.in)
	}
}

// took takes note of how long something took that began at a time.
func (m *metrics) took(ctx context.Context, what metric.Float64Histogram, begin time.Time) {
	what.Record(ctx, time.Since(begin).Seconds(), m.in)
}

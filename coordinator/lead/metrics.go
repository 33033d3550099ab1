package lead

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// metrics counts what a leader commits, by partition.
type metrics struct {
	partition  attribute.KeyValue
	events     metric.Int64Counter
	deliveries metric.Int64Counter
	attempts   metric.Int64Counter
	block      metric.Int64Histogram
}

func newMetrics(meter metric.Meter, partition int) (*metrics, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	m := &metrics{partition: attribute.Int("fanfare.partition", partition)}
	var errs [4]error
	m.events, errs[0] = meter.Int64Counter("fanfare.events.published",
		metric.WithDescription("Events made durable."), metric.WithUnit("{event}"))
	m.deliveries, errs[1] = meter.Int64Counter("fanfare.deliveries",
		metric.WithDescription("Deliveries that began to be owed or ended, by state."), metric.WithUnit("{delivery}"))
	m.attempts, errs[2] = meter.Int64Counter("fanfare.attempts",
		metric.WithDescription("Attempts whose outcome became durable, by error class."), metric.WithUnit("{attempt}"))
	m.block, errs[3] = meter.Int64Histogram("fanfare.log.block.size",
		metric.WithDescription("Size of the records appended to the log."), metric.WithUnit("By"),
		metric.WithExplicitBucketBoundaries(256, 1<<10, 4<<10, 16<<10, 64<<10, 128<<10, 256<<10, 512<<10, 1<<20))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("making an instrument: %w", err)
		}
	}
	return m, nil
}

// committed counts a block that is in the log.
func (m *metrics) committed(ctx context.Context, b *block, result ledger.Result) {
	in := metric.WithAttributeSet(attribute.NewSet(m.partition))
	m.block.Record(ctx, int64(len(b.data)), in)
	m.events.Add(ctx, int64(len(b.events)), in)
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
}

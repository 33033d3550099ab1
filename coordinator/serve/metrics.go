package serve

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"google.golang.org/grpc/status"
)

// serveMetrics measures what clients ask for.
type serveMetrics struct {
	publish metric.Float64Histogram
	refused metric.Int64Counter
}

func newMetrics(meter metric.Meter) *serveMetrics {
	m := new(serveMetrics)
	var errs [2]error
	m.publish, errs[0] = meter.Float64Histogram("fanfare.publish.duration",
		metric.WithDescription("From a request to publish until its events are durable and acknowledged."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	m.refused, errs[1] = meter.Int64Counter("fanfare.events.refused",
		metric.WithDescription("Events of requests that were not acknowledged, by the gRPC code of the answer."), metric.WithUnit("{event}"))
	for _, err := range errs {
		if err != nil {
			otel.Handle(err) // of a name that cannot be; the instrument works all the same
		}
	}
	return m
}

// published takes note of the end of a request to publish events.
func (m *serveMetrics) published(ctx context.Context, events int, begin time.Time, err error) {
	if err == nil {
		m.publish.Record(ctx, time.Since(begin).Seconds())
		return
	}
	m.refused.Add(ctx, int64(events), metric.WithAttributeSet(attribute.NewSet(errorType(err))))
}

// errorType names what an error is to a client.
func errorType(err error) attribute.KeyValue {
	return semconv.ErrorTypeKey.String(snake(status.Code(statusOf(err)).String()))
}

// snake turns InvalidArgument into invalid_argument.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

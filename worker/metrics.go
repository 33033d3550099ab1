package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// attemptMetrics measures attempts. nil measures nothing.
type attemptMetrics struct {
	duration metric.Float64Histogram
	endToEnd metric.Float64Histogram
	success  metric.RecordOption // of duration; made once, since most are
}

func newAttemptMetrics(meter metric.Meter) (*attemptMetrics, error) {
	m := &attemptMetrics{success: outcomeOption("delivered")}
	var errs [2]error
	m.duration, errs[0] = meter.Float64Histogram("fanfare.attempt.duration",
		metric.WithDescription("How long attempts take, by what came of them."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30))
	m.endToEnd, errs[1] = meter.Float64Histogram("fanfare.delivery.duration",
		metric.WithDescription("From when an event became durable until an endpoint took it, by the worker's clock."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making metrics: %w", err)
	}
	return m, nil
}

func outcomeOption(outcome string) metric.RecordOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", outcome)))
}

// attempted takes note of a request.
func (m *attemptMetrics) attempted(ctx context.Context, met *answer, took time.Duration) {
	if met.class == egress.ClassNone {
		m.duration.Record(ctx, took.Seconds(), m.success)
		return
	}
	m.duration.Record(ctx, took.Seconds(), outcomeOption(string(met.class)))
}

// delivered takes note of a delivery that has succeeded.
func (m *attemptMetrics) delivered(ctx context.Context, d *delivery, at time.Time) {
	m.endToEnd.Record(ctx, max(0, at.Sub(time.UnixMilli(d.message.published)).Seconds()))
}

// workerGauges is what is asked of a worker when somebody looks.
type workerGauges struct {
	inHand, requests, limit, endpoints, window metric.Int64ObservableGauge
	margin                                     metric.Float64ObservableGauge
}

func newWorkerGauges(meter metric.Meter) (*workerGauges, error) {
	g := new(workerGauges)
	var errs [6]error
	g.inHand, errs[0] = meter.Int64ObservableGauge("fanfare.worker.in_hand",
		metric.WithDescription("Deliveries that are queued, on the wire, or have an outcome that is not durable yet."), metric.WithUnit("{delivery}"))
	g.requests, errs[1] = meter.Int64ObservableGauge("fanfare.worker.requests",
		metric.WithDescription("Requests on the wire."), metric.WithUnit("{request}"))
	g.limit, errs[2] = meter.Int64ObservableGauge("fanfare.worker.requests.limit",
		metric.WithDescription("How many requests may be on the wire."), metric.WithUnit("{request}"))
	g.endpoints, errs[3] = meter.Int64ObservableGauge("fanfare.worker.endpoints",
		metric.WithDescription("Endpoints of the worker's shards."), metric.WithUnit("{endpoint}"))
	g.window, errs[4] = meter.Int64ObservableGauge("fanfare.worker.window",
		metric.WithDescription("The windows of all endpoints together: how many requests they could have on the wire if there was room."),
		metric.WithUnit("{request}"))
	g.margin, errs[5] = meter.Float64ObservableGauge("fanfare.lease.margin",
		metric.WithDescription("How long the member's lease is certain yet; negative: it is in doubt."), metric.WithUnit("s"))
	return g, errors.Join(errs[:]...)
}

// measure makes the worker's metrics.
func (r *run) measure(attempter *attempter) error {
	meter := r.config.MeterProvider.Meter("github.com/fanfare-dev/fanfare/worker")
	var err error
	if attempter.metrics, err = newAttemptMetrics(meter); err != nil {
		return err
	}
	g, err := newWorkerGauges(meter)
	if err != nil {
		return err
	}
	who := metric.WithAttributeSet(attribute.NewSet(attribute.String("fanfare.member", string(r.config.ID))))
	r.gauge, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		count, _ := r.unsettled()
		requests, endpoints, window := r.launcher.extent()
		o.ObserveInt64(g.inHand, int64(count), who)
		o.ObserveInt64(g.requests, int64(requests), who)
		o.ObserveInt64(g.limit, int64(r.config.MaxRequests), who)
		o.ObserveInt64(g.endpoints, int64(endpoints), who)
		o.ObserveInt64(g.window, int64(window), who)
		if m := r.member.Load(); m != nil {
			o.ObserveFloat64(g.margin, m.Margin().Seconds(), who)
		}
		return nil
	}, g.inHand, g.requests, g.limit, g.endpoints, g.window, g.margin)
	return err
}

// enter notes that the worker is a member now.
func (r *run) enter(m *cluster.Member) {
	r.member.Store(m)
	r.launcher.trust(m.Alive)
}

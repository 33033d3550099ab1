package server

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/fanfare-dev/fanfare/internal/hooks/command"
)

// measured is what a server counts.
type measured struct {
	requests metric.Int64Counter
	commands metric.Float64Histogram
}

func newMeasured(meter metric.Meter, s *Server) (*measured, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	requests, err1 := meter.Int64Counter("fanfare.hooks.requests",
		metric.WithDescription("Requests answered, by hook and status."), metric.WithUnit("{request}"))
	commands, err2 := meter.Float64Histogram("fanfare.hooks.command.duration",
		metric.WithDescription("How long commands ran, by hook and how they ended."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 1800))
	_, err3 := meter.Int64ObservableGauge("fanfare.hooks.commands.running",
		metric.WithDescription("Commands that run."), metric.WithUnit("{command}"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(len(s.slots)))
			return nil
		}))
	_, err4 := meter.Int64ObservableGauge("fanfare.hooks.commands.accepted",
		metric.WithDescription("Commands that run or wait."), metric.WithUnit("{command}"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			o.Observe(int64(s.pending))
			return nil
		}))
	_, err5 := meter.Int64ObservableGauge("fanfare.hooks.bodies",
		metric.WithDescription("Memory that the bodies of requests may still take."), metric.WithUnit("By"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			s.bodies.mu.Lock()
			defer s.bodies.mu.Unlock()
			o.Observe(s.bodies.free)
			return nil
		}))
	_, err6 := meter.Int64ObservableGauge("fanfare.hooks.loaded",
		metric.WithDescription("Hooks that are served."), metric.WithUnit("{hook}"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(s.config.Library.Len()))
			return nil
		}))
	return &measured{requests: requests, commands: commands}, errors.Join(err1, err2, err3, err4, err5, err6)
}

// answered counts a request. Those to no hook have no name: it is the
// client's, and there is no end of them.
func (m *measured) answered(h *hook, status int) {
	id := ""
	if h != nil {
		id = h.spec.ID
	}
	m.requests.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("hook", id), attribute.Int("status", status)))
}

// ran counts a command.
func (m *measured) ran(h *hook, result command.Result, took time.Duration) {
	outcome := "ok"
	switch {
	case errors.Is(result.Err, command.ErrTimeout):
		outcome = "timeout"
	case errors.Is(result.Err, command.ErrShutdown):
		outcome = "shutdown"
	case !result.Started:
		outcome = "not started"
	case result.Err != nil:
		outcome = "failed"
	}
	m.commands.Record(context.Background(), took.Seconds(), metric.WithAttributes(
		attribute.String("hook", h.spec.ID), attribute.String("outcome", outcome)))
}

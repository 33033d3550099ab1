package notify

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// QueueLimit is how many notifications wait for a sink.
	QueueLimit = 256
	// SendTimeout bounds passing one on.
	SendTimeout = 10 * time.Second
	// GiveUp is for how long a notification is tried again.
	GiveUp = time.Hour
	// firstRetry is the wait after the first failure; it doubles up to
	// longestRetry.
	firstRetry   = time.Second
	longestRetry = time.Minute
)

// Config is what listeners have in common.
type Config struct {
	Logger *slog.Logger
	Meter  metric.Meter // nil: nothing is counted
}

// counter counts notifications by sink and what became of them.
func (c Config) counter() (metric.Int64Counter, error) {
	if c.Meter == nil {
		c.Meter = noop.Meter{}
	}
	counter, err := c.Meter.Int64Counter("fanfare.alert.notifications",
		metric.WithDescription("Notifications of alerts, by sink and result: sent, failed (and tried again), dropped."),
		metric.WithUnit("{notification}"))
	if err != nil {
		return nil, fmt.Errorf("making an instrument: %w", err)
	}
	return counter, nil
}

// Queue is a Listener that passes notifications on to a sink, in order.
type Queue struct {
	sink   Sink
	logger *slog.Logger
	count  metric.Int64Counter
	filled chan struct{} // capacity 1: something waits

	mu      sync.Mutex
	waiting []waiting // guarded by mu; oldest first
}

// waiting is a notification that was not passed on yet.
type waiting struct {
	what  alert.Notification
	since time.Time
}

// NewQueue returns a listener that passes notifications on to a sink.
func NewQueue(sink Sink, config Config) (*Queue, error) {
	count, err := config.counter()
	if err != nil {
		return nil, err
	}
	return &Queue{sink: sink, logger: config.Logger.With("sink", sink.Name()), count: count, filled: make(chan struct{}, 1)}, nil
}

// Tell implements Listener.
func (q *Queue) Tell(_ string, what alert.Notification) {
	q.mu.Lock()
	q.waiting = append(q.waiting, waiting{what, time.Now()})
	dropped := len(q.waiting) > QueueLimit
	if dropped {
		q.waiting = q.waiting[1:]
	}
	q.mu.Unlock()
	if dropped {
		q.counted(context.Background(), "dropped")
	}
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// Remind implements Listener. Whoever was told once has been told.
func (q *Queue) Remind(string, []*fanfarev1.Alert) {}

// Forget implements Listener. What was to be told still is.
func (q *Queue) Forget(string) {}

// Run implements Listener.
func (q *Queue) Run(ctx context.Context) error {
	for {
		next, ok := q.next()
		if !ok {
			select {
			case <-q.filled:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := q.pass(ctx, next); err != nil {
			return err
		}
	}
}

func (q *Queue) next() (waiting, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return waiting{}, false
	}
	next := q.waiting[0]
	q.waiting = q.waiting[1:]
	return next, true
}

// pass passes a notification on, however often it takes. It returns an error
// only when ctx ends.
func (q *Queue) pass(ctx context.Context, next waiting) error {
	for wait := firstRetry; ; wait = min(2*wait, longestRetry) {
		sending, cancel := context.WithTimeout(ctx, SendTimeout)
		err := q.sink.Send(sending, next.what)
		cancel()
		switch {
		case err == nil:
			q.counted(ctx, "sent")
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case isPermanent(err), time.Since(next.since) > GiveUp:
			q.counted(ctx, "dropped")
			q.logger.Error("alerts could not be told", "group", next.what.Group, "alerts", len(next.what.Alerts), "error", err)
			return nil
		}
		q.counted(ctx, "failed")
		if wait == firstRetry {
			q.logger.Warn("alerts could not be told yet", "group", next.what.Group, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *Queue) counted(ctx context.Context, result string) {
	q.count.Add(ctx, 1, metric.WithAttributes(
		attribute.String("fanfare.alert.sink", q.sink.Name()), attribute.String("fanfare.alert.result", result)))
}

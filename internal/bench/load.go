package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// publishPause is the wait before a Publish is made again that was not
	// answered, or refused for want of space.
	publishPause = 100 * time.Millisecond
	// look is how often it is looked whether all has arrived.
	look = 10 * time.Millisecond
	// lateness is how long after the last arrival duplicates are waited for.
	lateness = 300 * time.Millisecond
)

// load publishes the events of one phase and waits until they have arrived.
type load struct {
	config    Config
	phase     *phase
	events    fanfarev1.EventServiceClient
	eventType string
	tenants   []string // resource names
	data      []byte   // of each event
	next      atomic.Int64
	published atomic.Int64
	refused   atomic.Int64 // calls that were made again
}

// result is what a phase came to.
type result struct {
	began     time.Time
	publishes time.Duration // until the last Publish was answered
	took      time.Duration // until the last arrival
}

// run returns when all has arrived, or nothing has for too long.
func (l *load) run(ctx context.Context, tell func(done int)) (result, error) {
	began := time.Now()
	l.phase.last.Store(began.UnixNano())
	watching, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for range l.config.Publishers {
		group.Go(func() error { return l.publish(ctx, began) })
	}
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		l.watch(watching, tell)
	}()
	if err := group.Wait(); err != nil {
		stop()
		<-arrived
		return result{}, err
	}
	r := result{began: began, publishes: time.Since(began)}
	<-arrived
	r.took = time.Unix(0, l.phase.last.Load()).Sub(began)
	return r, watching.Err()
}

// watch returns when all has arrived, or nothing has for Patience.
func (l *load) watch(ctx context.Context, tell func(done int)) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		done, last := int(l.phase.arrivals.Load()), time.Unix(0, l.phase.last.Load())
		tell(done)
		all := done == l.phase.owed() && time.Since(last) > lateness
		if all || int(l.published.Load()) == l.phase.events && time.Since(last) > l.config.Patience {
			return
		}
	}
}

// publish publishes one batch after the other, until none is left.
func (l *load) publish(ctx context.Context, began time.Time) error {
	for {
		batch := int(l.next.Add(1) - 1)
		first := batch * l.config.Batch
		if first >= l.phase.events {
			return nil
		}
		due, err := l.await(ctx, began, first)
		if err != nil {
			return err
		}
		request := &fanfarev1.PublishRequest{Parent: l.tenants[l.phase.tenantOf(batch)]}
		for event := first; event < min(first+l.config.Batch, l.phase.events); event++ {
			l.phase.due[event].Store(due.UnixNano())
			request.Events = append(request.Events, &fanfarev1.Event{
				Id: l.phase.id(event), Type: l.eventType, Data: l.data,
			})
		}
		if err := l.insist(ctx, request); err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		l.phase.acks[batch].Store(micros(time.Since(due)))
		l.published.Add(int64(len(request.GetEvents())))
	}
}

// await waits until an event is due to be published, and returns when it was.
func (l *load) await(ctx context.Context, began time.Time, event int) (time.Time, error) {
	if l.config.Rate == 0 {
		return time.Now(), nil
	}
	due := began.Add(time.Duration(float64(event) / l.config.Rate * float64(time.Second)))
	if wait := time.Until(due); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return due, ctx.Err()
		}
	}
	return due, nil
}

// insist publishes until it is known that the events are durable. That is
// safe, since they have ids.
func (l *load) insist(ctx context.Context, request *fanfarev1.PublishRequest) error {
	for {
		_, err := l.events.Publish(ctx, request)
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		default:
			return err
		}
		l.refused.Add(1)
		select {
		case <-time.After(publishPause):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// payload returns JSON of so many bytes.
func payload(size int) []byte {
	const frame = `{"pad":""}`
	return []byte(`{"pad":"` + strings.Repeat("x", max(0, size-len(frame))) + `"}`)
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/internal/demo"
	"github.com/fanfare-dev/fanfare/internal/sink"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

const (
	demoTenant = "tenants/" + defaultTenant
	// demoMark begins the description of what the demo made, so that the next
	// one can clear it away.
	demoMark     = "fanfare demo: "
	demoFailRate = 0.3
	demoPace     = 40 * time.Millisecond // between two publishes
	demoPage     = 1000
)

// demoReceiver is a sink with its subscription.
type demoReceiver struct {
	name   string
	events []string // patterns
	config sink.Config
	sink   *sink.Sink
	url    string
	id     string // of the subscription
}

// demoWatch is what happens, as it happens.
type demoWatch = grpc.ServerStreamingClient[fanfarev1.WatchDeliveriesResponse]

// demoRun is one run of the demo.
type demoRun struct {
	out       io.Writer
	logger    *slog.Logger
	http      string // address
	conn      *grpc.ClientConn
	receivers []*demoReceiver
	published int
	seen      demoCounts
}

// demoCounts is what the watch has shown of the demo's own deliveries.
type demoCounts struct {
	owed, delivered, retried, recovered, dead int
	events                                    int // owed to the receiver that wants all of them
}

// runDemo subscribes two receivers to real events, publishes them, shows what
// happens until all have arrived, and then goes on showing until ctx ends.
func runDemo(ctx context.Context, out io.Writer, logger *slog.Logger, grpcAddress, httpAddress string) (err error) {
	conn, err := grpc.NewClient(grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting the demo: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	run := &demoRun{out: out, logger: logger, http: httpAddress, conn: conn, receivers: []*demoReceiver{
		{name: "steady", events: []string{"github.**"}},
		{name: "flaky", events: []string{"github.issues.*", "github.pull_request.*", "github.*.created"}, config: sink.Config{FailRate: demoFailRate}},
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return run.play(ctx, group) })
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("running the demo: %w", err)
	}
	return nil
}

func (d *demoRun) play(ctx context.Context, group *errgroup.Group) error {
	d.say("\n── Fanfare demo ──────────────────────────────────────────────────────\n")
	if err := d.clear(ctx); err != nil {
		return err
	}
	for _, r := range d.receivers {
		if err := d.subscribe(ctx, group, r); err != nil {
			return err
		}
	}
	watch, err := d.watch(ctx)
	if err != nil {
		return err
	}
	if _, err := watch.Header(); err != nil { // from here on it misses nothing
		return err
	}
	published := make(chan struct{})
	group.Go(func() error {
		defer close(published)
		return d.publish(ctx)
	})
	changes := make(chan *fanfarev1.WatchDeliveriesResponse)
	group.Go(func() error {
		defer close(changes)
		return d.follow(ctx, watch, changes)
	})
	d.show(changes, published)
	return nil
}

func (d *demoRun) watch(ctx context.Context) (demoWatch, error) {
	return fanfarev1.NewDeliveryServiceClient(d.conn).
		WatchDeliveries(ctx, &fanfarev1.WatchDeliveriesRequest{Parent: demoTenant})
}

// follow hands on what a watch brings until ctx ends. A watch that is cut,
// because the terminal was too slow for it or the machine slept, is opened
// again.
func (d *demoRun) follow(ctx context.Context, watch demoWatch, changes chan<- *fanfarev1.WatchDeliveriesResponse) error {
	var waits retryWaits
	for {
		change, err := watch.Recv()
		if err == nil {
			waits = retryWaits{}
			changes <- change
			continue
		}
		if !errors.Is(err, io.EOF) && !passes(err) {
			return err
		}
		d.logger.Warn("watching again; what happened meanwhile is not shown", "error", err)
		if !pause(ctx, waits.next()) {
			return ctx.Err()
		}
		if watch, err = d.watch(ctx); err != nil {
			return err
		}
	}
}

// clear removes what an earlier demo left behind.
func (d *demoRun) clear(ctx context.Context) error {
	subscriptions := fanfarev1.NewSubscriptionServiceClient(d.conn)
	list, err := subscriptions.ListSubscriptions(ctx, &fanfarev1.ListSubscriptionsRequest{Parent: demoTenant, PageSize: demoPage})
	if err != nil {
		return err
	}
	for _, s := range list.GetSubscriptions() {
		if !strings.HasPrefix(s.GetDescription(), demoMark) {
			continue
		}
		if _, err := subscriptions.DeleteSubscription(ctx, &fanfarev1.DeleteSubscriptionRequest{Name: s.GetName()}); err != nil {
			return err
		}
	}
	return nil
}

// subscribe starts a receiver, and subscribes it.
func (d *demoRun) subscribe(ctx context.Context, group *errgroup.Group, r *demoReceiver) error {
	secret, err := signature.NewSecret(rand.Reader)
	if err != nil {
		return err
	}
	r.config.Secrets = []signature.Secret{secret}
	r.sink = sink.New(r.config)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	group.Go(func() error { return r.sink.Serve(ctx, listener, d.logger) })
	r.url = fmt.Sprintf("http://%s/%s", listener.Addr(), r.name)
	created, err := fanfarev1.NewSubscriptionServiceClient(d.conn).CreateSubscription(ctx, &fanfarev1.CreateSubscriptionRequest{
		Parent: demoTenant,
		Subscription: &fanfarev1.Subscription{
			Url:           r.url,
			EventTypes:    r.events,
			Description:   demoMark + r.name,
			Secret:        new(secret.Reveal()),
			RetrySchedule: demoSchedule(),
		},
	})
	if err != nil {
		return err
	}
	r.id = lastPart(created.GetName())
	fails := ""
	if r.config.FailRate > 0 {
		fails = fmt.Sprintf("; answers 503 to %.0f %% of all requests", 100*r.config.FailRate)
	}
	d.say("%-7s %s  wants %s%s\n", r.name, r.url, strings.Join(r.events, ", "), fails)
	return nil
}

// demoSchedule goes on in short steps, and long enough that no delivery dies.
func demoSchedule() []*durationpb.Duration {
	const waits, longest = 16, 2 * time.Second
	schedule := make([]*durationpb.Duration, waits)
	for i := range schedule {
		schedule[i] = durationpb.New(min(time.Second<<i, longest))
	}
	return schedule
}

// publish sends real webhook payloads, one event after the other.
func (d *demoRun) publish(ctx context.Context) error {
	payloads, err := demo.Payloads()
	if err != nil {
		return err
	}
	d.say("\npublishing %d real GitHub webhook payloads\n\n", len(payloads))
	events := fanfarev1.NewEventServiceClient(d.conn)
	pace := time.NewTicker(demoPace)
	defer pace.Stop()
	for _, p := range payloads {
		_, err := events.Publish(ctx, &fanfarev1.PublishRequest{Parent: demoTenant, Events: []*fanfarev1.Event{{
			Type: p.Type, Source: "https://github.com/octokit/webhooks", Data: p.Data,
		}}})
		if err != nil {
			return err
		}
		d.published++
		select {
		case <-pace.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// show prints every attempt, and the summary once all has arrived. It goes on
// until the watch ends.
func (d *demoRun) show(changes <-chan *fanfarev1.WatchDeliveriesResponse, published <-chan struct{}) {
	for summarized := false; ; {
		select {
		case change, open := <-changes:
			if !open {
				return
			}
			if r := d.receiver(change); r != nil {
				d.seen.count(change, r == d.receivers[0])
			}
			if change.GetAttempt() != nil {
				d.say("%s", d.line(change))
			}
		case <-published:
			published = nil // never again
		}
		if published == nil && !summarized && d.seen.delivered+d.seen.dead == d.seen.owed && d.seen.events == d.published {
			summarized = true
			d.summarize()
		}
	}
}

// count counts a change; all: it is of the receiver that wants every event.
func (c *demoCounts) count(change *fanfarev1.WatchDeliveriesResponse, all bool) {
	switch change.GetDelivery().GetState() {
	case fanfarev1.Delivery_PENDING:
		if change.GetAttempt() == nil {
			c.owed++
			if all {
				c.events++
			}
		} else {
			c.retried++
		}
	case fanfarev1.Delivery_DELIVERED:
		c.delivered++
		if change.GetAttempt().GetNumber() > 1 {
			c.recovered++
		}
	case fanfarev1.Delivery_DEAD:
		c.dead++
	case fanfarev1.Delivery_STATE_UNSPECIFIED, fanfarev1.Delivery_EXPIRED, fanfarev1.Delivery_CANCELLED:
	}
}

// receiver returns the demo's receiver that a change is about, or nil: the
// tenant may have other subscriptions.
func (d *demoRun) receiver(change *fanfarev1.WatchDeliveriesResponse) *demoReceiver {
	id := lastPart(change.GetDelivery().GetSubscription())
	for _, r := range d.receivers {
		if r.id == id {
			return r
		}
	}
	return nil
}

// line is one attempt in one line.
func (d *demoRun) line(change *fanfarev1.WatchDeliveriesResponse) string {
	delivery, attempt := change.GetDelivery(), change.GetAttempt()
	receiver := lastPart(delivery.GetSubscription())
	if r := d.receiver(change); r != nil {
		receiver = r.name
	}
	mark, note := "✓", "delivered"
	switch {
	case delivery.GetState() == fanfarev1.Delivery_PENDING:
		wait := attempt.GetNextAttemptTime().AsTime().Sub(attempt.GetStartTime().AsTime())
		mark, note = "✗", fmt.Sprintf("%s, again in %.1f s", answered(attempt), wait.Seconds())
	case delivery.GetState() == fanfarev1.Delivery_DEAD:
		mark, note = "☠", fmt.Sprintf("given up after %d attempts", attempt.GetNumber())
	case attempt.GetNumber() > 1:
		mark, note = "↻", fmt.Sprintf("recovered at attempt %d", attempt.GetNumber())
	}
	return fmt.Sprintf("%s %s %-7s %-44s %-9s %6.1f ms  %s\n", attempt.GetStartTime().AsTime().Local().Format("15:04:05.000"),
		mark, receiver, delivery.GetEventType(), attempt.GetWorker(), float64(attempt.GetLatency().AsDuration().Microseconds())/1000, note)
}

// answered says how an attempt failed.
func answered(attempt *fanfarev1.Attempt) string {
	if status := attempt.GetStatusCode(); status != 0 {
		return fmt.Sprintf("answered %d", status)
	}
	return "no answer (" + attempt.GetErrorClass() + ")"
}

func (d *demoRun) summarize() {
	d.say("\n── all of it has arrived ─────────────────────────────────────────────\n")
	d.say("published %d events; owed %d deliveries: %d delivered, %d dead; %d attempts failed, %d deliveries recovered\n\n",
		d.published, d.seen.owed, d.seen.delivered, d.seen.dead, d.seen.retried, d.seen.recovered)
	for _, r := range d.receivers {
		stats := r.sink.Stats()
		d.say("%-7s received %d requests: %d distinct events, %d duplicates, %d answered 503 on purpose, %d bad signatures\n",
			r.name, stats.Received, stats.Distinct, stats.Duplicates, stats.Failed, stats.BadSignatures)
	}
	events := fmt.Sprintf("http://%s/v1/%s", d.http, demoTenant)
	d.say(`
The cluster stays up. To go on from another terminal:

  curl -i -H 'ce-type: github.issues.opened' -H 'content-type: application/json' \
       -d '{"hello": "world"}' %[1]s/events
  curl '%[1]s/deliveries?pageSize=5'
  curl '%[1]s/subscriptions'
  curl -d '{"url": "http://127.0.0.1:9400/", "eventTypes": ["order.*"]}' %[1]s/subscriptions

  bin/fanfare sink            # a receiver of your own, on 127.0.0.1:9400
  bin/fanfare deliveries list
  bin/fanfare tail
  bin/fanfare cluster

Ctrl-C ends it.

`, events)
}

func (d *demoRun) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format, args...) } // as with any print

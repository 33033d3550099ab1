package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

const (
	producers     = 4
	producerBatch = 10
	producerPause = 50 * time.Millisecond // between two requests of a producer
)

// current is where the producers publish now. It changes with every start.
type current struct {
	mu    sync.Mutex
	life  life          // guarded by mu
	moved chan struct{} // guarded by mu; closed and made anew by every move
}

// life is one process, from its being ready to its end.
type life struct {
	conn  *grpc.ClientConn
	ended <-chan struct{}
}

func newCurrent() *current { return &current{moved: make(chan struct{})} }

func (c *current) move(d *dev) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = life{conn: d.conn, ended: d.ended}
	close(c.moved)
	c.moved = make(chan struct{})
}

// next waits for a life that has not ended.
func (c *current) next(ctx context.Context) (life, error) {
	for {
		c.mu.Lock()
		now, moved := c.life, c.moved
		c.mu.Unlock()
		select {
		case <-now.ended: // nil, and so never ready, before the first life
		default:
			if now.conn != nil {
				return now, nil
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return life{}, ctx.Err()
		}
	}
}

// load publishes events with ids of its own, each again and again until it is
// acknowledged, as a careful producer does.
type load struct {
	target *current
	enough chan struct{} // closed by finish
	wg     sync.WaitGroup

	mu           sync.Mutex
	acknowledged []string // guarded by mu
	repeated     int      // guarded by mu; requests that had to be sent again
}

// startLoad publishes until finish is called.
func startLoad(t *testing.T, to *current) *load {
	l := &load{target: to, enough: make(chan struct{})}
	for number := range producers {
		l.wg.Go(func() {
			if err := l.produce(t.Context(), number); err != nil {
				t.Errorf("producer %d: %v", number, err)
			}
		})
	}
	t.Cleanup(l.wg.Wait)
	return l
}

func (l *load) produce(ctx context.Context, number int) error {
	ticker := time.NewTicker(producerPause)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticker.C:
		case <-l.enough:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		request := &fanfarev1.PublishRequest{Parent: demoTenant}
		for i := range producerBatch {
			id := fmt.Sprintf("load-%d-%d-%d", number, n, i)
			request.Events = append(request.Events, &fanfarev1.Event{Id: id, Type: "load.made", Data: []byte(`"` + id + `"`)})
		}
		if err := l.publish(ctx, ticker, request); err != nil {
			return err
		}
	}
}

// publish returns once the request is acknowledged.
func (l *load) publish(ctx context.Context, ticker *time.Ticker, request *fanfarev1.PublishRequest) error {
	for {
		now, err := l.target.next(ctx)
		if err != nil {
			return err
		}
		if _, err = fanfarev1.NewEventServiceClient(now.conn).Publish(ctx, request); err == nil {
			l.note(request)
			return nil
		}
		if !passes(err) {
			return err
		}
		l.mu.Lock()
		l.repeated++
		l.mu.Unlock()
		select {
		case <-now.ended:
		case <-ticker.C:
		}
	}
}

func (l *load) note(request *fanfarev1.PublishRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, event := range request.GetEvents() {
		l.acknowledged = append(l.acknowledged, event.GetId())
	}
}

// finish ends the load once all that was begun is acknowledged, and returns
// the ids.
func (l *load) finish(t *testing.T) []string {
	t.Helper()
	close(l.enough)
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d events acknowledged, %d requests sent again", len(l.acknowledged), l.repeated)
	return slices.Clone(l.acknowledged)
}

// awaitAll waits until every id has arrived at a path, and returns how many
// came more than once, each time counted.
func awaitAll(t *testing.T, r *receiver, path string, ids []string) (duplicates int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events arrive at %s", len(ids), path), func() bool {
		return len(r.arrivals(path)) >= len(ids)
	})
	arrived := r.arrivals(path)
	for _, id := range ids {
		if arrived[id] == 0 {
			t.Errorf("%s was acknowledged and has not arrived at %s", id, path)
		}
		duplicates += max(0, arrived[id]-1)
	}
	if len(arrived) != len(ids) {
		t.Errorf("%d ids arrived at %s, %d were published", len(arrived), path, len(ids))
	}
	return duplicates
}

// A stop in the middle of everything loses nothing and repeats nothing, and
// the next start goes on where it ended, retries included.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	const stops, between = 2, 200 // requests to have arrived before each stop
	var mended atomic.Bool
	r := newReceiver(t, func(w http.ResponseWriter, request *http.Request) {
		const work = 20 * time.Millisecond // so that requests are on the wire when it stops
		select {
		case <-time.After(work):
		case <-request.Context().Done():
		}
		// Some events fail and the others do not, so that no breaker opens.
		if request.URL.Path == "/failing" && strings.HasSuffix(request.Header.Get(signature.HeaderID), "-0") && !mended.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	hanging := newReceiver(t, func(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() })

	dir, to := t.TempDir(), newCurrent()
	d := startDev(t, dir)
	steady := d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/steady"})
	failing := d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/failing", RetrySchedule: waits(50, time.Second)})
	d.subscribe(t, &fanfarev1.Subscription{Url: hanging.url + "/hanging", EventTypes: []string{"never.answered"}})
	d.publish(t, "never.answered", "hangs")
	eventually(t, "the hanging endpoint is called", func() bool { return hanging.total() > 0 })
	to.move(d)
	producing := startLoad(t, to)
	for range stops {
		seen := r.total()
		eventually(t, "requests arrive", func() bool { return r.total() >= seen+between })
		d.stop(t)
		d = startDev(t, dir)
		to.move(d)
	}
	ids := append(producing.finish(t), "hangs")
	owed := -1
	eventually(t, "the history shows what is owed", func() bool {
		owed = d.count(t, lastPart(failing.GetName()), fanfarev1.Delivery_PENDING)
		return owed >= 0
	})
	t.Logf("%d deliveries are owed to the failing endpoint", owed)
	if owed == 0 {
		t.Error("nothing waits for a retry: this test is blind")
	}
	mended.Store(true)
	if duplicates := awaitAll(t, r, "/steady", ids); duplicates != 0 {
		t.Errorf("%d duplicates after %d stops", duplicates, stops)
	}
	for _, s := range []*fanfarev1.Subscription{steady, failing} {
		eventually(t, "every delivery has ended well", func() bool {
			return d.count(t, lastPart(s.GetName()), fanfarev1.Delivery_DELIVERED) == len(ids)
		})
	}
	d.stop(t)
}

// waits returns a retry schedule of n equal waits.
func waits(n int, each time.Duration) []*durationpb.Duration {
	return slices.Repeat([]*durationpb.Duration{durationpb.New(each)}, n)
}

// witness knows which deliveries the cluster has said to be done.
type witness struct {
	mu   sync.Mutex
	done map[string]bool // guarded by mu; event and subscription
}

// follow watches one life to its end.
func (w *witness) follow(ctx context.Context, conn *grpc.ClientConn) {
	watch, err := fanfarev1.NewDeliveryServiceClient(conn).
		WatchDeliveries(ctx, &fanfarev1.WatchDeliveriesRequest{Parent: demoTenant})
	for err == nil { // it ends with the process; what a watch does not see is no evidence
		var change *fanfarev1.WatchDeliveriesResponse
		if change, err = watch.Recv(); err == nil && change.GetDelivery().GetState() == fanfarev1.Delivery_DELIVERED {
			w.mu.Lock()
			w.done[lastPart(change.GetDelivery().GetEvent())+" "+lastPart(change.GetDelivery().GetSubscription())] = true
			w.mu.Unlock()
		}
	}
}

func (w *witness) knows(event, subscription string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[event+" "+subscription]
}

func (w *witness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.done)
}

// kills is how often the test kills, KILLS if it is set.
func kills(t *testing.T) int {
	t.Helper()
	const normal = 5
	text := os.Getenv("KILLS")
	if text == "" {
		return normal
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("KILLS: %v", err)
	}
	return n
}

// Killed at any moment, it loses nothing it has acknowledged, and sends again
// only what was in a worker's hands or not yet durable: never what it had said
// to be delivered.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	times, seed := kills(t), rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	said := &witness{done: make(map[string]bool)}
	var broken atomic.Int64
	known := make(map[string]string) // :: path -> subscription
	var ready atomic.Bool            // known is complete
	r := newReceiver(t, func(_ http.ResponseWriter, request *http.Request) {
		if ready.Load() && said.knows(request.Header.Get(signature.HeaderID), known[request.URL.Path]) {
			broken.Add(1)
		}
	})

	dir, to := t.TempDir(), newCurrent()
	d := startDev(t, dir)
	paths := []string{"/a", "/b"}
	for _, path := range paths {
		known[path] = lastPart(d.subscribe(t, &fanfarev1.Subscription{Url: r.url + path}).GetName())
	}
	ready.Store(true)
	to.move(d)
	var watching sync.WaitGroup
	t.Cleanup(watching.Wait)
	watching.Go(func() { said.follow(t.Context(), d.conn) })
	producing := startLoad(t, to)
	for n := range times {
		seen := r.total()
		eventually(t, "requests arrive", func() bool { return r.total() >= seen+1+random.IntN(400) })
		d.signal(t, syscall.SIGKILL)
		d.wait(t)
		if n%3 == 2 { // and again, while it reads what the first kill left
			d = launchDev(t, dir)
			eventually(t, "it begins to lead", func() bool { return strings.Contains(d.stderr.String(), `"msg":"leading"`) })
			d.signal(t, syscall.SIGKILL)
			d.wait(t)
		}
		began := time.Now()
		d = startDev(t, dir)
		t.Logf("kill %d: ready again after %v", n+1, time.Since(began).Round(time.Millisecond))
		to.move(d)
		watching.Go(func() { said.follow(t.Context(), d.conn) })
	}
	ids := producing.finish(t)
	duplicates := 0
	for _, path := range paths {
		duplicates += awaitAll(t, r, path, ids)
		eventually(t, "every delivery has ended well", func() bool {
			return d.count(t, known[path], fanfarev1.Delivery_DELIVERED) == len(ids)
		})
	}
	bound := times * len(paths) * dispatch.WindowMax
	t.Logf("%d kills: all of %d deliveries arrived; %d duplicates, of at most %d; %d were said to be delivered, and %d of these came again",
		times, len(paths)*len(ids), duplicates, bound, said.count(), broken.Load())
	if said.count() == 0 {
		t.Error("no delivery was seen to end: this test is blind")
	}
	if broken.Load() > 0 {
		t.Errorf("%d deliveries were sent again after they had been said to be delivered", broken.Load())
	}
	if duplicates > bound {
		t.Errorf("%d duplicates; more than %d cannot have been in hand", duplicates, bound)
	}
	d.stop(t)
}

// Endpoints that are dead or hang delay nobody else. What one event suffers
// goes by its schedule; an endpoint that fails them all is left alone, keeps
// what it is owed, and gets it when it is well.
func TestBadEndpoints(t *testing.T) {
	t.Parallel()
	const events = 100
	d := startDev(t, t.TempDir())
	healthy, hanging := newReceiver(t, nil), newHanging(t)
	well := []string{"/1", "/2", "/3", "/4"}
	for _, path := range well {
		d.subscribe(t, &fanfarev1.Subscription{Url: healthy.url + path})
	}
	dead := lastPart(d.subscribe(t, &fanfarev1.Subscription{
		Url: deadURL(t), EventTypes: []string{"only.one"},
		RetrySchedule: []*durationpb.Duration{durationpb.New(time.Second), durationpb.New(2 * time.Second)},
	}).GetName())
	late := lastPart(d.subscribe(t, &fanfarev1.Subscription{
		Url: hanging.url + "/late", EventTypes: []string{"only.one"}, Timeout: durationpb.New(time.Second), RetrySchedule: waits(1, time.Second),
	}).GetName())
	gone := d.subscribe(t, &fanfarev1.Subscription{Url: deadURL(t)})
	held := lastPart(d.subscribe(t, &fanfarev1.Subscription{Url: hanging.url + "/held", Timeout: durationpb.New(30 * time.Second)}).GetName())

	ids := make([]string, 0, events+1)
	for n := range events {
		ids = append(ids, fmt.Sprintf("event-%d", n))
	}
	d.publish(t, "one.of.many", ids...)
	eventually(t, "the hanging endpoint is called", func() bool { return len(hanging.webhooks("/held")) > 0 })
	d.publish(t, "only.one", "last")
	ids = append(ids, "last")
	for _, path := range well {
		if duplicates := awaitAll(t, healthy, path, ids); duplicates != 0 {
			t.Errorf("%d duplicates at %s", duplicates, path)
		}
	}
	if hanging.cut.Load() > 0 {
		t.Error("the healthy endpoints were served only after the first request to the hanging one had timed out")
	}
	checkDead(t, d, late, "timeout", []time.Duration{time.Second})
	checkDead(t, d, dead, "connect", []time.Duration{time.Second, 2 * time.Second})
	eventually(t, "the breaker of the dead endpoint opens", func() bool {
		var now struct {
			Health struct {
				BreakerOpen bool `json:"breakerOpen"`
			} `json:"health"`
		}
		d.get(t, "/v1/"+gone.GetName(), &now)
		return now.Health.BreakerOpen
	})
	// What was published after the first failures may wait in the log.
	eventually(t, "all of it is owed still", func() bool {
		return d.count(t, lastPart(gone.GetName()), fanfarev1.Delivery_PENDING) >= events
	})
	hanging.release()
	eventually(t, "the hanging endpoint, mended, gets all", func() bool {
		return d.count(t, held, fanfarev1.Delivery_DELIVERED) == len(ids)
	})
}

// hanging is an endpoint that answers nothing until it is released.
type hanging struct {
	*receiver
	release func()
	cut     atomic.Int64 // requests to /held that were given up before that
}

func newHanging(t *testing.T) *hanging {
	released := make(chan struct{})
	h := &hanging{release: sync.OnceFunc(func() { close(released) })}
	h.receiver = newReceiver(t, func(_ http.ResponseWriter, request *http.Request) {
		select {
		case <-released:
		case <-request.Context().Done():
			if request.URL.Path == "/held" {
				h.cut.Add(1)
			}
		}
	})
	t.Cleanup(h.release)
	return h
}

// deadURL returns an endpoint on this machine that refuses connections.
func deadURL(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}()
	return "http://" + listener.Addr().String() + "/"
}

// checkDead waits until the only delivery of a subscription is dead, and holds
// its attempts against the schedule.
func checkDead(t *testing.T, d *dev, subscription, class string, schedule []time.Duration) {
	t.Helper()
	eventually(t, "the delivery that fails by "+class+" is given up", func() bool {
		return d.count(t, subscription, fanfarev1.Delivery_DEAD) == 1
	})
	list, err := d.deliveries().ListDeliveries(t.Context(), &fanfarev1.ListDeliveriesRequest{Parent: demoTenant, Subscription: subscription})
	if err != nil {
		t.Fatal(err)
	}
	given := list.GetDeliveries()[0]
	if got, want := int(given.GetAttemptCount()), len(schedule)+1; got != want || given.GetLastErrorClass() != class {
		t.Errorf("given up after %d attempts for %q, want %d for %q", got, given.GetLastErrorClass(), want, class)
	}
	attempts, err := d.deliveries().ListAttempts(t.Context(), &fanfarev1.ListAttemptsRequest{Parent: given.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	for i, wait := range schedule {
		const jitter = 0.2
		before, after := attempts.GetAttempts()[i], attempts.GetAttempts()[i+1]
		ended := before.GetStartTime().AsTime().Add(before.GetLatency().AsDuration())
		got := after.GetStartTime().AsTime().Sub(ended)
		if least := time.Duration(float64(wait) * (1 - jitter)).Truncate(10 * time.Millisecond); got < least {
			t.Errorf("attempt %d began %v after the one before, the schedule says at least %v", i+2, got, least)
		}
		if before.GetErrorClass() != class || before.GetResult() != fanfarev1.Attempt_RETRY {
			t.Errorf("attempt %d: %v", i+1, before)
		}
	}
	if last := attempts.GetAttempts()[len(schedule)]; last.GetResult() != fanfarev1.Attempt_DEAD {
		t.Errorf("the last attempt: %v", last)
	}
}

// TestDemo runs the demo twice on the same data: everything arrives, once, and
// is signed; a subscription of somebody else's that fails does not hold up
// the second.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for run := range 2 {
		d := startDev(t, dir, "--demo")
		eventually(t, "the demo is through", func() bool { return strings.Contains(d.stdout.String(), "Ctrl-C ends it.") })
		t.Logf("run %d:\n%s", run+1, d.stdout.String())
		checkSummary(t, d.stdout.String())
		if run == 0 {
			d.subscribe(t, &fanfarev1.Subscription{Url: deadURL(t)})
		}
		d.signal(t, os.Interrupt)
		if code := d.wait(t); code != exitOK {
			t.Errorf("exit code %d after SIGINT", code)
		}
	}
}

func checkSummary(t *testing.T, printed string) {
	t.Helper()
	_, summary, _ := strings.Cut(printed, "all of it has arrived")
	var published, owed, delivered, dead, failed, recovered int
	line := lineWith(summary, "published")
	if _, err := fmt.Sscanf(line, "published %d events; owed %d deliveries: %d delivered, %d dead; %d attempts failed, %d deliveries recovered",
		&published, &owed, &delivered, &dead, &failed, &recovered); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if published == 0 || owed <= published || delivered != owed || dead != 0 || failed == 0 || recovered == 0 {
		t.Error(line)
	}
	distinct := 0
	for _, name := range []string{"steady", "flaky"} {
		var requests, events, duplicates, answered, bad int
		line := lineWith(summary, name)
		if _, err := fmt.Sscanf(strings.TrimSpace(strings.TrimPrefix(line, name)),
			"received %d requests: %d distinct events, %d duplicates, %d answered 503 on purpose, %d bad signatures",
			&requests, &events, &duplicates, &answered, &bad); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if duplicates != 0 || bad != 0 || requests != events+answered {
			t.Error(line)
		}
		distinct += events
	}
	if distinct != owed {
		t.Errorf("%d events at the receivers, %d owed", distinct, owed)
	}
}

// lineWith returns the first line that begins with a word.
func lineWith(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, word) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// Told to stop while it is still starting, it stops, and that is no failure.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := launchDev(t, dir)
	eventually(t, "the first engine begins", func() bool {
		_, err := os.Stat(filepath.Join(dir, "secrets.key"))
		return err == nil
	})
	d.stop(t)
	startDev(t, dir).stop(t)
}

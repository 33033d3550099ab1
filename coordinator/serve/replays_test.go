package serve_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// lives is a world of one partition whose coordinator can end and begin anew
// on the same log and history, and whose worker comes and goes.
type lives struct {
	*world
	store  history.Store
	limits *linkv1.Limits
	hands  int // attached so far
}

// inLives runs a test in a world whose ledger has these limits; nil are the
// defaults.
func inLives(t *testing.T, limits *linkv1.Limits, test func(w *lives)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store, err := history.OpenSQLite(t.Context(), history.InMemory)
		if err != nil {
			t.Fatal(err)
		}
		w := &lives{
			world: &world{T: t, logs: eventlog.NewMemory(), members: cluster.NewMemory().Client()},
			store: store, limits: limits,
		}
		defer func() {
			w.end()
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}()
		w.begin()
		test(w)
	})
}

// begin starts a coordinator.
func (w *lives) begin() {
	w.Helper()
	secrets, err := sealed.New(bytes.Repeat([]byte{7}, sealed.KeySize))
	if err != nil {
		w.Fatal(err)
	}
	logger, onGRPC := slog.New(slog.DiscardHandler), bufconn.Listen(1<<20)
	c := coordinator.New(coordinator.Config{
		Member: cluster.MemberConfig{
			Info:   cluster.Info{ID: "coordinator-1", Role: cluster.Coordinator, Address: "coordinator-1:7400"},
			Clock:  cluster.MonotonicClock(),
			Logger: logger,
		},
		Cluster: w.members, Logs: w.logs.Peer(), History: w.store, Secrets: secrets, URLs: onlyHTTPS{}, Logger: logger,
		GRPC: onGRPC, Partitions: 1, Slots: slots, Limits: w.limits,
	})
	w.run(c)
	w.connect(onGRPC, newPipes()) // nobody serves HTTP
	<-c.Ready()
}

// restart ends the coordinator, and its worker, and starts another.
func (w *lives) restart() {
	w.Helper()
	w.end()
	w.ends = nil
	w.begin()
}

// pass lets virtual time pass.
func (w *lives) pass(d time.Duration) { <-time.After(d) }

// keeps makes a hand keep what it is given until it is told to report.
const keeps = linkv1.Outcome_KIND_UNSPECIFIED

// hand is a worker of all shards, whose attempts take no time.
type hand struct {
	stop   func()
	stream grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]

	mu      sync.Mutex
	targets []attempted       // guarded by mu; in the order of their attempts
	kept    []*linkv1.Outcome // guarded by mu
	batches uint64            // guarded by mu; reported so far
}

// attempted is one attempt that a hand was given.
type attempted struct {
	Event        string
	Attempt, Via uint32 // its number, and its step of the schedule
}

// hand attaches a worker that reports its attempts as this at once, or keeps
// them, until it is stopped or the coordinator ends.
func (w *lives) hand(kind linkv1.Outcome_Kind) *hand {
	w.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	stream := must[grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]](w.world)(
		linkv1.NewLinkServiceClient(w.conn).Attach(ctx))
	w.hands++
	requests := []*linkv1.AttachRequest{{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{
		Worker: "worker-1", Incarnation: string(rune('a' + w.hands)), CreditCount: 1000, CreditBytes: 1 << 20,
	}}}}
	for slot := range int32(slots) {
		requests = append(requests, &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Claim{
			Claim: &linkv1.Claim{Slot: slot, Epoch: int64(w.hands)},
		}})
	}
	for _, request := range requests {
		if err := stream.Send(request); err != nil {
			w.Fatal(err)
		}
	}
	h, ended := &hand{stream: stream}, make(chan struct{})
	go func() {
		defer close(ended)
		h.work(kind)
	}()
	h.stop = sync.OnceFunc(func() { cancel(); <-ended })
	w.ends = append(w.ends, func() error { h.stop(); return nil })
	return h
}

// attempts returns what the hand was given so far.
func (h *hand) attempts() []attempted {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.targets)
}

// work takes dispatches until the stream ends.
func (h *hand) work(kind linkv1.Outcome_Kind) {
	for {
		response, err := h.stream.Recv()
		if err != nil {
			return
		}
		dispatch, event := response.GetDispatch(), new(fanfarev1.Event)
		if dispatch == nil || proto.Unmarshal(dispatch.GetEvent(), event) != nil {
			continue
		}
		h.mu.Lock()
		for _, target := range dispatch.GetTargets() {
			h.targets = append(h.targets, attempted{event.GetId(), target.GetAttempt(), target.GetStep()})
			h.kept = append(h.kept, &linkv1.Outcome{
				Subscription: target.GetSubscription(), Sequence: dispatch.GetSequence(), Index: dispatch.GetIndex(),
				Attempt: target.GetAttempt(), StartTimeUnixMs: time.Now().UnixMilli(),
			})
		}
		h.mu.Unlock()
		if kind != keeps && h.report(kind) != nil {
			return
		}
	}
}

// report says how the attempts ended that it keeps. Those that are dead are so
// because of the event, those to be tried again, in a second, because of the
// endpoint.
func (h *hand) report(kind linkv1.Outcome_Kind) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, outcome := range h.kept {
		outcome.Kind, outcome.StatusCode = kind, 204
		switch kind {
		case linkv1.Outcome_DEAD:
			outcome.StatusCode, outcome.ErrorClass = 400, "status"
		case linkv1.Outcome_RETRY:
			outcome.StatusCode, outcome.ErrorClass = 503, "status"
			outcome.NextTimeUnixMs = time.Now().Add(time.Second).UnixMilli()
		case linkv1.Outcome_DELIVERED, linkv1.Outcome_RETURNED, linkv1.Outcome_KIND_UNSPECIFIED:
		}
	}
	h.batches++
	batch := &linkv1.OutcomeBatch{Number: h.batches, Outcomes: h.kept}
	h.kept = nil
	return h.stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Outcomes{Outcomes: batch}})
}

// events returns the ids of what it was given, sorted.
func (h *hand) events() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for _, target := range h.targets {
		ids = append(ids, target.Event)
	}
	slices.Sort(ids)
	return ids
}

// publishAs publishes events of one type, with these ids.
func (w *lives) publishAs(eventType string, ids ...string) {
	w.Helper()
	request := &fanfarev1.PublishRequest{Parent: tenant}
	for _, id := range ids {
		request.Events = append(request.Events, &fanfarev1.Event{Id: id, Type: eventType})
	}
	must[*fanfarev1.PublishResponse](w.world)(w.events.Publish(w.Context(), request))
}

// kill publishes events and has their deliveries die.
func (w *lives) kill(eventType string, ids ...string) {
	w.Helper()
	w.publishAs(eventType, ids...)
	killer := w.hand(linkv1.Outcome_DEAD)
	w.pass(time.Second)
	killer.stop()
}

// history returns the states of a subscription's deliveries by event.
func (w *lives) history(subscription *fanfarev1.Subscription) map[string]fanfarev1.Delivery_State {
	w.Helper()
	states := make(map[string]fanfarev1.Delivery_State)
	for _, d := range w.list(&fanfarev1.ListDeliveriesRequest{Subscription: subscription.GetName()}) {
		states[d.GetEvent()[len(tenant+"/events/"):]] = d.GetState()
	}
	return states
}

func (w *lives) list(request *fanfarev1.ListDeliveriesRequest) []*fanfarev1.Delivery {
	w.Helper()
	request.Parent, request.PageSize = tenant, 1000
	return must[*fanfarev1.ListDeliveriesResponse](w.world)(w.deliveries.ListDeliveries(w.Context(), request)).GetDeliveries()
}

// deliveryOf returns the only delivery of an event.
func (w *lives) deliveryOf(event string) *fanfarev1.Delivery {
	w.Helper()
	found := w.list(&fanfarev1.ListDeliveriesRequest{Event: event})
	if len(found) != 1 {
		w.Fatalf("%s has the deliveries %v, want one", event, found)
	}
	return found[0]
}

func (w *lives) subscription(name string) *fanfarev1.Subscription {
	w.Helper()
	return must[*fanfarev1.Subscription](w.world)(w.subscriptions.GetSubscription(w.Context(),
		&fanfarev1.GetSubscriptionRequest{Name: name}))
}

func (w *lives) pause(name string) *fanfarev1.Subscription {
	w.Helper()
	return must[*fanfarev1.Subscription](w.world)(w.subscriptions.PauseSubscription(w.Context(),
		&fanfarev1.PauseSubscriptionRequest{Name: name}))
}

func (w *lives) resume(name string, fromNow bool) *fanfarev1.Subscription {
	w.Helper()
	return must[*fanfarev1.Subscription](w.world)(w.subscriptions.ResumeSubscription(w.Context(),
		&fanfarev1.ResumeSubscriptionRequest{Name: name, FromNow: fromNow}))
}

func (w *lives) replay(replay *fanfarev1.Replay) *fanfarev1.Replay {
	w.Helper()
	return must[*fanfarev1.Replay](w.world)(w.deliveries.CreateReplay(w.Context(),
		&fanfarev1.CreateReplayRequest{Parent: tenant, Replay: replay}))
}

func (w *lives) getReplay(name string) *fanfarev1.Replay {
	w.Helper()
	return must[*fanfarev1.Replay](w.world)(w.deliveries.GetReplay(w.Context(), &fanfarev1.GetReplayRequest{Name: name}))
}

func (w *lives) cancel(name string) *fanfarev1.Replay {
	w.Helper()
	return must[*fanfarev1.Replay](w.world)(w.deliveries.CancelReplay(w.Context(), &fanfarev1.CancelReplayRequest{Name: name}))
}

// awaitDone waits until a replay is done.
func (w *lives) awaitDone(name string) *fanfarev1.Replay {
	w.Helper()
	const looks = 600
	for range looks {
		if r := w.getReplay(name); r.GetState() == fanfarev1.Replay_DONE {
			return r
		}
		w.pass(100 * time.Millisecond)
	}
	w.Fatalf("after a minute the replay is not done: %v", w.getReplay(name))
	return nil
}

func (w *lives) checkHistory(what string, subscription *fanfarev1.Subscription, want map[string]fanfarev1.Delivery_State) {
	w.Helper()
	if diff := cmp.Diff(want, w.history(subscription)); diff != "" {
		w.Errorf("%s: deliveries (-want +got):\n%s", what, diff)
	}
}

func (w *lives) checkGiven(what string, h *hand, want ...string) {
	w.Helper()
	if got := h.events(); !slices.Equal(got, want) {
		w.Errorf("%s: the worker was given %q, want %q", what, got, want)
	}
}

func TestPauseKeepsAndResumeDelivers(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s, other := w.subscribe(tenant), w.subscribe(tenant, "none")
		w.publishAs("a", "e1")
		w.pass(time.Second)
		paused := w.pause(s.GetName())
		if paused.GetState() != fanfarev1.Subscription_PAUSED || paused.GetStateReason() != "paused" ||
			time.Since(paused.GetStateTime().AsTime()) > time.Second || paused.GetHealth().GetOutstandingCount() != 1 {
			w.Errorf("paused: %v", paused)
		}
		w.publishAs("a", "e2")
		idle := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Hour)
		w.checkGiven("while it is paused", idle)
		if again := w.pause(s.GetName()); !proto.Equal(again.GetStateTime(), paused.GetStateTime()) {
			w.Errorf("paused again: since %v, want %v", again.GetStateTime().AsTime(), paused.GetStateTime().AsTime())
		}

		w.restart()
		idle = w.hand(linkv1.Outcome_DELIVERED)
		w.publishAs("a", "e3")
		w.pass(time.Hour)
		w.checkGiven("paused, after a restart", idle)
		if got := w.subscription(s.GetName()); got.GetState() != fanfarev1.Subscription_PAUSED ||
			!proto.Equal(got.GetStateTime(), paused.GetStateTime()) || got.GetHealth().GetOutstandingCount() != 1 {
			w.Errorf("after a restart: %v", got)
		}
		if got := w.subscription(other.GetName()); got.GetState() != fanfarev1.Subscription_ACTIVE {
			w.Errorf("the other one is %s", got.GetState())
		}

		resumed := w.resume(s.GetName(), false)
		if resumed.GetState() != fanfarev1.Subscription_ACTIVE || resumed.GetStateReason() != "" || resumed.GetStateTime() != nil {
			w.Errorf("resumed: %v", resumed)
		}
		w.pass(time.Minute)
		w.publishAs("a", "e4")
		w.pass(time.Second)
		w.checkGiven("resumed", idle, "e1", "e2", "e3", "e4")
		delivered := fanfarev1.Delivery_DELIVERED
		w.checkHistory("resumed", s, map[string]fanfarev1.Delivery_State{
			"e1": delivered, "e2": delivered, "e3": delivered, "e4": delivered,
		})
	})
}

func TestResumeFromNowCancels(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		w.publishAs("a", "e1")
		w.pause(s.GetName())
		w.publishAs("a", "e2")
		if got := w.resume(s.GetName(), true); got.GetState() != fanfarev1.Subscription_ACTIVE || got.GetHealth().GetOutstandingCount() != 0 {
			w.Errorf("resumed: %v", got)
		}
		w.publishAs("a", "e3")
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Hour)
		w.checkGiven("resumed from now", worker, "e3")
		// e2 only waited in the log: it was never a delivery.
		w.checkHistory("resumed from now", s, map[string]fanfarev1.Delivery_State{
			"e1": fanfarev1.Delivery_CANCELLED, "e3": fanfarev1.Delivery_DELIVERED,
		})
		if d := w.deliveryOf("e1"); d.GetEndTime() == nil || d.GetNextAttemptTime() != nil {
			w.Errorf("what was cancelled is %v", d)
		}
	})
}

// What is on the wire when a subscription is paused ends as it ends.
func TestPauseLetsAttemptsEnd(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		worker := w.hand(keeps)
		w.publishAs("a", "e1")
		w.pass(time.Second)
		w.pause(s.GetName())
		w.pass(time.Second)
		if err := worker.report(linkv1.Outcome_DELIVERED); err != nil {
			w.Fatal(err)
		}
		w.pass(time.Hour)
		w.checkGiven("paused", worker, "e1")
		w.checkHistory("paused", s, map[string]fanfarev1.Delivery_State{"e1": fanfarev1.Delivery_DELIVERED})
		if got := w.subscription(s.GetName()); got.GetState() != fanfarev1.Subscription_PAUSED || got.GetHealth().GetOutstandingCount() != 0 {
			w.Errorf("after a success: %v", got)
		}
	})
}

// A worker that dies while a subscription is paused gives back what it had.
func TestPauseOutlastsWorkers(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		first := w.hand(keeps)
		w.publishAs("a", "e1")
		w.pass(time.Second)
		w.pause(s.GetName())
		first.stop()
		second := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Hour)
		w.checkGiven("before", first, "e1")
		w.checkGiven("paused", second)
		w.resume(s.GetName(), false)
		w.pass(time.Second)
		w.checkGiven("resumed", second, "e1")
	})
}

func TestControlErrors(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		for _, tt := range []struct {
			name  string
			code  codes.Code
			field string
		}{
			{"", codes.InvalidArgument, "name"},
			{tenant, codes.InvalidArgument, "name"},
			{tenant + "/events/e1", codes.InvalidArgument, "name"},
			{tenant + "/subscriptions/sub_none", codes.NotFound, ""},
			{"tenants/nobody/subscriptions/sub_none", codes.NotFound, ""},
		} {
			_, err := w.subscriptions.PauseSubscription(w.Context(), &fanfarev1.PauseSubscriptionRequest{Name: tt.name})
			w.refused("pausing "+tt.name, err, tt.code, tt.field)
			_, err = w.subscriptions.ResumeSubscription(w.Context(), &fanfarev1.ResumeSubscriptionRequest{Name: tt.name})
			w.refused("resuming "+tt.name, err, tt.code, tt.field)
		}
	})
}

func (w *lives) retry(name string) (*fanfarev1.Delivery, error) {
	return w.deliveries.RetryDelivery(w.Context(), &fanfarev1.RetryDeliveryRequest{Name: name})
}

func TestRetryDelivery(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		w.kill("a", "e1", "e2")
		dead := w.deliveryOf("e1")
		retried := must[*fanfarev1.Delivery](w.world)(w.retry(dead.GetName()))
		if retried.GetName() != dead.GetName() || retried.GetState() != fanfarev1.Delivery_PENDING || retried.GetEndTime() != nil ||
			retried.GetAttemptCount() != 1 || time.Until(retried.GetNextAttemptTime().AsTime()) > 0 {
			w.Errorf("retried: %v", retried)
		}
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Second)
		// The second attempt, but the first step of a new schedule.
		if got, want := worker.attempts(), []attempted{{"e1", 2, 1}}; !slices.Equal(got, want) {
			w.Errorf("attempts %v, want %v", got, want)
		}
		w.checkHistory("retried", s, map[string]fanfarev1.Delivery_State{
			"e1": fanfarev1.Delivery_DELIVERED, "e2": fanfarev1.Delivery_DEAD,
		})
		attempts := must[*fanfarev1.ListAttemptsResponse](w.world)(w.deliveries.ListAttempts(w.Context(),
			&fanfarev1.ListAttemptsRequest{Parent: dead.GetName()})).GetAttempts()
		if len(attempts) != 2 || attempts[0].GetResult() != fanfarev1.Attempt_DEAD || attempts[1].GetResult() != fanfarev1.Attempt_DELIVERED {
			w.Errorf("attempts %v, want one that is DEAD and one that is DELIVERED", attempts)
		}
	})
}

// What was cancelled while its subscription lives on can be owed again too.
func TestRetryCancelled(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		w.publishAs("a", "e1")
		w.pause(s.GetName())
		w.resume(s.GetName(), true)
		must[*fanfarev1.Delivery](w.world)(w.retry(w.deliveryOf("e1").GetName()))
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Second)
		w.checkGiven("retried", worker, "e1")
	})
}

// A subscription that is owed as much as it may be takes no retry, and says what
// to do; once there is room it does. Many retries at once do not get past that.
func TestRetryWithoutRoom(t *testing.T) {
	inLives(t, &linkv1.Limits{OutstandingHealthy: 3}, func(w *lives) {
		w.subscribe(tenant)
		w.kill("a", "e1", "e2", "e3")
		w.publishAs("a", "owed")
		names := make(map[string]string)
		for _, event := range []string{"e1", "e2", "e3"} {
			names[event] = w.deliveryOf(event).GetName()
		}
		errs := make(map[string]error)
		var mu sync.Mutex
		var calls sync.WaitGroup
		for event, name := range names {
			calls.Go(func() {
				_, err := w.retry(name)
				mu.Lock()
				defer mu.Unlock()
				errs[event] = err
			})
		}
		calls.Wait()
		var refused strings.Builder
		for event, err := range errs {
			if err != nil {
				w.refused("retrying "+event, err, codes.ResourceExhausted, "name")
				if message := status.Convert(err).Message(); !strings.Contains(message, "owed as much as") || !strings.Contains(message, "create a replay") {
					w.Errorf("refused with %q", message)
				}
				refused.WriteString(event)
			}
		}
		if len(refused.String()) != 2 {
			w.Fatalf("refused %q, want one of the three", refused.String())
		}
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Second)
		must[*fanfarev1.Delivery](w.world)(w.retry(names[refused.String()]))
		w.pass(time.Second)
		w.checkGiven("retried", worker, "e1", "e2", "e3", "owed")
	})
}

// What is shown as the time of the next attempt is one that can come true: behind
// an open breaker the next probe's, and none while nothing is sent.
func TestNextAttemptTime(t *testing.T) {
	inLives(t, &linkv1.Limits{BreakerFailures: 3}, func(w *lives) {
		s := w.subscribe(tenant)
		worker := w.hand(linkv1.Outcome_RETRY)
		w.publishAs("a", "e1", "e2", "e3")
		w.pass(time.Second / 2)
		check := func(what string, want time.Time) {
			w.Helper()
			for _, d := range append(w.list(&fanfarev1.ListDeliveriesRequest{}), w.deliveryOf("e1")) {
				if got := d.GetNextAttemptTime(); want.IsZero() != (got == nil) || got != nil && !got.AsTime().Equal(want) {
					w.Errorf("%s: next attempt at %v, want %v", what, got.AsTime(), want)
				}
			}
		}
		if health := w.subscription(s.GetName()).GetHealth(); health.GetConsecutiveFailures() != 3 {
			w.Fatalf("the endpoint failed %v", health)
		}
		opened := time.Now().Add(-time.Second / 2)
		w.pass(2 * time.Second) // longer than the attempts were to wait
		check("behind an open breaker", opened.Add(5*time.Second))
		worker.stop()
		w.hand(keeps)
		w.pass(5 * time.Second)
		check("while the probe is under way", time.Time{})
		w.pause(s.GetName())
		check("paused", time.Time{})
	})
}

func TestRetryPreconditions(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		gone := w.subscribe(tenant, "gone")
		w.subscribe(tenant, "a")
		w.publishAs("gone", "orphan")
		must[any](w.world)(w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: gone.GetName()}))
		w.kill("a", "lost", "again")
		w.purge()
		w.kill("a", "here")
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.publishAs("a", "delivered")
		w.pass(time.Second)
		worker.stop()
		w.publishAs("a", "pending")
		for _, tt := range []struct {
			name  string
			code  codes.Code
			field string
		}{
			{w.deliveryOf("pending").GetName(), codes.FailedPrecondition, "name"},
			{w.deliveryOf("delivered").GetName(), codes.FailedPrecondition, "name"},
			{w.deliveryOf("orphan").GetName(), codes.FailedPrecondition, "name"},
			{w.deliveryOf("lost").GetName(), codes.FailedPrecondition, "name"},
			{w.deliveryOf("here").GetName(), codes.OK, ""},
			{w.deliveryOf("here").GetName(), codes.FailedPrecondition, "name"}, // it is PENDING by now
			{tenant + "/deliveries/dlv_0-2s-0-1f4", codes.NotFound, ""},
			{tenant + "/deliveries/none", codes.NotFound, ""},
			{tenant + "/events/lost", codes.InvalidArgument, "name"},
			{"", codes.InvalidArgument, "name"},
		} {
			_, err := w.retry(tt.name)
			if tt.code == codes.OK {
				must[any](w.world)(nil, err)
				continue
			}
			w.refused("retrying "+tt.name, err, tt.code, tt.field)
		}
	})
}

// purge drops all of the log but what is published from now on, as retention
// does.
func (w *lives) purge() {
	w.Helper()
	log := must[eventlog.Log](w.world)(w.logs.Peer().Open(w.Context(), 0))
	defer log.Close() //nolint:errcheck // it has done its work
	state := must[eventlog.State](w.world)(log.State(w.Context()))
	if err := log.Purge(w.Context(), state.Last-1); err != nil {
		w.Fatal(err)
	}
}

func TestReplay(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		w.kill("a", "e1", "e2", "e3")
		created := w.replay(&fanfarev1.Replay{
			Name: "mine", State: fanfarev1.Replay_DONE, MatchedCount: 99, // not for clients to say
		})
		want := &fanfarev1.Replay{
			Name:         created.GetName(),
			EndTime:      created.GetCreateTime(),
			States:       []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED},
			State:        fanfarev1.Replay_RUNNING,
			MatchedCount: 3,
			CreateTime:   timestamppb.Now(),
		}
		if diff := cmp.Diff(want, created, protocmp.Transform()); diff != "" || len(created.GetName()) != len(tenant+"/replays/rpl_")+26 {
			w.Errorf("created %s (-want +got):\n%s", created.GetName(), diff)
		}
		done := w.awaitDone(created.GetName())
		want.State, want.ReplayedCount, want.FinishTime = fanfarev1.Replay_DONE, 3, done.GetFinishTime()
		if diff := cmp.Diff(want, done, protocmp.Transform()); diff != "" || done.GetFinishTime() == nil {
			w.Errorf("done (-want +got):\n%s", diff)
		}
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Hour)
		w.checkGiven("replayed", worker, "e1", "e2", "e3")
		delivered := fanfarev1.Delivery_DELIVERED
		w.checkHistory("replayed", s, map[string]fanfarev1.Delivery_State{"e1": delivered, "e2": delivered, "e3": delivered})
		if diff := cmp.Diff(done, w.getReplay(created.GetName()), protocmp.Transform()); diff != "" {
			w.Errorf("it went on after it was done (-before +after):\n%s", diff)
		}
	})
}

// filtered is a world in which e1 (order.created) and e2 (order.paid, an hour
// later) are dead, e3 is delivered and e4 is pending: all of them owed to the
// first subscription, e2 also to the second.
func filtered(w *lives) (first, second *fanfarev1.Subscription, between *timestamppb.Timestamp) {
	w.Helper()
	first, second = w.subscribe(tenant, "order.*"), w.subscribe(tenant, "order.paid")
	w.kill("order.created", "e1")
	w.pass(time.Hour)
	between = timestamppb.Now()
	w.kill("order.paid", "e2")
	worker := w.hand(linkv1.Outcome_DELIVERED)
	w.publishAs("order.shipped", "e3")
	w.pass(time.Second)
	worker.stop()
	w.publishAs("order.shipped", "e4")
	return first, second, between
}

func TestReplayFilters(t *testing.T) {
	const dead, delivered, cancelled = fanfarev1.Delivery_DEAD, fanfarev1.Delivery_DELIVERED, fanfarev1.Delivery_CANCELLED
	in := func(states ...fanfarev1.Delivery_State) []fanfarev1.Delivery_State { return states }
	for _, tt := range []struct {
		name   string
		replay func(first, second string, between *timestamppb.Timestamp) *fanfarev1.Replay
		want   []string // events made owed again, once for each subscription
	}{
		{"all that is dead", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{}
		}, []string{"e1", "e2", "e2"}},
		{"a subscription by its id", func(first, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{Subscription: first[len(tenant+"/subscriptions/"):]}
		}, []string{"e1", "e2"}},
		{"a subscription by its name", func(_, second string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{Subscription: second}
		}, []string{"e2"}},
		{"no such subscription", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{Subscription: "sub_none"}
		}, nil},
		{"from a time on", func(_, _ string, between *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{StartTime: between}
		}, []string{"e2", "e2"}},
		{"before a time", func(_, _ string, between *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{EndTime: between}
		}, []string{"e1"}},
		{"a type", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{EventTypes: []string{"order.created"}}
		}, []string{"e1"}},
		{"types", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{EventTypes: []string{"order", "order.p", "order.paid"}}
		}, []string{"e2", "e2"}},
		{"no such type", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{EventTypes: []string{"invoice.*"}}
		}, nil},
		{"what was delivered", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{States: in(delivered)}
		}, []string{"e3"}},
		{"several states, one of them twice", func(_, _ string, _ *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{States: in(delivered, dead, cancelled, dead)}
		}, []string{"e1", "e2", "e2", "e3"}},
		{"all together", func(first, _ string, between *timestamppb.Timestamp) *fanfarev1.Replay {
			return &fanfarev1.Replay{Subscription: first, StartTime: between, EventTypes: []string{"order.**"}, States: in(dead)}
		}, []string{"e2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLives(t, nil, func(w *lives) {
				first, second, between := filtered(w)
				done := w.awaitDone(w.replay(tt.replay(first.GetName(), second.GetName(), between)).GetName())
				if n := int64(len(tt.want)); done.GetMatchedCount() != n || done.GetReplayedCount() != n || done.GetSkippedCount() != 0 {
					w.Errorf("%d matched, %d replayed, %d left out; want %d, %[4]d, 0",
						done.GetMatchedCount(), done.GetReplayedCount(), done.GetSkippedCount(), n)
				}
				worker := w.hand(linkv1.Outcome_DELIVERED)
				w.pass(time.Minute)
				w.checkGiven("replayed", worker, append(slices.Clone(tt.want), "e4")...)
			})
		})
	}
}

// What cannot be owed again is left out, and counted.
func TestReplayLeavesOut(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		s, deleted := w.subscribe(tenant, "a"), w.subscribe(tenant, "a")
		w.kill("a", "lost")
		w.publishAs("b", "nobody's") // so that what is purged ends here
		w.purge()
		w.kill("a", "here")
		must[any](w.world)(w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: deleted.GetName()}))
		done := w.awaitDone(w.replay(&fanfarev1.Replay{}).GetName())
		if done.GetMatchedCount() != 4 || done.GetReplayedCount() != 1 || done.GetSkippedCount() != 3 {
			w.Errorf("done: %v, want 4 matched, 1 replayed, 3 left out", done)
		}
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Minute)
		w.checkGiven("replayed", worker, "here")
		w.checkHistory("replayed", s, map[string]fanfarev1.Delivery_State{
			"lost": fanfarev1.Delivery_DEAD, "here": fanfarev1.Delivery_DELIVERED,
		})
	})
}

// scarce are limits under which a replay comes to a halt while nobody sends.
func scarce() *linkv1.Limits { return &linkv1.Limits{OutstandingHealthy: 2, OutstandingFailing: 2} }

// halted is a replay of e1 to e5 that has made as much owed as there is room
// for, and waits.
func halted(w *lives) (*fanfarev1.Subscription, *fanfarev1.Replay) {
	w.Helper()
	s := w.subscribe(tenant)
	w.kill("a", "e1", "e2", "e3", "e4", "e5")
	created := w.replay(&fanfarev1.Replay{})
	w.pass(time.Minute)
	running := w.getReplay(created.GetName())
	if running.GetState() != fanfarev1.Replay_RUNNING || running.GetMatchedCount() != 5 ||
		running.GetReplayedCount() != 2 || running.GetSkippedCount() != 0 || running.GetFinishTime() != nil {
		w.Fatalf("after a minute without room: %v, want 2 of 5", running)
	}
	return s, running
}

func TestReplaySurvivesRestarts(t *testing.T) {
	inLives(t, scarce(), func(w *lives) {
		s, running := halted(w)
		w.restart()
		if diff := cmp.Diff(running, w.getReplay(running.GetName()), protocmp.Transform()); diff != "" {
			w.Errorf("after a restart (-want +got):\n%s", diff)
		}
		worker := w.hand(linkv1.Outcome_DELIVERED)
		done := w.awaitDone(running.GetName())
		if done.GetReplayedCount() != 5 || done.GetSkippedCount() != 0 {
			w.Errorf("done: %v, want 5 of 5", done)
		}
		w.pass(time.Minute)
		w.checkGiven("replayed", worker, "e1", "e2", "e3", "e4", "e5")
		delivered := fanfarev1.Delivery_DELIVERED
		w.checkHistory("replayed", s, map[string]fanfarev1.Delivery_State{
			"e1": delivered, "e2": delivered, "e3": delivered, "e4": delivered, "e5": delivered,
		})
		w.restart()
		if diff := cmp.Diff(done, w.getReplay(done.GetName()), protocmp.Transform()); diff != "" {
			w.Errorf("done, after another restart (-want +got):\n%s", diff)
		}
	})
}

// What dies again is not replayed again: the replay has gone past it.
func TestReplayGoesOverEachOnce(t *testing.T) {
	inLives(t, scarce(), func(w *lives) {
		s, running := halted(w)
		worker := w.hand(linkv1.Outcome_DEAD)
		w.awaitDone(running.GetName())
		w.pass(time.Hour)
		w.checkGiven("replayed", worker, "e1", "e2", "e3", "e4", "e5")
		if got := w.history(s)["e1"]; got != fanfarev1.Delivery_DEAD {
			w.Errorf("what died again is %s", got)
		}
	})
}

func TestCancelReplay(t *testing.T) {
	inLives(t, scarce(), func(w *lives) {
		s, running := halted(w)
		cancelled := w.cancel(running.GetName())
		want := proto.CloneOf(running)
		want.State, want.FinishTime = fanfarev1.Replay_CANCELLED, timestamppb.Now()
		if diff := cmp.Diff(want, cancelled, protocmp.Transform()); diff != "" {
			w.Errorf("cancelled (-want +got):\n%s", diff)
		}
		w.pass(time.Minute)
		for what, got := range map[string]*fanfarev1.Replay{
			"looked at": w.getReplay(running.GetName()), "cancelled again": w.cancel(running.GetName()),
		} {
			if diff := cmp.Diff(cancelled, got, protocmp.Transform()); diff != "" {
				w.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		// What it has made owed stays owed.
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Hour)
		w.checkGiven("cancelled", worker, "e1", "e2")
		const dead, delivered = fanfarev1.Delivery_DEAD, fanfarev1.Delivery_DELIVERED
		w.checkHistory("cancelled", s, map[string]fanfarev1.Delivery_State{
			"e1": delivered, "e2": delivered, "e3": dead, "e4": dead, "e5": dead,
		})

		done := w.awaitDone(w.replay(&fanfarev1.Replay{}).GetName())
		if diff := cmp.Diff(done, w.cancel(done.GetName()), protocmp.Transform()); diff != "" {
			w.Errorf("what is done was cancelled (-want +got):\n%s", diff)
		}
	})
}

func TestReplayErrors(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		must[*fanfarev1.Tenant](w.world)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		const dead = fanfarev1.Delivery_DEAD
		now := timestamppb.Now()
		for _, tt := range []struct {
			name   string
			parent string
			replay *fanfarev1.Replay
			code   codes.Code
			field  string
		}{
			{"no parent", "", &fanfarev1.Replay{}, codes.InvalidArgument, "parent"},
			{"a tenant that is not there", "tenants/nobody", &fanfarev1.Replay{}, codes.NotFound, ""},
			{"another's subscription", tenant, &fanfarev1.Replay{Subscription: "tenants/acme/subscriptions/sub_1"}, codes.InvalidArgument, "replay.subscription"},
			{"another resource", tenant, &fanfarev1.Replay{Subscription: tenant + "/events/e1"}, codes.InvalidArgument, "replay.subscription"},
			{"what has not ended", tenant, &fanfarev1.Replay{States: []fanfarev1.Delivery_State{dead, fanfarev1.Delivery_PENDING}}, codes.InvalidArgument, "replay.states[1]"},
			{"no state", tenant, &fanfarev1.Replay{States: []fanfarev1.Delivery_State{0}}, codes.InvalidArgument, "replay.states[0]"},
			{"a state that is none", tenant, &fanfarev1.Replay{States: []fanfarev1.Delivery_State{dead, dead, 99}}, codes.InvalidArgument, "replay.states[2]"},
			{"a pattern that is none", tenant, &fanfarev1.Replay{EventTypes: []string{"a", "a b"}}, codes.InvalidArgument, "replay.event_types[1]"},
			{"too many patterns", tenant, &fanfarev1.Replay{EventTypes: slices.Repeat([]string{"a"}, 101)}, codes.InvalidArgument, "replay.event_types"},
			{"a time that cannot be", tenant, &fanfarev1.Replay{StartTime: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument, "replay.start_time"},
			{"an end that cannot be", tenant, &fanfarev1.Replay{StartTime: now, EndTime: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument, "replay.end_time"},
		} {
			_, err := w.deliveries.CreateReplay(w.Context(), &fanfarev1.CreateReplayRequest{Parent: tt.parent, Replay: tt.replay})
			w.refused(tt.name, err, tt.code, tt.field)
		}
		mine := w.replay(nil) // all that is dead
		for _, tt := range []struct {
			name  string
			code  codes.Code
			field string
		}{
			{"", codes.InvalidArgument, "name"},
			{tenant + "/deliveries/dlv_1", codes.InvalidArgument, "name"},
			{tenant + "/replays/rpl_none", codes.NotFound, ""},
			{"tenants/nobody/replays/rpl_none", codes.NotFound, ""},
			{"tenants/acme/replays/" + mine.GetName()[len(tenant+"/replays/"):], codes.NotFound, ""},
		} {
			_, err := w.deliveries.GetReplay(w.Context(), &fanfarev1.GetReplayRequest{Name: tt.name})
			w.refused("looking at "+tt.name, err, tt.code, tt.field)
			_, err = w.deliveries.CancelReplay(w.Context(), &fanfarev1.CancelReplayRequest{Name: tt.name})
			w.refused("cancelling "+tt.name, err, tt.code, tt.field)
		}
	})
}

// maxRunningReplays is of the API.
const maxRunningReplays = 10

func TestReplaysThatRun(t *testing.T) {
	inLives(t, scarce(), func(w *lives) {
		must[*fanfarev1.Tenant](w.world)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		_, first := halted(w)
		for range maxRunningReplays - 1 {
			w.replay(&fanfarev1.Replay{})
		}
		w.pass(time.Minute)
		create := func(parent string) error {
			_, err := w.deliveries.CreateReplay(w.Context(), &fanfarev1.CreateReplayRequest{Parent: parent, Replay: &fanfarev1.Replay{}})
			return err
		}
		w.refused("one too many", create(tenant), codes.ResourceExhausted, "")
		must[any](w.world)(nil, create("tenants/acme"))
		w.cancel(first.GetName())
		must[any](w.world)(nil, create(tenant))
		w.refused("one too many again", create(tenant), codes.ResourceExhausted, "")
	})
}

func (w *lives) listReplays(parent string, size int32) (pages [][]string) {
	w.Helper()
	request := &fanfarev1.ListReplaysRequest{Parent: parent, PageSize: size}
	for {
		page := must[*fanfarev1.ListReplaysResponse](w.world)(w.deliveries.ListReplays(w.Context(), request))
		var names []string
		for _, r := range page.GetReplays() {
			names = append(names, r.GetName())
		}
		pages = append(pages, names)
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return pages
		}
	}
}

func TestListReplays(t *testing.T) {
	inLives(t, nil, func(w *lives) {
		must[*fanfarev1.Tenant](w.world)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		if got := w.listReplays(tenant, 0); len(got) != 1 || len(got[0]) != 0 {
			w.Errorf("before the first: %q", got)
		}
		var newest []string
		for range 5 {
			w.pass(time.Millisecond) // their ids sort by it
			newest = slices.Insert(newest, 0, w.replay(&fanfarev1.Replay{}).GetName())
		}
		other := must[*fanfarev1.Replay](w.world)(w.deliveries.CreateReplay(w.Context(),
			&fanfarev1.CreateReplayRequest{Parent: "tenants/acme"}))
		for size, want := range map[int32][][]string{
			0: {newest}, 1000: {newest}, 5: {newest}, 2: {newest[:2], newest[2:4], newest[4:]}, 4: {newest[:4], newest[4:]},
		} {
			if diff := cmp.Diff(want, w.listReplays(tenant, size)); diff != "" {
				w.Errorf("in pages of %d (-want +got):\n%s", size, diff)
			}
		}
		if diff := cmp.Diff([][]string{{other.GetName()}}, w.listReplays("tenants/acme", 1)); diff != "" {
			w.Errorf("another tenant's (-want +got):\n%s", diff)
		}
		for _, tt := range []struct {
			request *fanfarev1.ListReplaysRequest
			code    codes.Code
			field   string
		}{
			{&fanfarev1.ListReplaysRequest{}, codes.InvalidArgument, "parent"},
			{&fanfarev1.ListReplaysRequest{Parent: "tenants/nobody"}, codes.NotFound, ""},
			{&fanfarev1.ListReplaysRequest{Parent: tenant, PageSize: -1}, codes.InvalidArgument, "page_size"},
			{&fanfarev1.ListReplaysRequest{Parent: tenant, PageToken: "!"}, codes.InvalidArgument, "page_token"},
		} {
			_, err := w.deliveries.ListReplays(w.Context(), tt.request)
			w.refused(tt.request.String(), err, tt.code, tt.field)
		}
	})
}

// The last hundred that ended are remembered, and all that run.
func TestReplaysAreForgotten(t *testing.T) {
	const remembered = 100
	inLives(t, scarce(), func(w *lives) {
		_, running := halted(w)
		var newest []string
		for range remembered + 3 {
			w.pass(time.Millisecond)
			r := w.replay(&fanfarev1.Replay{Subscription: "sub_none"})
			newest = slices.Insert(newest, 0, w.awaitDone(r.GetName()).GetName())
		}
		want := append(slices.Clone(newest[:remembered]), running.GetName())
		if diff := cmp.Diff([][]string{want}, w.listReplays(tenant, 1000)); diff != "" {
			w.Errorf("replays (-want +got):\n%s", diff)
		}
		_, err := w.deliveries.GetReplay(w.Context(), &fanfarev1.GetReplayRequest{Name: newest[remembered]})
		w.refused("one that is forgotten", err, codes.NotFound, "")
	})
}

// What retention has ended is EXPIRED, and can be listed but not sent: the log
// holds it no longer.
func TestExpired(t *testing.T) {
	if testing.Short() {
		t.Skip("a week takes seconds")
	}
	inLives(t, nil, func(w *lives) {
		s := w.subscribe(tenant)
		w.publishAs("a", "e1")
		w.pass(lead.DefaultRetention / 2)
		w.publishAs("a", "e2")
		w.pass(lead.DefaultRetention/2 + time.Hour)
		w.checkHistory("after retention", s, map[string]fanfarev1.Delivery_State{
			"e1": fanfarev1.Delivery_EXPIRED, "e2": fanfarev1.Delivery_PENDING,
		})
		if got := w.list(&fanfarev1.ListDeliveriesRequest{State: fanfarev1.Delivery_EXPIRED}); len(got) != 1 {
			w.Errorf("expired are %v, want one", got)
		}
		_, err := w.retry(w.deliveryOf("e1").GetName())
		w.refused("retrying it", err, codes.FailedPrecondition, "name")
		done := w.awaitDone(w.replay(&fanfarev1.Replay{}).GetName())
		if done.GetMatchedCount() != 1 || done.GetSkippedCount() != 1 || done.GetReplayedCount() != 0 {
			w.Errorf("replayed: %v, want 1 left out", done)
		}
		worker := w.hand(linkv1.Outcome_DELIVERED)
		w.pass(time.Minute)
		w.checkGiven("after retention", worker, "e2")
	})
}

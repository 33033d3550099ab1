package worker

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// inBubble runs a test in a bubble, in a world of its own.
func inBubble(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t)) })
}

// oneHook is what most tests begin with: a worker that owns slot 3 of
// partition 1, attached to its leader, with subscription 1 at one endpoint.
type oneHook struct {
	*world
	lease  cluster.LeaseID
	epoch  int64 // of the shard
	leader *leader
	peer   *peer
	hook   *hook
}

func hookEndpoints() map[int32][]*linkv1.Endpoint {
	return map[int32][]*linkv1.Endpoint{3: {testEndpoint(1, "http://hook.test/")}}
}

func (w *world) oneHook(change func(*Config)) *oneHook {
	w.t.Helper()
	o := &oneHook{world: w, hook: w.hook("hook.test"), leader: w.lead(1, "leader-a", 7)}
	w.start(change)
	o.lease = w.lease(0)
	o.epoch = w.give(o.lease, 1, 3)
	var claims []*linkv1.Claim
	o.peer, claims = o.leader.welcome(1, hookEndpoints())
	want := &linkv1.Claim{Slot: 3, Epoch: o.epoch}
	if diff := cmp.Diff(want, claims[0], protocmp.Transform()); diff != "" {
		w.t.Errorf("claim (-want +got):\n%s", diff)
	}
	return o
}

func TestDelivers(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.dispatch(10, 1)
		r := o.hook.next()
		secret, err := signature.ParseSecret(testSecret)
		if err != nil {
			t.Fatal(err)
		}
		if err := signature.Verify([]signature.Secret{secret}, r.header, r.body, time.Now(), time.Second); err != nil {
			t.Errorf("signature: %v", err)
		}
		if got, want := r.header.Get("User-Agent"), "Fanfare/1.2"; got != want {
			t.Errorf("User-Agent: %q, want %q", got, want)
		}
		pass(time.Second)
		r.answer <- http.StatusOK
		batch := o.peer.outcomes()
		want := &linkv1.OutcomeBatch{Number: 1, Outcomes: []*linkv1.Outcome{{
			Kind: linkv1.Outcome_DELIVERED, Subscription: 1, Sequence: 10, Attempt: 1,
			StartTimeUnixMs: batch.GetOutcomes()[0].GetStartTimeUnixMs(), LatencyUs: 1_000_000, StatusCode: 200,
		}}}
		if diff := cmp.Diff(want, batch, protocmp.Transform()); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		o.peer.durable(1)
		o.peer.silent(time.Hour)
	})
}

func TestHello(t *testing.T) {
	inBubble(t, func(w *world) {
		l := w.lead(1, "leader-a", 7)
		w.start(func(c *Config) { c.CreditBytes = 1000 })
		w.give(w.lease(0), 1, 3)
		_, hello := l.accept()
		want := &linkv1.Hello{
			Worker: "w1", Incarnation: hello.GetIncarnation(), Partition: 1, CreditCount: 4096, CreditBytes: 1000, Version: "1.2",
			TakesDispatchBatches: true,
		}
		if diff := cmp.Diff(want, hello, protocmp.Transform()); diff != "" || hello.GetIncarnation() == "" {
			t.Errorf("hello (-want +got):\n%s", diff)
		}
	})
}

// Outcomes that end together travel together, at the leader's pace.
func TestOutcomesAreBatched(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		for sequence := range uint64(6) {
			o.peer.dispatch(sequence+1, 1)
		}
		for range 6 {
			o.hook.next().answer <- http.StatusOK
		}
		begin := time.Now()
		if got := len(o.peer.outcomes().GetOutcomes()); got != 6 {
			t.Errorf("first batch has %d outcomes, want 6", got)
		}
		if took := time.Since(begin); took != 20*time.Millisecond {
			t.Errorf("batch came after %v, want 20 ms", took)
		}
	})
}

func TestSubscriptionChanges(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		other := w.hook("other.test")
		o.peer.dispatch(1, 1)
		first := o.hook.next()
		o.peer.change(&linkv1.SubscriptionDelta{Slot: 3, Put: testEndpoint(1, "http://other.test/")})
		o.peer.dispatch(2, 1)
		other.next().answer <- http.StatusOK
		o.peer.change(&linkv1.SubscriptionDelta{Slot: 3, Deleted: 1})
		o.peer.dispatch(3, 1)
		first.answer <- http.StatusOK // begun before, so it ends as it ends
		want := []string{"1 DELIVERED", "2 DELIVERED", "3 RETURNED"}
		if diff := cmp.Diff(want, kinds(o.peer.collect(3))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
	})
}

// A session that is cut changes nothing for requests on the wire, and what is
// not durable is said again.
func TestSessionCut(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		for sequence := range uint64(3) {
			o.peer.dispatch(sequence+1, 1)
		}
		held := []*hooked{o.hook.next(), o.hook.next(), o.hook.next()}
		held[0].answer <- http.StatusOK
		durable := o.peer.outcomes()
		o.peer.durable(durable.GetNumber())
		held[1].answer <- http.StatusServiceUnavailable
		lost := o.peer.outcomes()
		o.peer.cut <- status.Error(codes.Unavailable, "going")
		held[2].answer <- http.StatusOK

		peer, hello := o.leader.accept()
		if hello.GetLastDurable() != durable.GetNumber() {
			t.Errorf("last durable is %d, want %d", hello.GetLastDurable(), durable.GetNumber())
		}
		claim := peer.claim()
		if claim.GetEpoch() != o.epoch || len(claim.GetInHand()) != 2 {
			t.Errorf("claim is %v, want 2 in hand", claim)
		}
		if diff := cmp.Diff(lost, peer.outcomes(), protocmp.Transform()); diff != "" {
			t.Errorf("said again (-want +got):\n%s", diff)
		}
		peer.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{Epoch: 7}}})
		peer.snapshot(claim, hookEndpoints()[3]...)
		rest := peer.outcomes()
		if rest.GetNumber() != lost.GetNumber()+1 || rest.GetOutcomes()[0].GetKind() != linkv1.Outcome_DELIVERED {
			t.Errorf("then %v, want what ended meanwhile", rest)
		}
		peer.durable(rest.GetNumber())
		peer.dispatch(4, 1)
		o.hook.next().answer <- http.StatusOK
		if diff := cmp.Diff([]string{"4 DELIVERED"}, kinds(peer.collect(1))); diff != "" {
			t.Errorf("after all that (-want +got):\n%s", diff)
		}
	})
}

// What a new leader does not name any more is gone.
func TestSnapshotReplacesEndpoints(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		for sequence := range uint64(9) { // one more than the window
			o.peer.dispatch(sequence+1, 1)
		}
		var held []*hooked
		for range 8 {
			held = append(held, o.hook.next())
		}
		o.peer.cut <- nil
		peer, claims := o.leader.welcome(1, nil)
		if got := len(claims[0].GetInHand()); got != 9 {
			t.Errorf("%d in hand, want 9", got)
		}
		if diff := cmp.Diff([]string{"9 RETURNED"}, kinds(peer.collect(1))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		for _, r := range held {
			r.answer <- http.StatusOK
		}
		peer.collect(8)
	})
}

// Sessions that fail are opened anew, ever more slowly.
func TestBackoff(t *testing.T) {
	inBubble(t, func(w *world) {
		l := w.lead(1, "leader-a", 7)
		w.start(nil)
		l.refuse <- status.Error(codes.Unavailable, "no")
		w.give(w.lease(0), 1, 3)
		last := time.Now()
		var gaps []time.Duration
		for range 9 {
			l.refuse <- status.Error(codes.Unavailable, "no") // taken when the one before was
			gaps = append(gaps, time.Since(last))
			last = time.Now()
		}
		want := []time.Duration{ // 20 % less than double each time, by the random source
			0, 40 * time.Millisecond, 80 * time.Millisecond, 160 * time.Millisecond, 320 * time.Millisecond,
			640 * time.Millisecond, 1280 * time.Millisecond, 2560 * time.Millisecond, 4 * time.Second,
		}
		if diff := cmp.Diff(want, gaps); diff != "" {
			t.Errorf("gaps (-want +got):\n%s", diff)
		}
	})
}

func TestLeaderMoves(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.dispatch(1, 1)
		r := o.hook.next()
		begin := time.Now()
		b := w.lead(1, "leader-b", 8)
		o.peer.broken()
		peer, claims := b.welcome(1, hookEndpoints())
		if got := len(claims[0].GetInHand()); got != 1 {
			t.Errorf("%d in hand, want 1", got)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the new leader was found after %v", took)
		}
		r.answer <- http.StatusOK
		if diff := cmp.Diff([]string{"1 DELIVERED"}, kinds(peer.collect(1))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
	})
}

// A leader whose ready key is gone may lead on, so the session goes on too.
func TestLeaderKeyGone(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		key := cluster.PartitionReadyKey(1)
		if _, err := w.assign.Delete(t.Context(), key, w.revision(key)); err != nil {
			t.Fatal(err)
		}
		o.peer.silent(time.Minute)
		o.peer.dispatch(1, 1)
		o.hook.next().answer <- http.StatusOK
		o.peer.collect(1)
	})
}

func TestBrokenProtocolEndsSession(t *testing.T) {
	welcome := &linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{Epoch: 7}}}
	tests := []struct {
		name string
		says []*linkv1.AttachResponse
	}{
		{"no welcome", []*linkv1.AttachResponse{{Message: &linkv1.AttachResponse_Durable{Durable: &linkv1.Durable{}}}}},
		{"old epoch", []*linkv1.AttachResponse{{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{Epoch: 6}}}}},
		{"two welcomes", []*linkv1.AttachResponse{welcome, welcome}},
		{"durable beyond what was sent", []*linkv1.AttachResponse{welcome, {Message: &linkv1.AttachResponse_Durable{Durable: &linkv1.Durable{Number: 1}}}}},
		{"silence", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				l := w.lead(1, "leader-a", 7)
				w.start(nil)
				w.give(w.lease(0), 1, 3)
				peer, _ := l.accept()
				for _, m := range test.says {
					peer.send(m)
				}
				begin := time.Now()
				peer.broken()
				if took := time.Since(begin); took > welcomeTimeout {
					t.Errorf("session ended after %v", took)
				}
				l.welcome(1, nil) // and a new one is opened
			})
		})
	}
}

// Nothing is taken beyond twice the credit.
func TestCredit(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(func(c *Config) { c.CreditCount = 1 })
		for sequence := range uint64(3) {
			o.peer.dispatch(sequence+1, 1)
		}
		held := []*hooked{o.hook.next(), o.hook.next()}
		batch := o.peer.outcomes()
		if diff := cmp.Diff([]string{"3 RETURNED"}, kinds(batch.GetOutcomes())); diff != "" {
			t.Errorf("beyond the credit (-want +got):\n%s", diff)
		}
		o.peer.durable(batch.GetNumber())
		for _, r := range held {
			r.answer <- http.StatusOK
		}
		o.peer.outcomes() // ended, but not durable: they still take credit
		o.peer.dispatch(4, 1)
		if diff := cmp.Diff([]string{"4 RETURNED"}, kinds(o.peer.outcomes().GetOutcomes())); diff != "" {
			t.Errorf("beyond the credit (-want +got):\n%s", diff)
		}
		o.peer.dispatch(5, 1)
		o.peer.dispatch(6, 1) // more than four times the credit
		o.peer.broken()
	})
}

func TestCreditBytes(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(func(c *Config) { c.CreditBytes = 25 }) // an event has 22
		o.peer.dispatch(1, 1)
		o.hook.next().answer <- http.StatusOK
		ended := o.peer.outcomes() // not durable, so it still takes credit
		o.peer.dispatch(2, 1)
		o.hook.next()
		o.peer.dispatch(3, 1)
		if diff := cmp.Diff([]string{"3 RETURNED"}, kinds(o.peer.outcomes().GetOutcomes())); diff != "" {
			t.Errorf("beyond the credit (-want +got):\n%s", diff)
		}
		o.peer.durable(ended.GetNumber())
		o.peer.dispatch(4, 1) // there is room for one again
		if got := o.hook.next().header.Get("Webhook-Id"); got != "evt_4" {
			t.Errorf("request for %s, want evt_4", got)
		}
	})
}

// An event's bytes are needed no more when its delivery has ended, durable or
// not.
func TestEndedDeliveriesHoldNoEvents(t *testing.T) {
	a := newAgent(linkConfig{logger: slog.New(slog.DiscardHandler)}, 1, nil, nil)
	d := testDelivery(t, 1)
	a.end(d, d.newOutcome(linkv1.Outcome_RETURNED))
	if d.message != nil {
		t.Error("the delivery has ended, and its event is kept")
	}
}

// Keys that an earlier life of the member was given, or that name another, are
// not the worker's.
func TestShardsOfOthers(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		other, err := w.assign.Grant(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		w.give(other, 1, 4)
		w.put(cluster.ShardKey(cluster.Shard{Partition: 1, Slot: 5}), cluster.MemberID("w2"), o.lease)
		o.peer.silent(time.Minute)
		if err := w.assign.Revoke(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	})
}

// A session with nothing left to say ends without complaint.
func TestPoliteEndIsNoTrouble(t *testing.T) {
	inBubble(t, func(w *world) {
		var log bytes.Buffer
		o := w.oneHook(func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		w.take(1, 3)
		o.peer.release()
		o.peer.goodbye()
		pass(time.Minute)
		w.finish()
		if log.Len() > 0 {
			t.Errorf("logged: %s", log.String())
		}
	})
}

func TestShardLost(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		for sequence := range uint64(10) {
			o.peer.dispatch(sequence+1, 1)
		}
		var held []*hooked
		for range 8 {
			held = append(held, o.hook.next())
		}
		synctest.Wait() // until the last two are queued as well
		w.take(1, 3)
		batch := o.peer.outcomes() // first what was queued
		for _, outcome := range batch.GetOutcomes() {
			if outcome.GetKind() != linkv1.Outcome_RETURNED || outcome.GetSequence() < 9 {
				t.Errorf("%v came back", outcome)
			}
		}
		if got := len(batch.GetOutcomes()); got != 2 {
			t.Errorf("%d came back, want 2", got)
		}
		if got := o.peer.release().GetSlot(); got != 3 { // then the slot
			t.Errorf("slot %d is released, want 3", got)
		}
		o.peer.durable(batch.GetNumber())
		o.peer.dispatch(11, 1) // it has crossed the release
		for _, r := range held {
			r.answer <- http.StatusOK
		}
		want := []string{"1 DELIVERED", "11 RETURNED", "2 DELIVERED", "3 DELIVERED", "4 DELIVERED", "5 DELIVERED", "6 DELIVERED", "7 DELIVERED", "8 DELIVERED"}
		if diff := cmp.Diff(want, kinds(o.peer.collect(9))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		o.peer.goodbye() // nothing left to say
		o.hook.silent(time.Minute)
	})
}

// A shard that was lost and won back in one step is released and claimed anew,
// with what is still on the wire.
func TestShardWonBack(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.dispatch(1, 1)
		r := o.hook.next()
		epoch := w.give(o.lease, 1, 3)
		o.peer.release()
		claim := o.peer.claim()
		want := &linkv1.Claim{Slot: 3, Epoch: epoch, InHand: []*linkv1.DeliveryRef{{Subscription: 1, Sequence: 1}}}
		if diff := cmp.Diff(want, claim, protocmp.Transform()); diff != "" {
			t.Errorf("claim (-want +got):\n%s", diff)
		}
		o.peer.snapshot(&linkv1.Claim{Slot: 3, Epoch: o.epoch}, testEndpoint(1, "http://nowhere.test")) // the old claim's
		o.peer.snapshot(claim, hookEndpoints()[3]...)
		o.peer.dispatch(2, 1)
		o.hook.next().answer <- http.StatusOK
		r.answer <- http.StatusOK
		if diff := cmp.Diff([]string{"1 DELIVERED", "2 DELIVERED"}, kinds(o.peer.collect(2))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
	})
}

// A worker in doubt of its lease hands back what it has queued, and sends what
// the leader gives it from then on.
func TestLeaseInDoubt(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.change(&linkv1.SubscriptionDelta{Slot: 3, Put: patientEndpoint(1, "http://hook.test/")})
		for sequence := range uint64(10) {
			o.peer.dispatch(sequence+1, 1)
		}
		var held []*hooked
		for range 8 {
			held = append(held, o.hook.next())
		}
		w.store.Break(cluster.Refuse)
		begin := time.Now()
		if diff := cmp.Diff([]string{"10 RETURNED", "9 RETURNED"}, kinds(o.peer.collect(2))); diff != "" {
			t.Errorf("in doubt (-want +got):\n%s", diff)
		}
		if took := time.Since(begin); took > cluster.DefaultTTL {
			t.Errorf("doubt came after %v, the lease lasts %v", took, cluster.DefaultTTL)
		}
		for _, r := range held {
			r.answer <- http.StatusOK
		}
		o.peer.collect(8)
		o.peer.dispatch(9, 1)
		o.hook.next().answer <- http.StatusOK
		if diff := cmp.Diff([]string{"9 DELIVERED"}, kinds(o.peer.collect(1))); diff != "" {
			t.Errorf("sent in doubt (-want +got):\n%s", diff)
		}
	})
}

// patientEndpoint has the longest timeout there is.
func patientEndpoint(number uint64, url string) *linkv1.Endpoint {
	e := testEndpoint(number, url)
	e.Subscription.Timeout = durationpb.New(30 * time.Second)
	return e
}

// A worker that has lost its lease gives everything up and joins anew; what it
// had on the wire still counts.
func TestLeaseLost(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.change(&linkv1.SubscriptionDelta{Slot: 3, Put: patientEndpoint(1, "http://hook.test/")})
		o.peer.dispatch(1, 1)
		r := o.hook.next()
		if err := w.assign.Revoke(t.Context(), o.lease); err != nil {
			t.Fatal(err)
		}
		o.peer.release()
		r.answer <- http.StatusOK
		if diff := cmp.Diff([]string{"1 DELIVERED"}, kinds(o.peer.collect(1))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		o.peer.goodbye()
		w.give(w.lease(o.lease), 1, 3)
		peer, claims := o.leader.welcome(1, hookEndpoints())
		if got := len(claims[0].GetInHand()); got != 0 {
			t.Errorf("%d in hand, want none", got)
		}
		peer.dispatch(2, 1)
		o.hook.next().answer <- http.StatusOK
		if got := peer.outcomes().GetNumber(); got != 2 {
			t.Errorf("batch %d, want 2: the incarnation is the same", got)
		}
	})
}

func TestStop(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		for sequence := range uint64(9) {
			o.peer.dispatch(sequence+1, 1)
		}
		var held []*hooked
		for range 8 {
			held = append(held, o.hook.next())
		}
		w.stop()
		if diff := cmp.Diff([]string{"9 RETURNED"}, kinds(o.peer.collect(1))); diff != "" {
			t.Errorf("queued (-want +got):\n%s", diff)
		}
		o.peer.release()
		o.peer.silent(10 * time.Second)
		if info := w.member(); !info.Draining {
			t.Errorf("with requests on the wire the member is %v, want it draining", info)
		}
		for _, r := range held {
			r.answer <- http.StatusOK
		}
		for _, outcome := range o.peer.collect(8) {
			if outcome.GetKind() != linkv1.Outcome_DELIVERED {
				t.Errorf("on the wire: %v", outcome)
			}
		}
		o.peer.goodbye()
		w.await(w.done)
		if w.revision(cluster.MemberKey("w1")) != 0 || len(w.memory.Leases()) != 0 {
			t.Error("the worker has not left the cluster")
		}
	})
}

// What does not end in time is cut off, and said to be.
func TestStopCutsOff(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(func(c *Config) { c.StopGrace, c.ReportGrace = 4*time.Second, 3*time.Second })
		o.peer.dispatch(1, 1)
		o.hook.next() // never answered
		begin := time.Now()
		w.stop()
		o.peer.release()
		batch := o.peer.outcomes()
		outcome := batch.GetOutcomes()[0]
		if outcome.GetKind() != linkv1.Outcome_RETRY || outcome.GetErrorClass() != "canceled" {
			t.Errorf("cut off: %v", outcome)
		}
		if took := time.Since(begin); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("cut off after %v", took)
		}
		w.await(w.done) // though Durable never comes
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("stopped after %v", took)
		}
	})
}

// A worker whose leader is away when it stops tries to report until its grace
// is over, and no longer.
func TestStopWithoutLeader(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.dispatch(1, 1)
		r := o.hook.next()
		o.peer.cut <- status.Error(codes.Unavailable, "no")
		r.answer <- http.StatusOK
		begin := time.Now()
		w.stop()
		pass(2 * time.Second)
		peer, _ := o.leader.welcome(0, nil)
		for {
			m := peer.next()
			if m.GetClaim() != nil || m.GetRelease() != nil {
				continue // the session may have begun before the stop
			}
			peer.durable(m.GetOutcomes().GetNumber())
			break
		}
		peer.goodbye()
		w.await(w.done)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("stopped after %v", took)
		}
	})
}

func TestStopWithoutShards(t *testing.T) {
	inBubble(t, func(w *world) {
		w.start(nil)
		w.lease(0)
		begin := time.Now()
		w.finish()
		if took := time.Since(begin); took != 0 {
			t.Errorf("a worker without work stopped after %v", took)
		}
	})
}

func TestStopWithoutStore(t *testing.T) {
	inBubble(t, func(w *world) {
		w.store.Break(cluster.Refuse)
		w.start(nil)
		pass(time.Minute)
		w.finish()
	})
}

// Endpoints that hang hold neither the slots nor the queue of one that works.
func TestHangingEndpointsDoNotSlowOthers(t *testing.T) {
	inBubble(t, func(w *world) {
		const hanging, slots = 100, 64
		w.serve("hang.test", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}))
		w.serve("quick.test", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			pass(10 * time.Millisecond)
		}))
		l := w.lead(1, "leader-a", 7)
		w.start(func(c *Config) { c.MaxRequests = slots })
		endpoints := []*linkv1.Endpoint{testEndpoint(1, "http://quick.test/")}
		var numbers []uint64
		for number := uint64(2); number < 2+hanging; number++ {
			endpoints = append(endpoints, testEndpoint(number, "http://hang.test/"))
			numbers = append(numbers, number)
		}
		w.give(w.lease(0), 1, 3)
		peer, _ := l.welcome(1, map[int32][]*linkv1.Endpoint{3: endpoints})
		peer.dispatch(1, 1)
		peer.collect(1) // quick has proven itself
		for sequence := uint64(2); sequence < 12; sequence++ {
			peer.dispatch(sequence, numbers...)
		}
		synctest.Wait()
		begin := time.Now()
		for sequence := uint64(100); sequence < 200; sequence++ {
			peer.dispatch(sequence, 1)
		}
		got := peer.collect(100)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("100 deliveries of 10 ms took %v", took)
		}
		for _, outcome := range got {
			if outcome.GetSubscription() != 1 || outcome.GetKind() != linkv1.Outcome_DELIVERED {
				t.Errorf("outcome %v", outcome)
			}
		}
	})
}

// After several failures in a row, what is queued for an endpoint goes home.
func TestFailingEndpointIsHandedBack(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		o.peer.change(&linkv1.SubscriptionDelta{Slot: 3, Put: testEndpoint(1, "http://nobody.test/")})
		for sequence := range uint64(50) {
			o.peer.dispatch(sequence+1, 1)
		}
		count := map[string]int{}
		for _, outcome := range o.peer.collect(50) {
			count[outcome.GetKind().String()+" "+outcome.GetErrorClass()]++
		}
		if count["RETRY connect"] < handBackAfter || count["RETURNED "] == 0 || len(count) != 2 {
			t.Errorf("outcomes: %v", count)
		}
	})
}

// The same event to several subscriptions, some of them unknown.
func TestDispatchToMany(t *testing.T) {
	inBubble(t, func(w *world) {
		l := w.lead(1, "leader-a", 7)
		var requests atomic.Int32
		w.serve("hook.test", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			requests.Add(1)
		}))
		w.start(nil)
		w.give(w.lease(0), 1, 3, 4)
		peer, claims := l.welcome(2, map[int32][]*linkv1.Endpoint{
			3: {testEndpoint(1, "http://hook.test/1"), testEndpoint(2, "http://hook.test/2")},
			4: {testEndpoint(3, "http://hook.test/3")},
		})
		slots := []int32{claims[0].GetSlot(), claims[1].GetSlot()}
		slices.Sort(slots)
		if diff := cmp.Diff([]int32{3, 4}, slots); diff != "" {
			t.Errorf("claimed slots (-want +got):\n%s", diff)
		}
		peer.dispatch(1, 1, 2, 3, 4)
		want := []string{"1 DELIVERED", "1 DELIVERED", "1 DELIVERED", "1 RETURNED"}
		if diff := cmp.Diff(want, kinds(peer.collect(4))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		if got := requests.Load(); got != 3 {
			t.Errorf("%d requests, want 3", got)
		}
	})
}

// Each partition has its link, its numbers and its subscriptions.
func TestTwoPartitions(t *testing.T) {
	inBubble(t, func(w *world) {
		o := w.oneHook(nil)
		l, other := w.lead(2, "leader-b", 3), w.hook("other.test")
		w.give(o.lease, 2, 3)
		second, _ := l.welcome(1, map[int32][]*linkv1.Endpoint{3: {testEndpoint(1, "http://other.test/")}})
		o.peer.dispatch(1, 1)
		second.dispatch(1, 1)
		o.hook.next().answer <- http.StatusOK
		other.next().answer <- http.StatusOK
		for partition, p := range []*peer{o.peer, second} {
			batch := p.outcomes()
			if batch.GetNumber() != 1 || len(batch.GetOutcomes()) != 1 {
				t.Errorf("partition %d: %v, want batch 1 with one outcome", partition+1, batch)
			}
		}
		w.take(2, 3) // which is nothing to the first
		second.release()
		o.peer.silent(time.Minute)
	})
}

func TestMetrics(t *testing.T) {
	inBubble(t, func(w *world) {
		reader := metric.NewManualReader()
		provider := metric.NewMeterProvider(metric.WithReader(reader))
		o := w.oneHook(func(c *Config) { c.MeterProvider = provider })
		o.peer.dispatch(1, 1)
		o.peer.dispatch(2, 1)
		o.hook.next().answer <- http.StatusOK
		o.hook.next()
		o.peer.collect(1)
		synctest.Wait()
		var data metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &data); err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, m := range data.ScopeMetrics[0].Metrics {
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				got[m.Name] = int64(d.DataPoints[0].Count)
			case metricdata.Gauge[int64]:
				got[m.Name] = d.DataPoints[0].Value
			}
		}
		want := map[string]int64{
			"fanfare.attempt.duration": 1, "fanfare.delivery.duration": 1, "fanfare.worker.in_hand": 1, "fanfare.worker.requests": 1,
			"fanfare.worker.requests.limit": DefaultMaxRequests, "fanfare.worker.endpoints": 1, "fanfare.worker.window": initialWindow + 1,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

func TestConfigErrorsNameTheField(t *testing.T) {
	for field, spoil := range map[string]func(*Config){
		"Store":       func(c *Config) { c.Store = nil },
		"Client":      func(c *Config) { c.Client = nil },
		"DialOptions": func(c *Config) { c.DialOptions = nil },
		"Logger":      func(c *Config) { c.Logger = nil },
		"MaxRequests": func(c *Config) { c.MaxRequests = -1 },
		"StopGrace":   func(c *Config) { c.StopGrace = -1 },
		"ReportGrace": func(c *Config) { c.ReportGrace = -1 },
		"member id":   func(c *Config) { c.ID = "a/b" },
	} {
		t.Run(field, func(t *testing.T) {
			config := Config{
				ID: "w1", Store: cluster.NewMemory().Client(), Client: respond(200, nil, http.NoBody),
				DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
				Logger:      slog.New(slog.DiscardHandler),
			}
			if _, err := New(config); err != nil {
				t.Fatalf("a valid config: %v", err)
			}
			spoil(&config)
			if _, err := New(config); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("error is %v, want it to name %s", err, field)
			}
		})
	}
}

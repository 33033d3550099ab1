package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// busy returns a book in which something of everything has happened:
// subscription 1 is owed 2/0, behind from 2/1, and wants other types since
// record 3, 2 is owed both events after a failure, 3 was deleted, 4 wants other
// types and is paused, and a replay runs.
func busy(t testing.TB) *book {
	b := newBook()
	b.must(t, &linkv1.Record{
		TimeUnixMs: 1000,
		Fence:      fence(&linkv1.Limits{OutstandingHealthy: 2, OutstandingFailing: 1, IdempotencyCount: 3}),
		Tenants:    []*linkv1.TenantChange{putTenant("acme")},
		Subscriptions: []*linkv1.SubscriptionChange{
			put(1, "acme", "sub_1", "order.*"), put(2, "acme", "sub_2"),
			put(3, "umbrella", "sub_3", "*"), put(4, "acme", "sub_4", "invoice.**", "*.paid"),
		},
		Events: []*linkv1.LoggedEvent{event("acme", "e0", "order.created")},
	})
	b.must(t, &linkv1.Record{
		TimeUnixMs:    2000,
		Subscriptions: []*linkv1.SubscriptionChange{remove(3)},
		Replays:       []*linkv1.ReplayChange{putReplay("rpl_1", fanfarev1.Replay_RUNNING)},
		Outcomes: EncodeOutcomes(2000, []Reported{
			outcome(linkv1.Outcome_DELIVERED, Delivery{2, Position{1, 0}}, 1),
		}),
		Events: []*linkv1.LoggedEvent{event("acme", "e1", "order.created"), event("acme", "e2", "order.changed")},
	})
	failed := outcome(linkv1.Outcome_RETRY, Delivery{2, Position{2, 0}}, 1)
	failed.Outcome.NextTimeUnixMs = 7000
	b.must(t, &linkv1.Record{
		TimeUnixMs:    3000,
		Subscriptions: []*linkv1.SubscriptionChange{put(1, "acme", "sub_1", "order.created", "invoice.*")},
		Controls:      []*linkv1.Control{control(4, linkv1.Control_PAUSE)},
		Outcomes:      EncodeOutcomes(3000, []Reported{failed}),
	})
	return b
}

// TestFoldRefuses gives a busy ledger records that do not follow or are wrong.
// None may change anything, and the right record must fold afterwards.
func TestFoldRefuses(t *testing.T) {
	columns := func(change func(*linkv1.Outcomes)) func(*linkv1.Record) {
		return func(r *linkv1.Record) {
			r.Outcomes = EncodeOutcomes(0, []Reported{
				outcome(linkv1.Outcome_DELIVERED, Delivery{2, Position{2, 0}}, 2),
				outcome(linkv1.Outcome_DEAD, Delivery{2, Position{2, 1}}, 1),
			})
			change(r.GetOutcomes())
		}
	}
	subscribing := func(changes ...*linkv1.SubscriptionChange) func(*linkv1.Record) {
		return func(r *linkv1.Record) { r.Subscriptions = changes }
	}
	readmitting := func(change func(*linkv1.Readmit)) func(*linkv1.Record) {
		return func(r *linkv1.Record) {
			r.Readmits = []*linkv1.Readmit{readmit(2, 1, Position{2, 0}, Position{2, 1})}
			change(r.Readmits[0])
		}
	}
	for _, test := range []struct {
		name   string
		change func(*linkv1.Record)
		want   error
	}{
		{"no previous hash", func(r *linkv1.Record) { r.PreviousHash = nil }, ErrChain},
		{"another previous hash", func(r *linkv1.Record) { r.PreviousHash = bytes.Repeat([]byte{1}, HashSize) }, ErrChain},
		{"older epoch", func(r *linkv1.Record) { r.Epoch-- }, ErrEpoch},
		{"newer epoch without a fence", func(r *linkv1.Record) { r.Epoch++ }, ErrEpoch},
		{"fence of the same epoch", func(r *linkv1.Record) { r.Fence = fence(nil) }, ErrEpoch},
		{"fence that skips an epoch", func(r *linkv1.Record) { r.Fence = fence(nil); r.Epoch += 2 }, ErrEpoch},
		{"fence without a fold version", func(r *linkv1.Record) { r.Fence = &linkv1.Fence{}; r.Epoch++ }, ErrVersion},
		{"fence with a newer fold version", func(r *linkv1.Record) {
			r.Fence = &linkv1.Fence{FoldVersion: FoldVersion + 1}
			r.Epoch++
		}, ErrVersion},

		{"no sequence delta", columns(func(c *linkv1.Outcomes) { c.SequenceDeltas = c.SequenceDeltas[:1] }), ErrInvalid},
		{"no index", columns(func(c *linkv1.Outcomes) { c.Indexes = nil }), ErrInvalid},
		{"no kind", columns(func(c *linkv1.Outcomes) { c.Kinds = c.Kinds[:1] }), ErrInvalid},
		{"no attempt", columns(func(c *linkv1.Outcomes) { c.Attempts = nil }), ErrInvalid},
		{"no age", columns(func(c *linkv1.Outcomes) { c.AgesMs = nil }), ErrInvalid},
		{"one latency more", columns(func(c *linkv1.Outcomes) { c.LatenciesUs = append(c.LatenciesUs, 1) }), ErrInvalid},
		{"no status", columns(func(c *linkv1.Outcomes) { c.StatusCodes = nil }), ErrInvalid},
		{"no worker", columns(func(c *linkv1.Outcomes) { c.Workers = nil }), ErrInvalid},
		{"no subscription", columns(func(c *linkv1.Outcomes) { c.Subscriptions = nil }), ErrInvalid},
		{"unnamed worker", columns(func(c *linkv1.Outcomes) { c.Workers[1] = 1 }), ErrInvalid},
		{"detail of no outcome", columns(func(c *linkv1.Outcomes) { c.Details[0].Outcome = 2 }), ErrInvalid},
		{"two details of an outcome", columns(func(c *linkv1.Outcomes) { c.Details = append(c.Details, c.Details[0]) }), ErrInvalid},

		{"number skipped", subscribing(put(6, "acme", "sub_6")), ErrInvalid},
		{"number 0", subscribing(put(0, "acme", "sub_0")), ErrInvalid},
		{"numbers falling", subscribing(put(6, "acme", "sub_6"), put(5, "acme", "sub_5")), ErrInvalid},
		{"second of two skipped", subscribing(put(5, "acme", "sub_5"), put(7, "acme", "sub_7")), ErrInvalid},
		{"id taken", subscribing(put(5, "acme", "sub_2")), ErrInvalid},
		{"id taken in the record", subscribing(put(5, "acme", "sub_5"), put(6, "acme", "sub_5")), ErrInvalid},
		{"id freed and taken again", subscribing(remove(2), put(5, "acme", "sub_2"), put(6, "acme", "sub_2")), ErrInvalid},
		{"tenant changed", subscribing(put(2, "umbrella", "sub_2")), ErrInvalid},
		{"id changed", subscribing(put(2, "acme", "sub_9")), ErrInvalid},
		{"id changed in the record", subscribing(put(5, "acme", "sub_5"), put(5, "acme", "sub_6")), ErrInvalid},
		{"uneven columns of an admit", func(r *linkv1.Record) {
			r.Admits = []*linkv1.Admit{{Subscription: 1, NextSequence: 9, Sequences: []uint64{2}}}
		}, ErrInvalid},
		{"positions of an admit falling", func(r *linkv1.Record) {
			r.Admits = []*linkv1.Admit{admit(1, Position{4, 0}, Position{2, 1}, Position{2, 0})}
		}, ErrInvalid},
		{"a position of an admit twice", func(r *linkv1.Record) {
			r.Admits = []*linkv1.Admit{admit(1, Position{4, 0}, Position{2, 1}, Position{2, 1})}
		}, ErrInvalid},
		{"no index in a readmit", readmitting(func(r *linkv1.Readmit) { r.Indexes = r.Indexes[:1] }), ErrInvalid},
		{"no attempts in a readmit", readmitting(func(r *linkv1.Readmit) { r.Attempts = r.Attempts[:1] }), ErrInvalid},
		{"no sequences in a readmit", readmitting(func(r *linkv1.Readmit) { r.Sequences = nil }), ErrInvalid},
		{"attempts of nothing in a readmit", readmitting(func(r *linkv1.Readmit) { r.Sequences, r.Indexes = nil, nil }), ErrInvalid},
		{"positions of a readmit falling", readmitting(func(r *linkv1.Readmit) { r.Sequences[1] = 1; r.Indexes[1] = 0 }), ErrInvalid},
		{"a position of a readmit twice", readmitting(func(r *linkv1.Readmit) { r.Indexes[1] = 0 }), ErrInvalid},
		{"position 0 in a readmit", readmitting(func(r *linkv1.Readmit) { r.Sequences[0] = 0 }), ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := busy(t)
			record := events(event("acme", "e9", "order.paid"))
			b.chain(record)
			right := proto.CloneOf(record)
			test.change(record)
			hash := bytes.Repeat([]byte{9}, HashSize)
			refuse(t, b.ledger, test.want, func() error {
				_, err := b.ledger.Fold(b.ledger.Sequence()+1, hash, record)
				return err
			})
			if _, err := b.ledger.Fold(b.ledger.Sequence()+1, hash, right); err != nil {
				t.Errorf("folding the right record afterwards: %v", err)
			}
		})
	}
}

func TestFoldRefusesSequenceAndHash(t *testing.T) {
	hash := bytes.Repeat([]byte{9}, HashSize)
	for _, test := range []struct {
		name     string
		sequence uint64
		hash     []byte
		want     error
	}{
		{"same sequence", 3, hash, ErrChain},
		{"sequence skipped", 5, hash, ErrChain},
		{"sequence 0", 0, hash, ErrChain},
		{"no hash", 4, nil, ErrInvalid},
		{"short hash", 4, hash[1:], ErrInvalid},
		{"long hash", 4, append(hash, 9), ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := busy(t)
			record := events(event("acme", "e9", "order.paid"))
			b.chain(record)
			refuse(t, b.ledger, test.want, func() error {
				_, err := b.ledger.Fold(test.sequence, test.hash, record)
				return err
			})
		})
	}
}

func TestFoldRefusesBeforeTheFirstFence(t *testing.T) {
	l := New()
	refuse(t, l, ErrEpoch, func() error {
		_, err := l.Fold(1, bytes.Repeat([]byte{9}, HashSize), events(event("acme", "e1", "x")))
		return err
	})
}

// refuse checks that a fold fails in the way wanted and changes nothing.
func refuse(t *testing.T, l *Ledger, want error, fold func() error) {
	t.Helper()
	before := stateHash(t, l)
	err := fold()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
	if err != nil && !strings.HasPrefix(err.Error(), "folding record ") {
		t.Errorf("error %q does not say which record it is of", err)
	}
	if after := stateHash(t, l); after != before {
		t.Error("the refused record changed the state")
	}
	if err := l.consistent(); err != nil {
		t.Errorf("after the refused record: %v", err)
	}
}

// TestFoldKeepsItsOwnHash is for callers that reuse the hash's bytes.
func TestFoldKeepsItsOwnHash(t *testing.T) {
	l, hash := New(), bytes.Repeat([]byte{9}, HashSize)
	if _, err := l.Fold(1, hash, &linkv1.Record{Epoch: 1, Fence: fence(nil)}); err != nil {
		t.Fatal(err)
	}
	hash[0] = 0
	if got := l.Hash()[0]; got != 9 {
		t.Errorf("the ledger's hash begins with %d, want 9", got)
	}
}

func TestFenceLimits(t *testing.T) {
	b := begin(t, &linkv1.Limits{OutstandingFailing: 3, IdempotencyMs: 5})
	want := DefaultLimits()
	want.OutstandingFailing, want.IdempotencyMs = 3, 5
	if diff := cmp.Diff(want, b.ledger.limits, protocmp.Transform()); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	b.must(t, &linkv1.Record{Fence: fence(nil)})
	if diff := cmp.Diff(DefaultLimits(), b.ledger.limits, protocmp.Transform()); diff != "" {
		t.Errorf("limits of the next epoch (-want +got):\n%s", diff)
	}
	if got := b.ledger.Epoch(); got != 2 {
		t.Errorf("epoch is %d, want 2", got)
	}
}

func TestOutcomeIsPassedOn(t *testing.T) {
	b := begin(t, nil)
	b.must(t, &linkv1.Record{
		TimeUnixMs:    1000,
		Subscriptions: []*linkv1.SubscriptionChange{put(1, "acme", "sub_1")},
		Events:        []*linkv1.LoggedEvent{event("acme", "e1", "order.created")},
	})
	d := Delivery{1, Position{2, 0}}
	sent := Reported{"worker-7", &linkv1.Outcome{
		Kind: linkv1.Outcome_RETRY, Subscription: 1, Sequence: 2, Attempt: 1, StartTimeUnixMs: 1100,
		LatencyUs: 900_000, StatusCode: 503, ErrorClass: "status", Error: "503 Service Unavailable",
		ResponseBody: []byte("later"), NextTimeUnixMs: 7000,
	}}
	result := b.must(t, &linkv1.Record{TimeUnixMs: 2000, Outcomes: EncodeOutcomes(2000, []Reported{sent})})
	want := []DeliveryChange{{
		Delivery: d, Kind: Retried, Tenant: "acme", ID: "sub_1", Attempts: 1, Charged: 1, Next: 7000, Since: 1000,
		Outcome: sent.Outcome, Worker: "worker-7",
	}}
	if diff := cmp.Diff(want, result.Deliveries, protocmp.Transform()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// TestAdmitIsBoundedByItsNext: what lies past the position that was read up to
// is not taken now, since it will be found again.
func TestAdmitIsBoundedByItsNext(t *testing.T) {
	b := busy(t)
	b.must(t, &linkv1.Record{
		Fence:  fence(nil),
		Events: []*linkv1.LoggedEvent{event("acme", "e4", "order.created"), event("acme", "e5", "order.created")},
	})
	result := b.must(t, &linkv1.Record{Admits: []*linkv1.Admit{
		admit(1, Position{4, 1}, Position{2, 1}, Position{4, 0}, Position{4, 1}),
	}})
	want := []oracleChange{
		{Delivery{1, Position{2, 1}}, Owed, 0, 0, 3000},
		{Delivery{1, Position{4, 0}}, Owed, 0, 0, 3000},
	}
	if diff := cmp.Diff(want, changesOf(result)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if cursor, _ := b.ledger.Subscription(1).Behind(); cursor != (Position{4, 1}) {
		t.Errorf("cursor is %v, want 4/1", cursor)
	}
}

func TestLaggardsAreInOrder(t *testing.T) {
	const count = 50
	b := begin(t, &linkv1.Limits{OutstandingHealthy: 1})
	record := events(event("acme", "e1", "a"), event("acme", "e2", "a"))
	var outcomes []Reported
	for number := Number(1); number <= count; number++ {
		record.Subscriptions = append(record.Subscriptions, put(number, "acme", fmt.Sprintf("sub_%d", number)))
		outcomes = append(outcomes, outcome(linkv1.Outcome_DELIVERED, Delivery{number, Position{2, 0}}, 1))
	}
	b.must(t, record)
	b.must(t, &linkv1.Record{Outcomes: EncodeOutcomes(0, outcomes)})
	last := Number(0)
	for s, room := range b.ledger.Laggards() {
		if s.Number != last+1 || room != 1 {
			t.Fatalf("laggard %d with room for %d after laggard %d, want %d with 1", s.Number, room, last, last+1)
		}
		last = s.Number
	}
	if last != count {
		t.Errorf("the last laggard is %d, want %d", last, count)
	}
	for range b.ledger.Laggards() {
		break // a reader may stop
	}
}

func TestTenantSubscriptionsPages(t *testing.T) {
	b := begin(t, nil)
	b.must(t, subscriptions(
		put(1, "acme", "sub_1"), put(2, "umbrella", "sub_2"), put(3, "acme", "sub_3"),
		put(4, "acme", "sub_4"), remove(3), put(5, "acme", "sub_5"),
	))
	for _, test := range []struct {
		tenant TenantID
		after  Number
		limit  int
		want   []Number
	}{
		{"acme", 0, 2, []Number{1, 4}},
		{"acme", 1, 2, []Number{4, 5}},
		{"acme", 3, 1, []Number{4}}, // deleted between two pages
		{"acme", 4, 2, []Number{5}},
		{"acme", 5, 2, nil},
		{"acme", 0, 0, nil},
		{"acme", 0, -1, nil},
		{"acme", 1, math.MaxInt, []Number{4, 5}},
		{"acme", math.MaxUint64, 10, nil},
		{"umbrella", 0, 10, []Number{2}},
		{"nobody", 0, 10, nil},
	} {
		var got []Number
		for _, s := range b.ledger.TenantSubscriptions(test.tenant, test.after, test.limit) {
			got = append(got, s.Number)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("TenantSubscriptions(%s, %d, %d) (-want +got):\n%s", test.tenant, test.after, test.limit, diff)
		}
	}
}

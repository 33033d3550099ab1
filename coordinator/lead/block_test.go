package lead

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// TestBlockDeliveries: a block makes few deliveries owed, however many
// subscriptions want its events; but it has one event at least.
func TestBlockDeliveries(t *testing.T) {
	for _, test := range []struct {
		subscriptions, events int
		blocks                []int // events in each
	}{
		{subscriptions: 0, events: 1000, blocks: []int{1000}},
		{subscriptions: 16, events: 1000, blocks: []int{1000}},
		{subscriptions: 100, events: 400, blocks: []int{164, 164, 72}},
		{subscriptions: blockDeliveries, events: 2, blocks: []int{1, 1}},
		{subscriptions: blockDeliveries + 1, events: 2, blocks: []int{1, 1}},
	} {
		t.Run(fmt.Sprintf("%d events for %d", test.events, test.subscriptions), func(t *testing.T) {
			state := ledger.New()
			record := &linkv1.Record{Fence: &linkv1.Fence{FoldVersion: ledger.FoldVersion}}
			for n := range test.subscriptions {
				record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{
					Number: uint64(n) + 1, Put: &linkv1.StoredSubscription{
						Tenant: "acme", Id: fmt.Sprint("s", n), Subscription: &fanfarev1.Subscription{EventTypes: []string{"order.*"}},
					},
				})
			}
			foldNext(t, state, record)
			p := new(pending)
			call := &publishCall{left: test.events, duplicates: make([]bool, test.events), done: make(chan error, 1)}
			for i := range test.events {
				p.events = append(p.events, published{&linkv1.LoggedEvent{Tenant: "acme", Id: fmt.Sprint("e", i), Type: "order.paid"}, i, call})
			}
			for i, want := range test.blocks {
				b, err := p.seal(state)
				if err != nil {
					t.Fatal(err)
				}
				if len(b.events) != want {
					t.Fatalf("block %d has %d events, want %d", i, len(b.events), want)
				}
				foldNext(t, state, b.committed.record)
			}
			if !p.empty() {
				t.Error("something is left")
			}
		})
	}
}

// TestBlockDeliveriesAdmitted: the same for what is caught up.
func TestBlockDeliveriesAdmitted(t *testing.T) {
	p := new(pending)
	for range 40 {
		p.admits = append(p.admits, laggard{admit: &linkv1.Admit{
			Sequences: make([]uint64, 1000), Indexes: make([]uint32, 1000),
		}})
	}
	var sizes []int
	for len(p.admits) > 0 {
		record := new(linkv1.Record)
		p.sealAdmits(record, 0)
		sizes = append(sizes, len(record.GetAdmits()))
	}
	if fmt.Sprint(sizes) != "[17 17 6]" {
		t.Errorf("blocks have %v admits, want 17, 17 and 6", sizes)
	}
}

// TestRecentIsSlim: what was followed keeps its events, and nothing else.
func TestRecentIsSlim(t *testing.T) {
	r := newRecent(1 << 20)
	for sequence := range uint64(3) {
		r.put(committed{sequence: sequence + 1, size: 1000, record: &linkv1.Record{
			TimeUnixMs: 7, PreviousHash: []byte{1}, Events: []*linkv1.LoggedEvent{{Id: "a", Event: []byte("event")}}, Outcomes: new(linkv1.Outcomes),
		}})
	}
	r.slim(1)
	r.slim(2)
	const slim, overhead = len("event"), recordWeight + eventWeight
	for sequence, want := range map[uint64]int{1: slim, 2: slim, 3: 1000} {
		c, ok := r.get(sequence)
		if !ok || c.size != want || (c.record.GetOutcomes() == nil) != (want == slim) || len(c.record.GetEvents()) != 1 ||
			len(c.record.GetPreviousHash()) != 1 || c.record.GetTimeUnixMs() != 7 {
			t.Errorf("record %d is %v, of %d bytes", sequence, c.record, c.size)
		}
		if _, ok := r.whole(sequence); ok == (want == slim) {
			t.Errorf("record %d is whole: %v", sequence, ok)
		}
	}
	whole := committed{sequence: 1, record: &linkv1.Record{Outcomes: new(linkv1.Outcomes)}}
	r.putOlder(whole) // read back, by a follower that begins again
	if c, ok := r.whole(1); !ok || c.record != whole.record {
		t.Error("what was read back is not found")
	}
	if want := 1000 + 2*slim + 3*overhead; r.bytes != want {
		t.Errorf("%d bytes are held, want %d", r.bytes, want)
	}
}

// TestRecentWeighsWhatItHolds: many small outcomes do not take several times the
// memory that records may.
func TestRecentWeighsWhatItHolds(t *testing.T) {
	const limit, outcomes, memory = 4 << 20, 1000, 200 // of each, at the least
	r := newRecent(limit)
	for sequence := range uint64(100) {
		record := &linkv1.Record{Outcomes: ledger.EncodeOutcomes(0, refused(outcomes))}
		r.put(committed{sequence: sequence + 1, size: proto.Size(record), record: record})
	}
	if n := len(r.records); n < 2 || n*outcomes*memory > limit || r.bytes > limit {
		t.Errorf("%d records of %d outcomes are held, as %d bytes; the limit is %d", n, outcomes, r.bytes, limit)
	}
	r.slim(100)
	if want := len(r.records) * recordWeight; r.bytes != want {
		t.Errorf("%d bytes are held when all was followed, want %d", r.bytes, want)
	}
}

// refused are outcomes as of endpoints that nobody listens at.
func refused(n int) (reported []ledger.Reported) {
	for i := range uint64(n) {
		reported = append(reported, ledger.Reported{Worker: "w1", Outcome: &linkv1.Outcome{
			Kind: linkv1.Outcome_RETRY, Subscription: i + 1, Sequence: 3, Attempt: 2, ErrorClass: "connect",
			Error: "dial tcp 127.0.0.1:9: connect: connection refused", NextTimeUnixMs: 5000,
		}})
	}
	return reported
}

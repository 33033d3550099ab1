package dispatch

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// owned returns a machine whose slots all belong to one session, and that
// knows the subscriptions 1 to n.
func owned(slots, n int, credit Credit) *Dispatch {
	d := New(slots)
	d.Attach(1, Worker{ID: "w1", Incarnation: "a"}, credit)
	for slot := range slots {
		d.Claim(1, slot, 1, nil)
	}
	for number := range n {
		d.Put(ledger.Number(number + 1))
	}
	return d
}

// A subscription with one delivery due is served within one round of the
// others' turns, although each of them has thousands due, and although the
// credit is used up all the time.
func TestOneDueAmongThousands(t *testing.T) {
	for _, tt := range []struct{ slots, busy, credit, most int }{
		{1, 1, 1, 1},
		{1, 1, 100, 10},
		{1, 50, 1, 1},
		{1, 50, 8, 256},
		{16, 50, 8, 256},
		{16, 50, 8, 3},
		{4, 200, 1000, 256},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			d := owned(tt.slots, tt.busy+1, NewCredit(uint32(tt.credit), 1<<40))
			one := ledger.Delivery{Subscription: ledger.Number(tt.busy + 1), Position: ledger.Position{Sequence: 1 << 30}}
			for number := range tt.busy {
				for i := range 10_000 / tt.busy {
					d.Owe(ledger.Delivery{Subscription: ledger.Number(number + 1), Position: ledger.Position{Sequence: uint64(i + 1)}}, 0, 0)
				}
				for range WindowMax { // as busy as can be
					d.Succeeded(ledger.Number(number + 1))
				}
			}
			inHand := serve(d, nil, 3*tt.busy, tt.most, ledger.Delivery{})
			d.Owe(one, 0, 0)
			// A round is a turn for each in the fullest slot, of every slot.
			round := tt.slots * (tt.busy/tt.slots + 1)
			for sent := 0; sent <= round; {
				before := len(inHand)
				if inHand = serve(d, inHand, 1, tt.most, one); inHand == nil {
					return
				}
				sent += len(inHand) - before + 1 // one ended
			}
			t.Fatalf("not served in a round of %d deliveries", round)
		})
	}
}

// serve has so many calls of Next; before each the oldest delivery in hand
// ends, so that there is credit. It returns nil once awaited is sent.
func serve(d *Dispatch, inHand []Send, calls, most int, awaited ledger.Delivery) []Send {
	for range calls {
		if len(inHand) > 0 {
			d.End(inHand[0].Delivery)
			inHand = inHand[1:]
		}
		for _, send := range d.Next(1, most) {
			if send.Delivery == awaited {
				return nil
			}
			inHand = append(inHand, send)
		}
	}
	return append([]Send{}, inHand...)
}

// A worker that takes whatever it is given does not keep another from its
// turns. Next used to begin with the same session each time, and gave the rest
// nothing as long as the first had something due.
func TestGreedySessionDoesNotStarveAnother(t *testing.T) {
	const most = 10
	d := New(2)
	for id := SessionID(1); id <= 2; id++ {
		d.Attach(id, Worker{ID: fmt.Sprint("w", id), Incarnation: "a"}, NewCredit(1<<20, 1<<40))
		d.Claim(id, int(id-1), 1, nil)
	}
	for number := ledger.Number(1); number <= 100; number++ {
		d.Put(number)
		for i := range 100 {
			d.Owe(ledger.Delivery{Subscription: number, Position: ledger.Position{Sequence: uint64(i + 1)}}, 0, 0)
		}
	}
	sent := make(map[SessionID]int)
	for range 100 {
		for _, send := range d.Next(0, most) {
			sent[send.Session]++
			d.End(send.Delivery)
		}
	}
	if sent[1] != sent[2] {
		t.Errorf("session 1 was sent %d deliveries, session 2 %d", sent[1], sent[2])
	}
}

// A subscription that waits long for one delivery while it is served others
// has one timer. Each of the others used to leave one behind, until the long
// wait was over.
func TestTimersDoNotPileUp(t *testing.T) {
	const day = 24 * 60 * 60 * 1000
	d := owned(1, 1, NewCredit(10, 1<<40))
	d.Owe(ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: 1}}, 3, day)
	for now := range int64(1000) {
		d.Owe(ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: uint64(now + 2)}}, 0, now)
		for _, send := range d.Next(now, 10) {
			d.End(send.Delivery)
		}
	}
	if n := len(d.timers.items); n != 1 {
		t.Errorf("one subscription has %d timers", n)
	}
	if at, ok := d.Wake(); !ok || at != day {
		t.Errorf("wakes at %d (%t), want %d", at, ok, day)
	}
}

// A slot's ring and timers let go of a subscription that was deleted.
func TestDeletedSubscriptionLeavesNothing(t *testing.T) {
	d := owned(1, 1, NewCredit(1, 1<<40))
	for i := range 10 {
		d.Owe(ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: uint64(i + 1)}}, 0, int64(i*1000))
	}
	d.Next(0, 10)
	d.Delete(1)
	if at, ok := d.Wake(); ok {
		t.Errorf("wakes at %d for nobody", at)
	}
	if sends := d.Next(1<<40, 10); len(sends) > 0 || d.InHand() != 0 {
		t.Errorf("sends %v, and has %d in hand", sends, d.InHand())
	}
	if got, want := d.sessions[1].credit, NewCredit(1, 1<<40); got != want {
		t.Errorf("the credit is %+v, want %+v", got, want)
	}
}

// Thousands of endpoints of one slow host, which takes everything and ends
// nothing, leave a third of the credit to others, and so do several hosts
// together leave something.
func TestCrowdedSites(t *testing.T) {
	for _, test := range []struct{ sites, subscriptions, credit, most int }{
		{1, 1000, 4096, 2731},
		{1, 1, 4096, 16}, // its window
		{1, 10, 4, 3},
		{1, 10, 1, 1},
		{3, 1000, 4096, 3511},
		{20, 1000, 4096, 3997},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			crowd := test.subscriptions * test.sites
			d := owned(8, crowd+1, NewCredit(uint32(test.credit), 1<<40))
			other := ledger.Number(crowd + 1)
			d.Settle(other, "other")
			for number := range crowd {
				d.Settle(ledger.Number(number+1), fmt.Sprintf("slow-%d", number%test.sites))
				for i := range uint64(WindowStart) {
					d.Owe(ledger.Delivery{Subscription: ledger.Number(number + 1), Position: ledger.Position{Sequence: i + 1}}, 0, 0)
				}
			}
			held := 0
			for sends := d.Next(1, 256); len(sends) > 0; sends = d.Next(1, 256) {
				held += len(sends)
			}
			if held > test.most {
				t.Errorf("the crowd has %d of %d, want %d at most", held, test.credit, test.most)
			}
			if test.credit == 1 {
				return // which somebody has to have
			}
			d.Owe(ledger.Delivery{Subscription: other, Position: ledger.Position{Sequence: 1}}, 0, 0)
			if sends := d.Next(1, 256); len(sends) != 1 || sends[0].Subscription != other {
				t.Errorf("sent %v, want what the other is owed", sends)
			}
		})
	}
}

// What ends at a crowded site lets in who gave way before, each in its turn.
func TestGivingWayTakesTurns(t *testing.T) {
	const subscriptions = 5
	d := owned(1, subscriptions, NewCredit(3, 1<<40)) // two of it for the site
	for number := ledger.Number(1); number <= subscriptions; number++ {
		d.Settle(number, "slow")
		for sequence := range uint64(3) {
			d.Owe(ledger.Delivery{Subscription: number, Position: ledger.Position{Sequence: sequence + 1}}, 0, 0)
		}
	}
	var order []ledger.Number
	inHand := d.Next(1, 256)
	for len(inHand) > 0 {
		order = append(order, inHand[0].Subscription)
		d.End(inHand[0].Delivery)
		inHand = append(inHand[1:], d.Next(1, 256)...)
	}
	if len(order) != 3*subscriptions {
		t.Errorf("%d deliveries were made, want %d", len(order), 3*subscriptions)
	}
	for round := range slices.Chunk(order, subscriptions) {
		if all := slices.Compact(slices.Sorted(slices.Values(round))); len(all) != subscriptions {
			t.Errorf("in a round there were %v, want each once", round)
		}
	}
}

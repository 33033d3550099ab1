package dispatch

import (
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// What a worker keeps of a slot that it lost may stand anywhere in its lane: it
// is taken out of it, and nothing of the lane is sent before it has ended.
func TestKeepInALane(t *testing.T) {
	d := owned(1, 1, NewCredit(100, 1<<30))
	at := func(n uint64) ledger.Delivery {
		return ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: n}}
	}
	for n := range uint64(3) {
		d.OweInLane(at(n+1), ledger.Lane(7), 0, 0)
	}
	d.Attach(2, Worker{ID: "w2", Incarnation: "b"}, NewCredit(100, 1<<30))
	d.Keep(2, []ledger.Delivery{at(2), at(9)}) // the last is not owed
	if !d.Holds(2, at(2)) || d.InHand() != 1 {
		t.Fatalf("it holds %v, and %d are in hands", d.Holds(2, at(2)), d.InHand())
	}
	if sends := d.Next(0, 100); len(sends) > 0 {
		t.Errorf("sent beside it: %v", sends)
	}
	d.End(at(2))
	for _, n := range []uint64{1, 3} {
		sends := d.Next(0, 100)
		if len(sends) != 1 || sends[0].Delivery != at(n) {
			t.Fatalf("sent %v, want %v", sends, at(n))
		}
		d.End(at(n))
	}
}

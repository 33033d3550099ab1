package dispatch

import (
	"slices"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

func TestHolders(t *testing.T) {
	d := New(2)
	credit := NewCredit(10, 1<<20)
	for id, worker := range []string{"w2", "w1", "w1", "idle"} { // w1 has attached twice
		d.Attach(SessionID(id+1), Worker{ID: worker, Incarnation: "a"}, credit)
	}
	for number := range ledger.Number(4) {
		d.Put(number + 1)
		for sequence := range uint64(3) {
			d.Owe(ledger.Delivery{Subscription: number + 1, Position: ledger.Position{Sequence: sequence + 1}}, 0, 0)
		}
	}
	want := func(ids ...string) {
		t.Helper()
		if got := d.Holders(); !slices.Equal(got, ids) {
			t.Errorf("holders are %v, want %v", got, ids)
		}
	}
	want()
	d.Claim(1, 0, 1, nil)
	d.Next(1, 100)
	want("w2")
	d.Claim(2, 1, 1, nil)
	d.Next(1, 100)
	d.Claim(3, 1, 2, nil)
	d.Next(1, 100)
	want("w1", "w2")
	for _, number := range d.Members(0) {
		for sequence := range uint64(3) {
			d.End(ledger.Delivery{Subscription: number, Position: ledger.Position{Sequence: sequence + 1}})
		}
	}
	want("w1")
}

package ledger

import (
	"slices"
	"testing"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Alerts are put and deleted, and are in snapshots.
func TestAlerts(t *testing.T) {
	l := New()
	put := func(id string) *linkv1.AlertChange {
		return &linkv1.AlertChange{Id: id, Put: &linkv1.StoredAlert{Tenant: "acme", Alert: &fanfarev1.Alert{Kind: id}, Told: true}}
	}
	l.epoch = 1
	fold := func(changes ...*linkv1.AlertChange) {
		t.Helper()
		record := &linkv1.Record{Epoch: 1, PreviousHash: l.Hash(), TimeUnixMs: 1, Alerts: changes}
		if _, err := l.Fold(l.Sequence()+1, make([]byte, HashSize), record); err != nil {
			t.Fatal(err)
		}
	}
	fold(put("b"), put("a"), put("c"))
	fold(&linkv1.AlertChange{Id: "b"}, &linkv1.AlertChange{Id: "unknown"})
	data, err := l.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	restored, err := Restore(data)
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Ledger{"the ledger": l, "the restored one": restored} {
		if ids := l.Alerts(); !slices.Equal(ids, []string{"a", "c"}) || !l.Alert("c").GetTold() || l.Alert("b") != nil {
			t.Errorf("%s has the alerts %v", name, ids)
		}
	}
}

// Overdue finds those that need old records, and no others, however many there
// are.
func TestOverdue(t *testing.T) {
	l := New()
	for n := Number(1); n <= 100; n++ {
		s := &Subscription{Number: n, owed: []owed{{position: Position{Sequence: uint64((n * 37) % 101)}}}}
		l.needed.note(s, s.owed[0].position.Sequence)
		if n%10 == 0 {
			s.owed[0].position.Sequence += 1000 // as is true by now
		}
	}
	for _, before := range []uint64{0, 1, 17, 50, 101, 2000} {
		want := 0
		for _, item := range l.needed.heap {
			if sequence, _ := item.of.needs(); sequence < before && item.key < before {
				want++
			}
		}
		if got := len(l.Overdue(before, 1000)); got != want {
			t.Errorf("%d need records before %d, want %d", got, before, want)
		}
		if got := len(l.Overdue(before, 3)); got != min(want, 3) {
			t.Errorf("%d of at most 3 need records before %d", got, before)
		}
	}
}

// What is behind of nothing but records without events waits for nothing.
func TestAwaits(t *testing.T) {
	l := New()
	l.lastEvents = 10
	s := &Subscription{behind: true, cursor: Position{Sequence: 11}}
	if sequence, ok := l.Awaits(s); ok {
		t.Errorf("it awaits record %d, want none", sequence)
	}
	s.cursor.Sequence = 9
	if sequence, ok := l.Awaits(s); !ok || sequence != 9 {
		t.Errorf("it awaits record %d (%v), want 9", sequence, ok)
	}
	s.owed = []owed{{position: Position{Sequence: 4}}}
	if sequence, ok := l.Awaits(s); !ok || sequence != 4 {
		t.Errorf("it awaits record %d (%v), want 4", sequence, ok)
	}
}

// WrittenBy is what retention goes by: what SequenceAt gives up at a time was
// written by then.
func TestWrittenBy(t *testing.T) {
	l := New()
	l.time = 1e12
	for i := range uint64(200) {
		before := l.time
		l.sequence++
		l.time += int64(i) * 7000
		l.timeline.add(l.sequence, before, l.time)
	}
	for sequence := uint64(1); sequence < l.sequence; sequence++ {
		by := l.WrittenBy(sequence)
		if given := l.SequenceAt(by); given <= sequence {
			t.Errorf("record %d was written by %v, but then only what is before %d is given up", sequence, by, given)
		}
		if given := l.SequenceAt(by.Add(-time.Millisecond)); given > sequence {
			t.Errorf("record %d is given up before %v", sequence, by)
		}
	}
}

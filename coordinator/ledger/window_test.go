package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

func TestWindowAge(t *testing.T) {
	for _, test := range []struct {
		now  int64
		want bool
	}{
		{1000, true},
		{1099, true},
		{1100, false}, // exactly as old as the window
		{5000, false},
	} {
		b := begin(t, &linkv1.Limits{IdempotencyMs: 100})
		b.must(t, &linkv1.Record{TimeUnixMs: 1000, Events: []*linkv1.LoggedEvent{event("acme", "e1", "x")}})
		b.must(t, &linkv1.Record{TimeUnixMs: test.now})
		if got := b.ledger.Seen("acme", "e1"); got != test.want {
			t.Errorf("%d ms later: Seen = %t, want %t", test.now-1000, got, test.want)
		}
	}
}

func TestWindowCount(t *testing.T) {
	b := begin(t, &linkv1.Limits{IdempotencyCount: 2})
	b.must(t, events(event("acme", "e1", "x"), event("acme", "e2", "x"), event("acme", "e2", "x")))
	b.must(t, events(event("acme", "e3", "x")))
	for id, want := range map[string]bool{"e1": false, "e2": true, "e3": true} {
		if got := b.ledger.Seen("acme", id); got != want {
			t.Errorf("Seen(%s) = %t, want %t", id, got, want)
		}
	}
}

func TestWindowIsPerTenant(t *testing.T) {
	b := begin(t, nil)
	b.must(t, events(event("acme", "e1", "x")))
	if b.ledger.Seen("umbrella", "e1") {
		t.Error("another tenant's event id counts")
	}
}

func TestWindowLeavesOutGeneratedIDs(t *testing.T) {
	b := begin(t, nil)
	e := event("acme", "e1", "x")
	e.IdGenerated = true
	b.must(t, events(e))
	if b.ledger.Seen("acme", "e1") {
		t.Error("an id that was generated takes a place in the window")
	}
}

func TestWindowRingGrows(t *testing.T) {
	var w window
	next := 0
	add := func(count int) {
		for range count {
			w.add(numberedKey(next), int64(next))
			next++
		}
	}
	add(64)
	w.trim(39, 1<<30) // the head is no longer at the start of the ring
	add(40)           // and the ring is full, its end before its head
	if len(w.ring) != 64 || w.size != 64 {
		t.Fatalf("ring of %d with %d entries, want 64 with 64", len(w.ring), w.size)
	}
	add(1)
	if len(w.ring) != 128 || w.size != 65 {
		t.Fatalf("ring of %d with %d entries, want 128 with 65", len(w.ring), w.size)
	}
	for i := range w.size {
		if got, want := w.at(i), (windowEntry{numberedKey(40 + i), int64(40 + i)}); got != want {
			t.Fatalf("entry %d is %v, want %v", i, got, want)
		}
	}
}

// TestLargeWindow: a window of its full size holds what it should and little
// more, and all of it is found, whatever was moved in the table.
func TestLargeWindow(t *testing.T) {
	const count = 200_000
	var w window
	for i := range 3 * count {
		w.add(numberedKey(i), int64(i))
		if i%1000 == 0 {
			w.trim(0, count)
		}
	}
	w.trim(0, count)
	if len(w.ring) > count*5/4 {
		t.Errorf("the ring has room for %d, want little more than %d", len(w.ring), count)
	}
	for i := range 3 * count {
		if got, want := w.has(numberedKey(i)), i >= 2*count; got != want {
			t.Fatalf("has(%d) is %t, want %t", i, got, want)
		}
	}
}

func numberedKey(n int) eventKey { return keyOf("acme", fmt.Sprint(n)) }

// TestWindowAgreesWithList compares the ring with a plain list.
func TestWindowAgreesWithList(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			var w window
			var list []windowEntry
			for now := range int64(2000) {
				key := numberedKey(rng.IntN(500))
				w.add(key, now)
				if !slices.ContainsFunc(list, func(e windowEntry) bool { return e.key == key }) {
					list = append(list, windowEntry{key, now})
				}
				if rng.IntN(20) > 0 {
					continue
				}
				before, count := now-rng.Int64N(500), 1+rng.IntN(300)
				w.trim(before, count)
				list = slices.DeleteFunc(list, func(e windowEntry) bool { return e.time <= before })
				list = list[max(0, len(list)-count):]
				compareWindow(t, &w, list)
			}
		})
	}
}

func compareWindow(t *testing.T, w *window, list []windowEntry) {
	t.Helper()
	taken := 0
	for _, i := range w.table {
		if i != 0 {
			taken++
		}
	}
	if w.size != len(list) || taken != len(list) {
		t.Fatalf("window has %d entries and a table of %d, want %d", w.size, taken, len(list))
	}
	for i, want := range list {
		if got := w.at(i); got != want || !w.has(want.key) {
			t.Fatalf("entry %d is %v, want %v", i, got, want)
		}
	}
}

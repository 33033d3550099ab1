package historytest

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/history"
)

// Crash writes batches to a store that is killed again and again, and wants the
// history to have, each time, what its position says: every row of the
// batches up to it once, and none of a later one. reopen returns the store as
// it is after a crash. write is to write a batch to a store and to crash on
// the way: in what it says of the outcome nobody believes.
func Crash(t *testing.T, seed uint64, crashes int, reopen func() history.Store, write func(rng *rand.Rand, store history.Store, batch history.Batch)) {
	t.Helper()
	w := newWorld(seed)
	m := &model{}
	tallies := make(map[string]tally)
	apply := func(batch history.Batch) {
		m.apply(batch)
		addTally(tallies, batch)
	}
	taken := 0
	for range crashes {
		store := reopen()
		for range 1 + w.rng.IntN(4) {
			batch := w.next()
			if err := store.Write(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			apply(batch)
		}
		if err := store.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		batch := w.next()
		write(w.rng, store, batch)
		_ = store.Close() // it may have crashed

		store = reopen()
		position, err := store.Position(t.Context(), batch.Partition)
		if err != nil {
			t.Fatal(err)
		}
		switch position {
		case batch.Sequence:
			taken++
			if err := store.Write(t.Context(), batch); !errors.Is(err, history.ErrPosition) {
				t.Fatalf("writing a batch again that is there: %v", err)
			}
		case batch.Prev:
			checkLists(t, store, m, history.EventQuery{Tenant: batch.Events[0].Tenant}, history.DeliveryQuery{Tenant: batch.Events[0].Tenant}, sized(1000))
			if err := store.Write(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("the position is %d; the batch was from %d to %d", position, batch.Prev, batch.Sequence)
		}
		apply(batch)
		check(t, store, m, w.rng)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	store := reopen()
	w.clock = w.clock.AddDate(0, 0, 1)
	checkStatistics(t, store, w, tallies, time.Minute)
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("of %d batches that met a crash %d were there afterwards", crashes, taken)
}

// CutWrite writes a batch with a context that ends at some place on the way.
func CutWrite(t *testing.T, rng *rand.Rand, store history.Store, batch history.Batch) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_ = store.Write(&cutContext{Context: ctx, cancel: cancel, looks: rng.IntN(60)}, batch) // what came of it is found out
}

package dispatch

import (
	"math/rand/v2"
	"testing"
)

// The worker decides how much an endpoint is sent at a time; the window here
// follows by the same rule, and is never the narrower one. The numbers are those
// of the worker's queues (initialWindow, maxWindow), which package worker has to
// itself.
func TestWindowIsNeverNarrowerThanTheWorkers(t *testing.T) {
	const first, most = 8, 64
	for seed := range uint64(200) {
		chance := rand.New(rand.NewPCG(seed, 1))
		d := New(1)
		d.Put(1)
		s, worker := d.subscriptions[1], first
		failing := chance.IntN(100) // percent
		for step := range 2000 {
			if chance.IntN(100) < failing {
				d.Failed(1)
				worker = max(worker/2, 1)
			} else {
				d.Succeeded(1)
				worker = min(worker+1, most)
			}
			if s.window < worker {
				t.Fatalf("seed %d, step %d: the window is %d, the worker's %d", seed, step, s.window, worker)
			}
		}
		for range 10 { // it does not answer any more
			d.Failed(1)
		}
		if s.window != 1 {
			t.Fatalf("seed %d: after 10 failures in a row the window is %d", seed, s.window)
		}
	}
}

package server

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// However many come and go, no more run than may, all that were let in run, and
// nothing is left behind.
func TestGates(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		all := &gates{all: map[string]*gate{}}
		var in []pass
		for range 200 {
			limit, queue := 1+random.IntN(3), random.IntN(4)
			if random.IntN(2) == 0 {
				if p, ok := all.enter("x", limit, queue); ok {
					in = append(in, p)
				}
			} else if len(in) > 0 {
				i := random.IntN(len(in))
				in[i].leave()
				in = append(in[:i], in[i+1:]...)
			}
			running := 0
			for _, p := range in {
				select {
				case <-p.turn:
					running++
				default:
				}
			}
			const most = 3
			if running > most || len(in) > 0 && running == 0 {
				t.Fatalf("seed %d: %d of %d run", seed, running, len(in))
			}
		}
		for _, p := range in {
			p.leave()
		}
		if len(all.all) != 0 {
			t.Fatalf("seed %d: %d gates are left", seed, len(all.all))
		}
	}
}

// An id is claimed, then done or released; it is remembered for its time, and
// not more than there may be.
func TestDelivered(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	d := newDelivered()
	steps := []struct {
		what string
		got  claimed
		want claimed
	}{
		{"first", d.claim("h", "a", now), claimNew},
		{"while it runs", d.claim("h", "a", now), claimRunning},
		{"of another hook", d.claim("g", "a", now), claimNew},
	}
	d.release("h", "a")
	steps = append(steps, struct {
		what string
		got  claimed
		want claimed
	}{"after a failure", d.claim("h", "a", now), claimNew})
	d.done("h", "a", now, time.Hour)
	for _, step := range append(steps, []struct {
		what string
		got  claimed
		want claimed
	}{
		{"when it is done", d.claim("h", "a", now.Add(time.Hour-1)), claimDone},
		{"when it is forgotten", d.claim("h", "a", now.Add(time.Hour)), claimNew},
	}...) {
		if step.got != step.want {
			t.Errorf("%s: %v, want %v", step.what, step.got, step.want)
		}
	}
	for i := range MaxIDs + 10 {
		id := strconv.Itoa(i)
		d.claim("many", id, now)
		d.done("many", id, now, time.Hour)
	}
	if d.order.Len() != MaxIDs {
		t.Errorf("%d are remembered", d.order.Len())
	}
	if got := d.claim("many", "0", now); got != claimNew {
		t.Errorf("the oldest is still known: %v", got)
	}
	if got := d.claim("many", strconv.Itoa(MaxIDs), now); got != claimDone {
		t.Errorf("a newer one is not: %v", got)
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("hooks", "/hooks/x")
	f.Add("a/{b:[0-9]+}", "/a/7/x/y")
	f.Fuzz(func(t *testing.T, prefix, path string) {
		made, err := newRoute(prefix)
		if err != nil {
			return
		}
		if id, ok := made.id(path); ok && len(id) > len(path) {
			t.Fatalf("%q in %q", id, path)
		}
		if clean := cleanPath(path); cleanPath(clean) != clean {
			t.Fatalf("%q is cleaned to %q, which is not clean", path, clean)
		}
	})
}

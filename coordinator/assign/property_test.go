package assign_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/coordinator/assign"
)

// maxRounds is how many plans it may take until there is nothing left to do:
// at 9 % a round, everything could move more than twice over.
const maxRounds = 30

// TestRandomFleets lets workers join, die, drain, return and change, and
// checks every plan on the way, and where it settles. A fleet that fails can be
// run alone by its name, which is its seed.
func TestRandomFleets(t *testing.T) {
	const fleets, steps = 150, 25
	for seed := range uint64(fleets) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			f := newFleet(t, seed)
			f.settle(f.size)
			for range steps {
				least := f.disturb()
				f.settle(least)
			}
		})
	}
}

// fleet is a model of a cluster that carries out plans.
type fleet struct {
	*testing.T
	rand    *rand.Rand
	even    bool // all loads and weights are equal
	size    int  // how many shards there are
	shards  []assign.Owned
	workers []assign.Worker
	born    int
	now     time.Time
	state   assign.State
}

func newFleet(t *testing.T, seed uint64) *fleet {
	f := &fleet{T: t, rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(0, 0)}
	f.even = f.rand.IntN(2) == 0
	f.size = 1 + f.rand.IntN(600)
	for i := range f.size {
		f.shards = append(f.shards, assign.Owned{Shard: assign.Shard{Partition: i / 16, Slot: i % 16}, Load: f.some(9)})
	}
	for range 1 + f.rand.IntN(20) {
		f.join()
	}
	return f
}

// some is a load or weight: 0, which is 1, when all are to be equal.
func (f *fleet) some(n int64) int64 {
	if f.even {
		return 0
	}
	return 1 + f.rand.Int64N(n)
}

func (f *fleet) join() {
	f.workers = append(f.workers, assign.Worker{ID: assign.WorkerID(fmt.Sprintf("w%d", f.born)), Weight: f.some(4)})
	f.born++
}

// disturb changes the fleet in some way. It returns the least number of shards
// that can be moved for it, or all where that is not easily said.
func (f *fleet) disturb() (least int) {
	f.now = f.now.Add(time.Duration(f.rand.Int64N(int64(40 * time.Second))))
	victim := f.rand.IntN(len(f.workers))
	switch what := f.rand.IntN(10); {
	case what < 3:
		f.join()
		if f.even {
			return f.size / f.serving()
		}
	case what < 6 && len(f.workers) > 1:
		least = f.owned(f.workers[victim].ID)
		f.workers = slices.Delete(f.workers, victim, victim+1)
		if f.even && f.serving() > 0 {
			return least
		}
	case what < 7:
		f.workers[victim].Draining = !f.workers[victim].Draining
	case what < 8: // many die
		f.rand.Shuffle(len(f.workers), func(i, j int) { f.workers[i], f.workers[j] = f.workers[j], f.workers[i] })
		f.workers = f.workers[:1+f.rand.IntN(len(f.workers))]
	case what < 9: // a shard's owner is not known any more
		f.shards[f.rand.IntN(f.size)].Owner = ""
	default: // loads have changed
		for i := range f.shards {
			f.shards[i].Load = f.some(9)
		}
	}
	return f.size
}

// settle carries plans out until there is nothing left to do, and checks that
// no more was moved for it than is allowed, next to the least possible.
func (f *fleet) settle(least int) {
	f.Helper()
	moved := 0
	for round := 0; ; round++ {
		if round > maxRounds {
			f.Fatalf("not settled after %d rounds", maxRounds)
		}
		plan := f.plan()
		moved += len(plan.Changes)
		if plan.Held {
			f.now = plan.Again
			continue
		}
		if len(plan.Changes) == 0 {
			if plan.More {
				f.Fatal("more to do, but nothing done")
			}
			break
		}
	}
	if limit := max(least+1, least*11/10); moved > limit {
		f.Errorf("%d shards moved, where %d would do", moved, least)
	}
	f.checkBalance()
}

// plan makes one plan, checks it and carries it out.
func (f *fleet) plan() assign.Plan {
	f.Helper()
	in := assign.Input{Shards: f.shards, Workers: f.workers, State: f.state, Now: f.now}
	plan := assign.Compute(in)
	f.checkDeterminism(in, plan)
	f.checkChanges(plan)
	f.state = plan.State
	for _, c := range plan.Changes {
		at := slices.IndexFunc(f.shards, func(s assign.Owned) bool { return s.Shard == c.Shard })
		f.shards[at].Owner = c.To
	}
	if unowned := f.unowned(); unowned > 0 && !plan.Held && f.serving() > 0 {
		f.Errorf("%d shards left unowned", unowned)
	}
	return plan
}

func (f *fleet) checkDeterminism(in assign.Input, plan assign.Plan) {
	f.Helper()
	in.Shards, in.Workers = slices.Clone(in.Shards), slices.Clone(in.Workers)
	f.rand.Shuffle(len(in.Shards), func(i, j int) { in.Shards[i], in.Shards[j] = in.Shards[j], in.Shards[i] })
	f.rand.Shuffle(len(in.Workers), func(i, j int) { in.Workers[i], in.Workers[j] = in.Workers[j], in.Workers[i] })
	if diff := cmp.Diff(plan, assign.Compute(in)); diff != "" {
		f.Fatalf("another plan for the same input in another order:\n%s", diff)
	}
}

// checkChanges holds a plan against the fleet as it is.
func (f *fleet) checkChanges(plan assign.Plan) {
	f.Helper()
	owners := make(map[assign.Shard]assign.WorkerID, f.size)
	owned := 0
	for _, s := range f.shards {
		owners[s.Shard] = s.Owner
		if !f.alive(s.Owner) {
			owners[s.Shard] = ""
			continue
		}
		owned++
	}
	moves := 0
	for _, c := range plan.Changes {
		from, known := owners[c.Shard]
		if !known {
			f.Errorf("%+v: no such shard, or changed twice", c)
		}
		delete(owners, c.Shard)
		if c.From != from || c.To == from {
			f.Errorf("%+v: the shard is owned by %q", c, from)
		}
		if to, alive := f.worker(c.To); !alive || to.Draining {
			f.Errorf("%+v: given to a worker that should get nothing", c)
		}
		if from != "" {
			moves++
		}
	}
	if limit := max(1, owned*assign.DefaultMovePercent/100); moves > limit {
		f.Errorf("%d of %d shards moved in one round, want at most %d", moves, owned, limit)
	}
	if plan.Held && len(plan.Changes) > 0 {
		f.Errorf("changes while held: %v", plan.Changes)
	}
}

// checkBalance is called when there is nothing left to do.
func (f *fleet) checkBalance() {
	f.Helper()
	if f.serving() == 0 {
		return
	}
	levels := f.levels()
	lowest, highest := slices.Min(levels), slices.Max(levels)
	var mean, heaviest, weights float64
	for _, s := range f.shards {
		mean += float64(max(s.Load, 1))
		heaviest = max(heaviest, float64(max(s.Load, 1)))
	}
	for _, w := range f.workers {
		if w.Draining && f.owned(w.ID) > 0 {
			f.Errorf("%s drains but still has shards", w.ID)
		}
		if !w.Draining {
			weights += float64(max(w.Weight, 1))
		}
	}
	mean /= weights
	if f.even && mean >= 5 && highest > 1.25*mean {
		f.Errorf("highest level %.2f, mean %.2f", highest, mean)
	}
	if f.even && mean < 5 && highest-lowest > 1 {
		f.Errorf("levels from %.0f to %.0f with few shards, want them as even as can be", lowest, highest)
	}
	// With weights, whole shards are coarse on the lightest worker.
	if limit := mean*1.1 + heaviest; highest > limit {
		f.Errorf("highest level %.2f, mean %.2f, want at most %.2f", highest, mean, limit)
	}
}

// levels are those of the workers that do not drain.
func (f *fleet) levels() []float64 {
	loads := make(map[assign.WorkerID]float64)
	for _, s := range f.shards {
		loads[s.Owner] += float64(max(s.Load, 1))
	}
	var levels []float64
	for _, w := range f.workers {
		if !w.Draining {
			levels = append(levels, loads[w.ID]/float64(max(w.Weight, 1)))
		}
	}
	return levels
}

func (f *fleet) worker(id assign.WorkerID) (assign.Worker, bool) {
	at := slices.IndexFunc(f.workers, func(w assign.Worker) bool { return w.ID == id })
	if at < 0 {
		return assign.Worker{}, false
	}
	return f.workers[at], true
}

func (f *fleet) alive(id assign.WorkerID) bool {
	_, alive := f.worker(id)
	return alive
}

// serving is how many workers can be given shards.
func (f *fleet) serving() int {
	n := 0
	for _, w := range f.workers {
		if !w.Draining {
			n++
		}
	}
	return n
}

func (f *fleet) owned(id assign.WorkerID) int {
	n := 0
	for _, s := range f.shards {
		if s.Owner == id {
			n++
		}
	}
	return n
}

func (f *fleet) unowned() int {
	n := 0
	for _, s := range f.shards {
		if !f.alive(s.Owner) {
			n++
		}
	}
	return n
}

package assign_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/coordinator/assign"
)

// shards makes shards of partition 0 with these owners, "" for none.
func shards(owners ...assign.WorkerID) []assign.Owned {
	made := make([]assign.Owned, len(owners))
	for slot, owner := range owners {
		made[slot] = assign.Owned{Shard: assign.Shard{Slot: slot}, Owner: owner}
	}
	return made
}

// loaded gives the shards these loads, in turn.
func loaded(made []assign.Owned, loads ...int64) []assign.Owned {
	for i := range made {
		made[i].Load = loads[i%len(loads)]
	}
	return made
}

func workers(ids ...assign.WorkerID) []assign.Worker {
	made := make([]assign.Worker, len(ids))
	for i, id := range ids {
		made[i] = assign.Worker{ID: id}
	}
	return made
}

func change(slot int, from, to assign.WorkerID) assign.Change {
	return assign.Change{Shard: assign.Shard{Slot: slot}, From: from, To: to}
}

func TestCompute(t *testing.T) {
	anyMoves := assign.Limits{MovePercent: 100}
	for _, test := range []struct {
		name string
		in   assign.Input
		want []assign.Change
		more bool
	}{{
		name: "nothing at all",
	}, {
		name: "nobody to own a shard",
		in:   assign.Input{Shards: shards("", "gone")},
	}, {
		name: "nothing to own",
		in:   assign.Input{Workers: workers("a", "b")},
	}, {
		name: "a new cluster is spread evenly",
		in:   assign.Input{Shards: shards("", "", "", "", ""), Workers: workers("b", "a")},
		want: []assign.Change{change(0, "", "a"), change(1, "", "b"), change(2, "", "a"), change(3, "", "b"), change(4, "", "a")},
	}, {
		name: "what is even stays",
		in:   assign.Input{Shards: shards("a", "b", "a", "b", "a"), Workers: workers("a", "b")},
	}, {
		name: "shards of the dead go where there is most room",
		in:   assign.Input{Shards: shards("a", "b", "c", "c", "a", "c"), Workers: workers("a", "b")},
		want: []assign.Change{change(2, "", "b"), change(3, "", "a"), change(5, "", "b")},
	}, {
		name: "the newcomer is filled up",
		in:   assign.Input{Shards: shards("a", "a", "a", "b", "b", "b"), Workers: workers("a", "b", "c"), Limits: anyMoves},
		want: []assign.Change{change(2, "a", "c"), change(5, "b", "c")},
	}, {
		name: "only so many move at once",
		in: assign.Input{
			Shards:  shards("a", "a", "a", "a", "a", "a", "a", "a", "a", "a"),
			Workers: workers("a", "b"), Limits: assign.Limits{MovePercent: 20},
		},
		want: []assign.Change{change(8, "a", "b"), change(9, "a", "b")},
		more: true,
	}, {
		name: "one may always move",
		in:   assign.Input{Shards: shards("a", "a", "a", "a"), Workers: workers("a", "b")},
		want: []assign.Change{change(3, "a", "b")},
		more: true,
	}, {
		name: "weights are shares",
		in: assign.Input{
			Shards:  shards("", "", "", "", "", "", "", ""),
			Workers: []assign.Worker{{ID: "a"}, {ID: "b", Weight: 3}},
		},
		want: []assign.Change{
			change(0, "", "b"), change(1, "", "b"), change(2, "", "a"), change(3, "", "b"),
			change(4, "", "b"), change(5, "", "b"), change(6, "", "a"), change(7, "", "b"),
		},
	}, {
		name: "a worker that drains is emptied and gets nothing",
		in: assign.Input{
			Shards:  shards("a", "a", "b", "b", ""),
			Workers: []assign.Worker{{ID: "a", Draining: true}, {ID: "b"}, {ID: "c"}},
			Limits:  anyMoves,
		},
		want: []assign.Change{change(0, "a", "b"), change(1, "a", "c"), change(4, "", "c")},
	}, {
		name: "when all drain, what is owned stays",
		in: assign.Input{
			Shards:  shards("a", "a", "b", ""),
			Workers: []assign.Worker{{ID: "a", Draining: true}, {ID: "b", Draining: true}},
		},
	}, {
		name: "heavy shards are placed first",
		in:   assign.Input{Shards: loaded(shards("", "", "", ""), 1, 2, 3, 4), Workers: workers("a", "b")},
		want: []assign.Change{change(0, "", "a"), change(1, "", "b"), change(2, "", "b"), change(3, "", "a")},
	}, {
		name: "one move that evens out, not several",
		in: assign.Input{
			Shards:  loaded(shards("a", "a", "a", "a", "b"), 10, 1, 30, 1, 22),
			Workers: workers("a", "b"), Limits: anyMoves,
		},
		want: []assign.Change{change(0, "a", "b")},
	}, {
		name: "a shard that outweighs the rest stays, the rest makes way",
		in: assign.Input{
			Shards:  loaded(shards("a", "a", "b"), 1000, 10, 10),
			Workers: workers("a", "b"), Limits: assign.Limits{MovePercent: 100, SlackPercent: 1},
		},
		want: []assign.Change{change(1, "a", "b")},
	}, {
		name: "what cannot be evened out does not hold up the rest",
		in: assign.Input{
			Shards:  loaded(shards("a", "b", "b", "b", "b"), 1000, 10, 10, 10, 10),
			Workers: workers("a", "b", "c"), Limits: anyMoves,
		},
		want: []assign.Change{change(4, "b", "c")},
	}, {
		name: "a small gain is not worth a move",
		in: assign.Input{
			Shards:  loaded(shards("a", "a", "a", "b", "b"), 101, 3, 1, 100, 1),
			Workers: workers("a", "b"), Limits: anyMoves,
		},
	}} {
		t.Run(test.name, func(t *testing.T) {
			got := assign.Compute(test.in)
			if diff := cmp.Diff(test.want, got.Changes); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if got.More != test.more {
				t.Errorf("More = %t, want %t", got.More, test.more)
			}
		})
	}
}

// moment is a step of a script about workers that come and go.
type moment struct {
	at      time.Duration // since the start
	workers []assign.Worker
	held    bool
	again   time.Duration // since the start, 0 for no need
}

func TestVanishing(t *testing.T) {
	const hold = assign.DefaultHoldDown
	ten := func(from, to int) []assign.Worker {
		var made []assign.Worker
		for i := from; i < to; i++ {
			made = append(made, assign.Worker{ID: assign.WorkerID(fmt.Sprintf("w%d", i))})
		}
		return made
	}
	drained := ten(0, 10)
	for i := range 5 {
		drained[i].Draining = true
	}
	for _, test := range []struct {
		name   string
		script []moment
	}{
		{"one of two is replaced at once", []moment{
			{workers: ten(0, 2)},
			{at: time.Second, workers: ten(0, 1), again: time.Second + hold},
			{at: time.Second + hold, workers: ten(0, 1)},
		}},
		{"one of one comes back", []moment{
			{workers: ten(0, 1)},
			{at: time.Second, workers: nil, again: time.Second + hold},
			{at: 2 * time.Second, workers: ten(1, 2)},
		}},
		{"three of ten are replaced at once", []moment{
			{workers: ten(0, 10)},
			{at: time.Second, workers: ten(3, 10), again: time.Second + hold},
		}},
		{"four of ten are waited for", []moment{
			{workers: ten(0, 10)},
			{at: time.Second, workers: ten(4, 10), held: true, again: time.Second + hold},
			{at: hold, workers: ten(4, 10), held: true, again: time.Second + hold},
			{at: time.Second + hold, workers: ten(4, 10)},
		}},
		{"four of ten come back", []moment{
			{workers: ten(0, 10)},
			{at: time.Second, workers: ten(4, 10), held: true, again: time.Second + hold},
			{at: 2 * time.Second, workers: ten(0, 10)},
			{at: 3 * time.Second, workers: ten(1, 10), again: 3*time.Second + hold},
		}},
		{"four of ten one after the other", []moment{
			{workers: ten(0, 10)},
			{at: 1 * time.Second, workers: ten(1, 10), again: 1*time.Second + hold},
			{at: 2 * time.Second, workers: ten(2, 10), again: 1*time.Second + hold},
			{at: 3 * time.Second, workers: ten(3, 10), again: 1*time.Second + hold},
			{at: 4 * time.Second, workers: ten(4, 10), held: true, again: 4*time.Second + hold},
			{at: 5 * time.Second, workers: ten(5, 10), held: true, again: 4*time.Second + hold},
			{at: 4*time.Second + hold, workers: ten(5, 10)},
		}},
		{"four of ten, each in its own time", []moment{
			{workers: ten(0, 10)},
			{at: 1 * hold, workers: ten(1, 10), again: 2 * hold},
			{at: 2 * hold, workers: ten(1, 10)},
			{at: 3 * hold, workers: ten(2, 10), again: 4 * hold},
			{at: 4 * hold, workers: ten(2, 10)},
			{at: 5 * hold, workers: ten(4, 10), again: 6 * hold},
		}},
		{"a fleet that is replaced", []moment{
			{workers: ten(0, 10)},
			{at: time.Second, workers: ten(0, 15)},
			{at: 2 * time.Second, workers: ten(5, 15), again: 2*time.Second + hold, held: true},
			{at: 3 * time.Second, workers: ten(5, 20)},
		}},
		{"replacements end the wait", []moment{
			{workers: ten(0, 4)},
			{at: time.Second, workers: ten(2, 4), held: true, again: time.Second + hold},
			{at: 2 * time.Second, workers: ten(2, 5), again: 2*time.Second + hold},
			{at: 3 * time.Second, workers: ten(2, 6)},
		}},
		{"who drains is not missed", []moment{
			{workers: ten(0, 10)},
			{at: time.Second, workers: drained},
			{at: 2 * time.Second, workers: ten(5, 10)},
		}},
		{"a new assigner takes things as they are", []moment{
			{at: time.Second, workers: ten(0, 1)},
		}},
	} {
		t.Run(test.name, func(t *testing.T) { runScript(t, test.script) })
	}
}

func runScript(t *testing.T, script []moment) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var state assign.State
	for _, now := range script {
		plan := assign.Compute(assign.Input{
			Shards: shards("", "w9"), Workers: now.workers, State: state, Now: start.Add(now.at),
		})
		state = plan.State
		if plan.Held != now.held {
			t.Errorf("at %s: held = %t, want %t", now.at, plan.Held, now.held)
		}
		if assigns := len(plan.Changes) > 0; assigns == (now.held || len(now.workers) == 0) {
			t.Errorf("at %s: changes %v, held %t", now.at, plan.Changes, plan.Held)
		}
		var again time.Duration
		if !plan.Again.IsZero() {
			again = plan.Again.Sub(start)
		}
		if again != now.again {
			t.Errorf("at %s: again at %s, want %s", now.at, again, now.again)
		}
	}
}

// Values that are out of range must neither overflow nor stop a plan.
func TestComputeOutOfRange(t *testing.T) {
	in := assign.Input{
		Shards:  loaded(shards("", "", "", ""), -5, 1<<62, 1<<62, 0),
		Workers: []assign.Worker{{ID: "a", Weight: 1 << 62}, {ID: "b", Weight: -1}, {ID: "c", Weight: 1 << 62}},
	}
	plan := assign.Compute(in)
	given := make(map[assign.WorkerID]int)
	for _, c := range plan.Changes {
		given[c.To]++
	}
	if len(plan.Changes) != 4 || given["a"] == 0 || given["c"] == 0 {
		t.Errorf("changes %v, want every shard placed, on both that can take much", plan.Changes)
	}
}

func BenchmarkCompute(b *testing.B) {
	const nWorkers, nShards = 1000, 65_536
	fleet := make([]assign.Worker, nWorkers)
	for i := range fleet {
		fleet[i] = assign.Worker{ID: assign.WorkerID(fmt.Sprintf("worker-%04d", i)), Weight: int64(1 + i%3)}
	}
	fresh := make([]assign.Owned, nShards)
	for i := range fresh {
		fresh[i] = assign.Owned{Shard: assign.Shard{Partition: i / 256, Slot: i % 256}, Load: int64(1 + i%7)}
	}
	settled := slices.Clone(fresh)
	for i, c := range assign.Compute(assign.Input{Shards: fresh, Workers: fleet}).Changes {
		settled[i].Owner = c.To
	}
	for _, bench := range []struct {
		name string
		in   assign.Input
	}{
		{"new cluster", assign.Input{Shards: fresh, Workers: fleet}},
		{"nothing to do", assign.Input{Shards: settled, Workers: fleet}},
		{"a hundred die", assign.Input{Shards: settled, Workers: fleet[100:]}},
		{"weights turned over", assign.Input{Shards: settled, Workers: turned(fleet)}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				assign.Compute(bench.in)
			}
		})
	}
}

// turned gives the workers other weights, so that as much as may moves.
func turned(fleet []assign.Worker) []assign.Worker {
	fleet = slices.Clone(fleet)
	for i := range fleet {
		fleet[i].Weight = 4 - fleet[i].Weight
	}
	return fleet
}

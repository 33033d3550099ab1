package assign

import (
	"cmp"
	"slices"
	"time"
)

// The limits' defaults.
const (
	DefaultMovePercent   = 9
	DefaultSlackPercent  = 5
	DefaultVanishPercent = 30
	DefaultHoldDown      = 30 * time.Second
)

// What loads and weights may be; others are taken for the nearest that is
// allowed. They keep the sums of a million shards within an int64.
const (
	MaxLoad   = 1_000_000
	MaxWeight = 10_000
)

// levelScale makes levels, which are quotients, fine enough for whole numbers.
const levelScale = 1 << 20

// WorkerID names a worker. The empty one is nobody.
type WorkerID string

// Shard is a slice of one partition's subscriptions.
type Shard struct {
	Partition int
	Slot      int
}

// compare orders shards.
func (s Shard) compare(other Shard) int {
	return cmp.Or(cmp.Compare(s.Partition, other.Partition), cmp.Compare(s.Slot, other.Slot))
}

// Owned is a shard as it is now.
type Owned struct {
	Shard Shard
	// Owner is who has it, empty for nobody. One that is not among the
	// workers is as good as nobody.
	Owner WorkerID
	// Load is what the shard costs, in a unit of the caller's. Zero is 1: give
	// all shards a load, or none.
	Load int64
}

// Worker is a worker that is there.
type Worker struct {
	ID WorkerID
	// Weight is how much it can take, next to the others. Zero is 1.
	Weight int64
	// Draining workers are given nothing, and lose what they have, as far as
	// there is somebody else to take it.
	Draining bool
}

// Limits bound what a plan may do. Zero fields are the defaults.
type Limits struct {
	// MovePercent of the shards that living workers own may be moved by one
	// plan, rounded down, but at least one.
	MovePercent int
	// SlackPercent of the mean level is the gain that is not worth a move.
	SlackPercent int
	// VanishPercent of the workers may be missing before that is taken for a
	// disturbance.
	VanishPercent int
	// HoldDown is how long nothing is assigned in a disturbance, and how far
	// losses may lie apart and count as one.
	HoldDown time.Duration
}

func (l Limits) resolve() Limits {
	return Limits{
		MovePercent:   cmp.Or(l.MovePercent, DefaultMovePercent),
		SlackPercent:  cmp.Or(l.SlackPercent, DefaultSlackPercent),
		VanishPercent: cmp.Or(l.VanishPercent, DefaultVanishPercent),
		HoldDown:      cmp.Or(l.HoldDown, DefaultHoldDown),
	}
}

// Input is all that a plan depends on. The order of its lists does not matter.
type Input struct {
	Shards  []Owned  // every shard there is, once
	Workers []Worker // every worker there is, once
	Limits  Limits
	// State is that of the plan before; the zero State if there was none.
	State State
	// Now is the time, for the hold-down.
	Now time.Time
}

// Change gives a shard to a worker.
type Change struct {
	Shard Shard
	From  WorkerID // who has it, alive; empty if nobody does
	To    WorkerID
}

// Plan is what to do.
type Plan struct {
	// Changes are ordered by shard, no shard twice.
	Changes []Change
	// State is for the next plan.
	State State
	// More: the limit on moves was reached. Plan again when these changes
	// have been made.
	More bool
	// Held: so many workers have vanished that nothing is assigned for now.
	Held bool
	// Again is when to plan next if nothing changes before; zero if there is
	// no need to.
	Again time.Time
}

// Compute makes a plan. The same input gives the same plan. Once its changes
// have been made and nothing else has changed, plans come to have no changes.
func Compute(in Input) Plan {
	limits := in.Limits.resolve()
	state, held := in.State.next(in.Workers, limits, in.Now)
	plan := Plan{State: state, Held: held}
	if !state.Since.IsZero() {
		plan.Again = state.Since.Add(limits.HoldDown)
	}
	if held {
		return plan
	}
	b := newBoard(in, limits)
	if len(b.open) == 0 {
		return plan
	}
	b.placeUnowned()
	b.emptyDraining()
	b.level()
	slices.SortFunc(b.changes, func(x, y Change) int { return x.Shard.compare(y.Shard) })
	plan.Changes, plan.More = b.changes, b.short
	return plan
}

package assign

import (
	"cmp"
	"slices"
)

// board is the assignment while it is being changed.
type board struct {
	open     []*seat // workers that can be given shards, by id
	draining []*seat // the others, by id
	unowned  []load  // by weight, the heaviest first
	budget   int     // how many shards may still be taken from living workers
	short    bool    // the budget did not suffice
	slack    int64   // a level
	changes  []Change
}

// seat is a worker with what it has.
type seat struct {
	id     WorkerID
	weight int64
	total  int64  // of everything it has
	shards []load // what it had at the start and still has, the lightest first
	stuck  bool   // nothing it has can be moved to advantage
}

// load is a shard and what it costs.
type load struct {
	shard Shard
	size  int64
}

func (l load) compare(other load) int {
	return cmp.Or(cmp.Compare(l.size, other.size), l.shard.compare(other.shard))
}

// levelWith is the level of the seat with so much more (or less) on it.
func (s *seat) levelWith(more int64) int64 {
	return (s.total + more) * levelScale / s.weight
}

// newBoard sets out what is there.
func newBoard(in Input, limits Limits) *board {
	b := &board{}
	seats := make(map[WorkerID]*seat, len(in.Workers))
	var weights, sizes int64
	for _, worker := range in.Workers {
		s := &seat{id: worker.ID, weight: clamp(worker.Weight, MaxWeight)}
		seats[worker.ID] = s
		if worker.Draining {
			b.draining = append(b.draining, s)
			continue
		}
		b.open = append(b.open, s)
		weights += s.weight
	}
	owned := 0
	for _, shard := range in.Shards {
		l := load{shard: shard.Shard, size: clamp(shard.Load, MaxLoad)}
		sizes += l.size
		s, living := seats[shard.Owner]
		if !living {
			b.unowned = append(b.unowned, l)
			continue
		}
		owned++
		s.total += l.size
		s.shards = append(s.shards, l)
	}
	b.order()
	b.budget = max(1, owned*limits.MovePercent/100)
	if weights > 0 {
		b.slack = sizes * levelScale / weights / 100 * int64(limits.SlackPercent)
	}
	return b
}

// order makes everything that follows independent of the order of the input.
func (b *board) order() {
	byID := func(x, y *seat) int { return cmp.Compare(x.id, y.id) }
	slices.SortFunc(b.open, byID)
	slices.SortFunc(b.draining, byID)
	for _, s := range slices.Concat(b.open, b.draining) {
		slices.SortFunc(s.shards, load.compare)
	}
	slices.SortFunc(b.unowned, func(x, y load) int {
		return cmp.Or(cmp.Compare(y.size, x.size), x.shard.compare(y.shard))
	})
}

// placeUnowned gives each unowned shard to the worker that will be lowest.
func (b *board) placeUnowned() {
	for _, l := range b.unowned {
		b.give(l, "", b.lowestWith(l.size))
	}
}

// emptyDraining takes what it may from the workers that drain.
func (b *board) emptyDraining() {
	for _, s := range b.draining {
		for len(s.shards) > 0 {
			if b.budget == 0 {
				b.short = true
				return
			}
			last := len(s.shards) - 1
			b.move(s, last, b.lowestWith(s.shards[last].size))
		}
	}
}

// level evens the open workers out.
func (b *board) level() {
	for {
		from := b.highest()
		if from == nil {
			return
		}
		to, at, ok := b.pick(from)
		if !ok {
			from.stuck = true
			continue
		}
		if b.budget == 0 {
			b.short = true
			return
		}
		b.move(from, at, to)
	}
}

// highest returns the worker with the highest level of those that are not
// stuck, or nil.
func (b *board) highest() *seat {
	var found *seat
	for _, s := range b.open {
		if !s.stuck && (found == nil || s.total*found.weight > found.total*s.weight) {
			found = s
		}
	}
	return found
}

// lowestWith returns the worker whose level would be the lowest with more on
// it. Of equal ones it is the first by id.
func (b *board) lowestWith(more int64) *seat {
	found := b.open[0]
	for _, s := range b.open[1:] {
		if (s.total+more)*found.weight < (found.total+more)*s.weight {
			found = s
		}
	}
	return found
}

// pick chooses what to move away from a worker, and to whom: of its shards the
// heaviest that does not lift the receiver above the giver, else the lightest.
// It reports whether the move is worth making.
func (b *board) pick(from *seat) (to *seat, at int, ok bool) {
	if len(from.shards) == 0 {
		return nil, 0, false
	}
	to = b.lowestWith(from.shards[0].size)
	even := (from.total*to.weight - to.total*from.weight) / (from.weight + to.weight)
	heavier, _ := slices.BinarySearchFunc(from.shards, even, func(l load, even int64) int {
		if l.size <= even {
			return -1
		}
		return 1
	})
	at = max(0, heavier-1)
	gain := from.levelWith(0) - to.levelWith(from.shards[at].size)
	return to, at, to != from && gain > b.slack
}

// move takes a shard that its owner has had from the start.
func (b *board) move(from *seat, at int, to *seat) {
	l := from.shards[at]
	from.shards = slices.Delete(from.shards, at, at+1)
	from.total -= l.size
	b.budget--
	b.give(l, from.id, to)
}

func (b *board) give(l load, from WorkerID, to *seat) {
	to.total += l.size
	b.changes = append(b.changes, Change{Shard: l.shard, From: from, To: to.id})
}

// clamp brings n between 1 and the highest allowed.
func clamp(n, highest int64) int64 {
	return min(max(n, 1), highest)
}

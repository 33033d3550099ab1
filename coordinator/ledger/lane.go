package ledger

import "hash/fnv"

// Ordering is in which order a subscription's events are sent, as
// Subscription.ordering has it.
type Ordering string

// The orderings of a subscription.
const (
	Unordered           Ordering = "none"
	OrderedByKey        Ordering = "key"
	OrderedSubscription Ordering = "subscription"
)

// Lane names deliveries of one subscription that are sent one after the other,
// by their events' positions. It is only told from others of its subscription.
type Lane uint32

const (
	// NoLane is that of deliveries without order.
	NoLane Lane = 0
	// WholeLane is that of deliveries that may be in the order of any other:
	// all of an ordered subscription, and, in one that is ordered by key, those
	// whose key is not known because they were owed before it was ordered so,
	// or are owed again.
	WholeLane Lane = 1
)

// LaneOfKey returns the lane of an ordering key. Different keys may share one:
// then there is more order than need be.
func LaneOfKey(key string) Lane {
	if key == "" {
		return NoLane
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // it never fails
	return max(Lane(h.Sum32()), WholeLane+1)
}

// Ordering returns in which order the subscription's events are sent.
func (s *Subscription) Ordering() Ordering {
	switch ordering := Ordering(s.Stored.GetSubscription().GetOrdering()); ordering {
	case OrderedByKey, OrderedSubscription:
		return ordering
	case Unordered:
	}
	return Unordered
}

// Lane returns the lane of a delivery that it is owed.
func (s *Subscription) Lane(at Position) Lane {
	switch s.Ordering() {
	case OrderedSubscription:
		return WholeLane
	case OrderedByKey:
		return s.lanes[at]
	case Unordered:
	}
	return NoLane
}

// setLane keeps the lane of what it is owed. Only what is ordered by key needs
// that.
func (s *Subscription) setLane(at Position, lane Lane) {
	if lane == NoLane || s.Ordering() != OrderedByKey {
		return
	}
	if s.lanes == nil {
		s.lanes = make(map[Position]Lane)
	}
	s.lanes[at] = lane
}

// reorder is told that the ordering may have been another. What is owed by then
// has keys that are not known: it goes one by one, and before what comes.
func (s *Subscription) reorder(before Ordering, result *Result) {
	now := s.Ordering()
	if now == before {
		return
	}
	s.lanes = nil
	for i := range s.owed {
		s.setLane(s.owed[i].position, WholeLane)
	}
	result.Reordered = append(result.Reordered, s)
	result.paced(s) // the newest is no longer, or again, a probe
}

// laneColumn returns the lanes of what is owed, or nil if none has one.
func (s *Subscription) laneColumn() []uint32 {
	if len(s.lanes) == 0 {
		return nil
	}
	column := make([]uint32, 0, len(s.owed))
	for i := range s.owed {
		column = append(column, uint32(s.lanes[s.owed[i].position]))
	}
	return column
}

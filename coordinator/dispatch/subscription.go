package dispatch

import (
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// subscription is one endpoint's queue.
type subscription struct {
	number   ledger.Number
	slot     *slot
	waiting  heap[item]                // of a lane, no more than the first
	lanes    *lanes                    // nil: it has none
	hands    map[ledger.Position]*hand // nil at first, and again when there is none of an endpoint that failed
	window   int
	batch    int // how many of its deliveries are sent together at most; 0: each alone
	pace     ledger.Pace
	bucket   *bucket // of its rate; nil: it has none
	tenant   *shared // nil: its tenant has no rate
	ready    bool    // in the slot's ring
	queued   bool    // for a token of its tenant's
	called   bool    // one is there for it
	site     string  // where its endpoint is; "": nowhere
	at       *site   // in whose queue it stands; nil: in none
	recalled bool    // from there
	timer    int     // its index in the timers; -1: it has none
	wake     int64   // unix ms of its timer, if it has one
}

// item is a delivery that waits.
type item struct {
	position ledger.Position
	attempts uint32 // made so far
	lane     ledger.Lane
	due      int64 // unix ms
}

// hand is a delivery in a session's hands.
type hand struct {
	item
	session *session
	site    *site // of the session; nil: it is at none
	bytes   int   // charged
}

// open reports whether the subscription has something waiting and room for it.
func (s *subscription) open() bool {
	most := s.room()
	switch {
	case s.pace.Stopped:
		most = 0
	case s.pace.Probing:
		most = 1
	}
	return len(s.waiting.items) > 0 && len(s.hands) < most
}

// room returns how many of its deliveries may be in hands by its window, which
// counts requests: of one that is sent batches, enough for a batch to fill. What
// counts for one that fails is an eighth of a batch, so that it soon holds no
// more of a worker's credit than others can.
func (s *subscription) room() int {
	if s.batch <= batchShare {
		return s.window
	}
	return min(s.window*(s.batch/batchShare), max(WindowMax, s.batch))
}

// due returns when the next delivery is due; it must be open.
func (s *subscription) due() int64 {
	due := max(s.waiting.items[0].due, s.pace.After)
	if s.pace.Probing {
		due = max(s.pace.Probe, s.pace.After)
	}
	if s.bucket != nil {
		due = max(due, s.bucket.due())
	}
	return due
}

// pick takes the next delivery out of the heap: the one due first or, of an
// endpoint that is probed, the oldest or the newest. It takes none, and returns
// false, if that may no longer follow what is in hands of its lane.
func (s *subscription) pick() (item, bool) {
	best := 0
	if s.pace.Probing {
		for i, it := range s.waiting.items {
			if order := it.position.Compare(s.waiting.items[best].position); order < 0 != s.pace.Newest && order != 0 {
				best = i
			}
		}
	}
	it := s.waiting.items[best]
	if it.lane == ledger.NoLane {
		return s.waiting.remove(best), true
	}
	l := s.lane(it.lane)
	if !s.follows(l, it.position) {
		s.withdraw(l)
		return item{}, false
	}
	s.waiting.remove(best)
	l.offered = -1
	return it, true
}

// hasten makes all that waits or is in hands due at a time at the latest.
func (s *subscription) hasten(due int64) {
	items := s.waiting.items
	s.waiting.items = nil
	for _, it := range items {
		it.due = min(it.due, due)
		s.waiting.push(it)
	}
	for _, h := range s.hands {
		h.due = min(h.due, due)
	}
	if s.lanes == nil {
		return
	}
	for _, l := range s.lanes.all {
		for i := range l.rest {
			l.rest[i].due = min(l.rest[i].due, due)
		}
	}
}

func (s *subscription) indexOf(position ledger.Position) int {
	return slices.IndexFunc(s.waiting.items, func(it item) bool { return it.position == position })
}

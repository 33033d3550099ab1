package worker

import (
	"cmp"
	"slices"
)

// lane is what is in hand of a lane: deliveries of one subscription that are
// attempted one after the other. A pure data structure, not safe for concurrent
// use.
type lane struct {
	// open have not ended, in the order in which they came. The first has been
	// queued, the others have not; or several have, to be sent in one batch.
	open []*delivery
	// back are those that have ended, but were not delivered, and the leader may
	// have sent what follows before it knew. Each is here until its outcome is
	// durable, or it is dispatched again.
	back map[ref]struct{}
}

// compare orders deliveries of one subscription by their events.
func (r ref) compare(other ref) int {
	return cmp.Or(cmp.Compare(r.sequence, other.sequence), cmp.Compare(r.index, other.index))
}

// broken reports whether a delivery cannot be taken, because one before it has
// ended without being delivered.
func (l *lane) broken(d *delivery) bool {
	for r := range l.back {
		if r.compare(d.ref) < 0 {
			return true
		}
	}
	return false
}

// close takes out a delivery that has ended, and returns what is behind it.
func (l *lane) close(ended *delivery) (rest []*delivery) {
	i := slices.Index(l.open, ended)
	if i < 0 {
		return nil
	}
	l.open = slices.Delete(l.open, i, i+1)
	return l.open[i:]
}

// pushed returns how many of open have been queued.
func (l *lane) pushed() int {
	n := 0
	for n < len(l.open) && l.open[n].pushed {
		n++
	}
	return n
}

// begins reports whether deliveries can be sent together: whether those of each
// lane are the first of it.
func (h *hand) begins(deliveries []*delivery) bool {
	next := make(map[*lane]int)
	for _, d := range deliveries {
		if d.lane == 0 {
			continue
		}
		l := h.lane(d)
		if n := next[l]; n >= len(l.open) || l.open[n] != d || l.broken(d) {
			return false
		}
		next[l]++
	}
	return true
}

// lane returns the lane of a delivery that has one.
func (h *hand) lane(d *delivery) *lane {
	lanes := h.lanes[d.subscription]
	if lanes == nil {
		lanes = make(map[uint32]*lane)
		h.lanes[d.subscription] = lanes
	}
	l := lanes[d.lane]
	if l == nil {
		l = &lane{back: make(map[ref]struct{})}
		lanes[d.lane] = l
	}
	return l
}

// tidy forgets the lane of a delivery if nothing is in it.
func (h *hand) tidy(d *delivery) {
	if l := h.lane(d); len(l.open)+len(l.back) > 0 {
		return
	}
	delete(h.lanes[d.subscription], d.lane)
	if len(h.lanes[d.subscription]) == 0 {
		delete(h.lanes, d.subscription)
	}
}

// unqueued takes out of a subscription's lanes what only waits there, behind
// the first of each.
func (h *hand) unqueued(subscription uint64) (back []*delivery) {
	for _, l := range h.lanes[subscription] {
		n := l.pushed()
		back = append(back, l.open[n:]...)
		l.open = l.open[:n:n]
	}
	return back
}

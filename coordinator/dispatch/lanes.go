package dispatch

import (
	"cmp"
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// lanes are the lanes of a subscription, as far as something is in them.
//
// While a delivery of ledger.WholeLane is among them, which may be in the order
// of any other, all are one lane.
type lanes struct {
	all   map[ledger.Lane]*lane
	whole int // deliveries of ledger.WholeLane, waiting or in hands
}

// lane holds deliveries that are sent one after the other.
//
// Invariants: a delivery is in rest, or offered, or held; what is offered is
// older than rest and newer than held; if nothing is held and something waits,
// the oldest is offered.
type lane struct {
	rest    []item            // waiting, by position, without the one offered
	offered int               // where in the subscription's heap the oldest that waits is; -1: it is not there
	held    []ledger.Position // in hands, rising
	// with is the session that has all that is held, and was sent it in order:
	// it keeps the order, so it may be sent more. nil: nobody may.
	with *session
	sent bool // the newest that is held is on its way
}

// insert adds an item by its position.
func (l *lane) insert(it item) {
	at, _ := slices.BinarySearchFunc(l.rest, it.position, func(it item, p ledger.Position) int { return it.position.Compare(p) })
	l.rest = slices.Insert(l.rest, at, it)
}

// lane returns the lane that a delivery of a lane is in now.
func (s *subscription) lane(id ledger.Lane) *lane {
	if s.lanes == nil {
		s.lanes = &lanes{all: make(map[ledger.Lane]*lane)}
		s.waiting.moved = func(it item, i int) {
			if it.lane != ledger.NoLane {
				s.lane(it.lane).offered = i
			}
		}
	}
	id = s.sendLane(id)
	l := s.lanes.all[id]
	if l == nil {
		l = &lane{offered: -1}
		s.lanes.all[id] = l
	}
	return l
}

// sendLane returns the lane that a worker must know a delivery by.
func (s *subscription) sendLane(id ledger.Lane) ledger.Lane {
	if id != ledger.NoLane && s.lanes != nil && s.lanes.whole > 0 {
		return ledger.WholeLane
	}
	return id
}

// enter counts a delivery that comes into a lane, and returns that. If it is
// the first that may be in the order of any other, all lanes become one.
func (s *subscription) enter(id ledger.Lane) *lane {
	l := s.lane(id)
	if id != ledger.WholeLane {
		return l
	}
	if s.lanes.whole++; s.lanes.whole == 1 && len(s.lanes.all) > 1 {
		s.relane()
		return s.lane(id)
	}
	return l
}

// leave is the inverse of enter, and sees to what the lane does next.
func (s *subscription) leave(id ledger.Lane) {
	if id == ledger.WholeLane {
		l := s.lane(id)
		if s.lanes.whole--; s.lanes.whole == 0 && len(l.held)+len(l.rest)+l.offered >= 0 {
			s.relane() // there are others in it
			return
		}
	}
	s.offer(id)
}

// follows reports whether a delivery may be sent behind what is in hands of its
// lane.
func (s *subscription) follows(l *lane, at ledger.Position) bool {
	if len(l.held) == 0 {
		return true
	}
	return l.with != nil && l.with == s.slot.owner && l.sent && l.held[len(l.held)-1].Compare(at) < 0
}

// offer puts the oldest that waits of a lane into the subscription's heap, if
// it may be sent, and nothing else.
func (s *subscription) offer(id ledger.Lane) {
	l := s.lane(id)
	if l.offered >= 0 {
		at := s.waiting.items[l.offered].position
		if s.follows(l, at) && (len(l.rest) == 0 || at.Compare(l.rest[0].position) < 0) {
			return
		}
		s.withdraw(l)
	}
	switch {
	case len(l.rest) > 0 && s.follows(l, l.rest[0].position):
		it := l.rest[0]
		l.rest = l.rest[1:]
		s.waiting.push(it)
	case len(l.rest) == 0 && len(l.held) == 0:
		delete(s.lanes.all, s.sendLane(id))
	}
}

// withdraw takes back what a lane has offered.
func (s *subscription) withdraw(l *lane) {
	it := s.waiting.remove(l.offered)
	l.offered = -1
	l.insert(it)
}

// hold notes that a delivery is in hands. in is who was sent it by its turn,
// behind all that is in hands of the lane; nil: somebody has it otherwise.
func (s *subscription) hold(it item, in *session) {
	var l *lane
	if in != nil {
		l = s.lane(it.lane) // it waited there
	} else {
		l = s.enter(it.lane)
	}
	if len(l.held) == 0 || in == nil {
		l.with = in
	}
	l.sent = false
	at, _ := slices.BinarySearchFunc(l.held, it.position, ledger.Position.Compare)
	l.held = slices.Insert(l.held, at, it.position)
	s.offer(it.lane)
}

// free is the inverse of hold.
func (s *subscription) free(it item) {
	l := s.lane(it.lane)
	if at, found := slices.BinarySearchFunc(l.held, it.position, ledger.Position.Compare); found {
		l.sent = l.sent || at == len(l.held)-1 && at > 0 // what is before it was sent before it
		l.held = slices.Delete(l.held, at, at+1)
	}
	s.leave(it.lane)
}

// departed is told that a delivery is on its way to the session that has it.
func (s *subscription) departed(it item) {
	if l := s.lane(it.lane); len(l.held) > 0 && l.held[len(l.held)-1] == it.position {
		l.sent = true
		s.offer(it.lane)
	}
}

// InTurn reports whether a delivery that is in hands, but not on its way yet
// because it had to be read first, may still be sent as far as its order goes:
// what went before it may have come back meanwhile, or be in other hands.
func (d *Dispatch) InTurn(delivery ledger.Delivery) bool {
	s := d.subscriptions[delivery.Subscription]
	if s == nil || s.hands[delivery.Position] == nil {
		return false
	}
	h := s.hands[delivery.Position]
	if h.lane == ledger.NoLane {
		return true
	}
	l := s.lane(h.lane)
	switch {
	case l.offered >= 0 && s.waiting.items[l.offered].position.Compare(delivery.Position) < 0,
		len(l.rest) > 0 && l.rest[0].position.Compare(delivery.Position) < 0:
		return false
	}
	for _, position := range l.held {
		if position.Compare(delivery.Position) < 0 && s.hands[position].session != h.session {
			return false
		}
	}
	return true
}

// relane puts all that there is into the lanes it belongs to by now. Whoever
// has something in hands knows it by another lane, so they are sent nothing
// behind it.
func (s *subscription) relane() {
	items := s.waiting.items
	for _, l := range s.lanes.all {
		items = append(items, l.rest...)
	}
	s.waiting.items = nil
	s.lanes.all = make(map[ledger.Lane]*lane)
	for position, h := range s.hands {
		if h.lane != ledger.NoLane {
			l := s.lane(h.lane)
			l.held = append(l.held, position)
		}
	}
	for _, l := range s.lanes.all {
		slices.SortFunc(l.held, ledger.Position.Compare)
	}
	slices.SortFunc(items, func(a, b item) int { return a.position.Compare(b.position) })
	for _, it := range items {
		if it.lane == ledger.NoLane {
			s.waiting.push(it)
			continue
		}
		l := s.lane(it.lane)
		l.rest = append(l.rest, it)
		if len(l.rest) == 1 {
			s.offer(it.lane)
		}
	}
}

// Reorder says which lanes a subscription's deliveries are in from now on.
func (d *Dispatch) Reorder(number ledger.Number, lane func(ledger.Position) ledger.Lane) {
	s := d.subscriptions[number]
	if s == nil {
		return
	}
	s.lane(ledger.WholeLane) // makes them, if there are none
	s.lanes.whole = 0
	change := func(it *item) {
		it.lane = lane(it.position)
		if it.lane == ledger.WholeLane {
			s.lanes.whole++
		}
	}
	for i := range s.waiting.items {
		change(&s.waiting.items[i])
	}
	for _, l := range s.lanes.all {
		for i := range l.rest {
			change(&l.rest[i])
		}
	}
	for _, h := range s.hands {
		change(&h.item)
	}
	s.relane()
	if len(s.lanes.all) == 0 {
		s.lanes, s.waiting.moved = nil, nil
	}
	d.arm(s)
}

// enqueue lets a delivery wait.
func (s *subscription) enqueue(it item) {
	if it.lane == ledger.NoLane {
		s.waiting.push(it)
		return
	}
	s.enter(it.lane).insert(it)
	s.offer(it.lane)
}

// pull takes out a delivery that waits, if it does.
func (s *subscription) pull(position ledger.Position) (it item, ok bool) {
	if i := s.indexOf(position); i >= 0 {
		it, ok = s.waiting.remove(i), true
		if it.lane != ledger.NoLane {
			s.lane(it.lane).offered = -1
		}
	} else if s.lanes != nil {
		it, ok = s.lanes.pull(position)
	}
	if ok && it.lane != ledger.NoLane {
		s.leave(it.lane)
	}
	return it, ok
}

func (ls *lanes) pull(position ledger.Position) (it item, ok bool) {
	for _, l := range ls.all {
		at, found := slices.BinarySearchFunc(l.rest, position, func(it item, p ledger.Position) int { return it.position.Compare(p) })
		if found {
			it = l.rest[at]
			l.rest = slices.Delete(l.rest, at, at+1)
			return it, true
		}
	}
	return item{}, false
}

// byDue orders items by when they are due, and then by their events.
func byDue(a, b item) bool {
	return cmp.Or(cmp.Compare(a.due, b.due), a.position.Compare(b.position)) < 0
}

package dispatch

import (
	"maps"
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// SessionID names a session; each one that attaches gets a new one.
type SessionID uint64

// Worker is who is at the other end of a session.
type Worker struct {
	ID          string
	Incarnation string // of the process
}

// session is an attached worker, or one that left something behind.
type session struct {
	id       SessionID
	worker   Worker
	attached bool
	granted  Credit // in total
	credit   Credit // what is left of it
	next     int    // slot whose turn it is
	hands    map[ledger.Delivery]struct{}
	sites    map[string]*site // by name; those it has something in hand for
	crowded  []*site          // those with a queue
}

// Attach makes a session known that takes as much as its credit says.
func (d *Dispatch) Attach(id SessionID, worker Worker, credit Credit) {
	d.sessions[id] = &session{
		id: id, worker: worker, attached: true, granted: credit, credit: credit,
		hands: make(map[ledger.Delivery]struct{}), sites: make(map[string]*site),
	}
}

// Grant changes how much a session takes: in total, what it has included.
func (d *Dispatch) Grant(id SessionID, credit Credit) {
	if s := d.sessions[id]; s != nil {
		s.credit.Regrant(s.granted, credit)
		s.granted = credit
	}
}

// Claim gives a slot to a session, with what the worker says it still has of
// it in hand. It reports false, and changes nothing, if a session has claimed
// the slot with a higher epoch.
func (d *Dispatch) Claim(id SessionID, number int, epoch int64, inHand []ledger.Delivery) bool {
	owner := d.sessions[id]
	if owner == nil || number < 0 || number >= len(d.slots) || epoch < d.slots[number].epoch {
		return false
	}
	slot := d.slots[number]
	slot.owner, slot.epoch = owner, epoch
	declared := make(map[ledger.Delivery]struct{}, len(inHand))
	for _, delivery := range inHand {
		declared[delivery] = struct{}{}
	}
	for _, member := range slot.members {
		s := d.subscriptions[member]
		d.reclaim(s, owner, declared)
		if s.at != nil && s.at.session != owner {
			d.leaveQueue(s)
		}
	}
	for _, delivery := range inHand {
		d.adopt(delivery, slot)
	}
	return true
}

// reclaim settles, for one subscription of a slot with a new owner, who has
// what.
func (d *Dispatch) reclaim(s *subscription, owner *session, declared map[ledger.Delivery]struct{}) {
	if len(s.hands) == 0 {
		return
	}
	for _, position := range slices.SortedFunc(maps.Keys(s.hands), ledger.Position.Compare) {
		h := s.hands[position]
		_, has := declared[ledger.Delivery{Subscription: s.number, Position: position}]
		has = has && h.session.worker == owner.worker
		if h.session == owner || h.session.attached && !has {
			continue // it stays with who has it
		}
		d.take(s, position)
		if has {
			d.hold(s, owner, h.item)
		} else {
			d.wait(s, h.item)
		}
	}
}

// adopt puts a delivery that waits, but that the slot's owner says it has,
// into the owner's hands. One that is not owed is left to its outcome.
func (d *Dispatch) adopt(delivery ledger.Delivery, slot *slot) {
	s := d.subscriptions[delivery.Subscription]
	if s == nil || s.slot != slot {
		return
	}
	if it, waits := s.pull(delivery.Position); waits {
		d.hold(s, slot.owner, it)
	}
}

// Keep puts into a session's hands what the worker says it still has of slots
// that it does not own any more. What is in other hands stays there, unless it
// is in those of an earlier session of the same worker; what is not owed is left
// to its outcome.
func (d *Dispatch) Keep(id SessionID, inHand []ledger.Delivery) {
	keeper := d.sessions[id]
	if keeper == nil {
		return
	}
	for _, delivery := range inHand {
		s := d.subscriptions[delivery.Subscription]
		if s == nil {
			continue
		}
		if h := s.hands[delivery.Position]; h != nil {
			if !h.session.attached && h.session.worker == keeper.worker {
				d.hold(s, keeper, d.take(s, delivery.Position).item)
			}
			continue
		}
		if it, waits := s.pull(delivery.Position); waits {
			d.hold(s, keeper, it)
		}
	}
}

// Release takes a slot from a session. What the session has in hand it keeps.
func (d *Dispatch) Release(id SessionID, number int) {
	if number < 0 || number >= len(d.slots) {
		return
	}
	if slot := d.slots[number]; slot.owner != nil && slot.owner.id == id {
		slot.owner = nil
	}
}

// Detach ends a session. What it had in hand waits again where somebody else
// owns the slot by now; elsewhere it stays until somebody claims it.
func (d *Dispatch) Detach(id SessionID) {
	gone := d.sessions[id]
	if gone == nil {
		return
	}
	gone.attached = false
	delete(d.sessions, id)
	for _, slot := range d.slots {
		if slot.owner == gone {
			slot.owner = nil
		}
	}
	for _, delivery := range slices.SortedFunc(maps.Keys(gone.hands), compare) {
		s := d.subscriptions[delivery.Subscription]
		if s.slot.owner != nil {
			d.wait(s, d.take(s, delivery.Position).item)
		}
	}
}

// Holds reports whether a delivery is in a session's hands.
func (d *Dispatch) Holds(id SessionID, delivery ledger.Delivery) bool {
	if s := d.sessions[id]; s != nil {
		_, holds := s.hands[delivery]
		return holds
	}
	return false
}

// Return takes a delivery that was not attempted out of a session's hands. It
// waits again, due as before.
func (d *Dispatch) Return(id SessionID, delivery ledger.Delivery) {
	if d.Holds(id, delivery) {
		s := d.subscriptions[delivery.Subscription]
		s.refund()
		d.wait(s, d.take(s, delivery.Position).item)
	}
}

// Holders returns the ids of the workers that have something in hand, in order.
func (d *Dispatch) Holders() []string {
	var ids []string
	for _, s := range d.sessions {
		if len(s.hands) > 0 {
			ids = append(ids, s.worker.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

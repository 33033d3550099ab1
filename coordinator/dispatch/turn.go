package dispatch

import (
	"maps"
	"math"
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// Send says that a delivery goes to a session now.
type Send struct {
	Session SessionID
	ledger.Delivery
	Attempt uint32      // to make, from 1
	Lane    ledger.Lane // the worker keeps its order; NoLane: there is none
}

// Charge takes the bytes of a delivery just sent from the session's credit.
// Before it is called nothing follows in the delivery's lane.
func (d *Dispatch) Charge(send Send, bytes int) {
	if d.Holds(send.Session, send.Delivery) {
		s := d.subscriptions[send.Subscription]
		h := s.hands[send.Position]
		h.bytes += bytes
		h.session.credit.Charge(bytes)
		if h.site != nil {
			h.site.bytes += int64(bytes)
		}
		if h.lane != ledger.NoLane {
			s.departed(h.item)
			d.arm(s)
		}
	}
}

// Next returns what to send at a time, in unix ms: at most so many, each of
// them in its session's hands from now on. It returns one delivery of a
// subscription at the most: called until it returns nothing, it leaves nothing
// that could be sent. The sends of a session follow each other, so that those
// of one event can travel together; where there are too many, the session
// whose turn it was is the last to have one in the next call.
func (d *Dispatch) Next(now int64, most int) []Send {
	for {
		d.rouse(now)
		sends := d.turns(now, most)
		// What was passed over may have let others in: who gave way to its
		// lane, or queued for a token that is there.
		if at, ok := d.Wake(); len(sends) > 0 || !ok || at > now {
			return sends
		}
	}
}

// rouse lets those have their turn whose time has come.
func (d *Dispatch) rouse(now int64) {
	for len(d.calls.items) > 0 && d.calls.items[0].wake <= now {
		d.callNext(d.calls.items[0], now)
	}
	for len(d.timers.items) > 0 && d.timers.items[0].wake <= now {
		s := d.timers.items[0]
		d.disarm(s)
		d.ready(s)
	}
}

// turns gives each session its turns.
func (d *Dispatch) turns(now int64, most int) []Send {
	var sends []Send
	for _, session := range d.round() {
		d.recall(session)
		for session.credit.Open() {
			if len(sends) >= most {
				return sends
			}
			send, ok := d.turn(session, now)
			if !ok && d.recall(session) {
				continue
			}
			if !ok {
				break
			}
			sends = append(sends, send)
			d.last = session.id
		}
	}
	return sends
}

// round returns the sessions in the order of their turns.
func (d *Dispatch) round() []*session {
	ids := slices.Sorted(maps.Keys(d.sessions))
	after, _ := slices.BinarySearch(ids, d.last+1)
	sessions := make([]*session, 0, len(ids))
	for _, id := range slices.Concat(ids[after:], ids[:after]) {
		sessions = append(sessions, d.sessions[id])
	}
	return sessions
}

// turn takes one delivery for a session from the next of its slots that has
// something ready.
func (d *Dispatch) turn(owner *session, now int64) (Send, bool) {
	for range d.slots {
		slot := d.slots[owner.next]
		owner.next = (owner.next + 1) % len(d.slots)
		if slot.owner != owner {
			continue
		}
		for len(slot.ready) > 0 {
			s := slot.ready[0]
			slot.ready = slot.ready[1:]
			s.ready = false
			if d.subscriptions[s.number] != s || !s.open() || s.due() > now {
				d.arm(s)
				continue
			}
			if owner.givesWay(s) {
				continue // it is recalled
			}
			if !d.admits(s, now) {
				continue // it is called
			}
			it, ok := s.pick()
			if !ok {
				d.arm(s)
				continue
			}
			s.spend(now)
			owner.credit.Take()
			d.place(s, owner, owner, it)
			d.arm(s)
			delivery := ledger.Delivery{Subscription: s.number, Position: it.position}
			return Send{owner.id, delivery, it.attempts + 1, s.sendLane(it.lane)}, true
		}
	}
	return Send{}, false
}

// Wake returns when Next may have something that it does not have now, in unix
// ms; ok is false when only another input can bring that about.
func (d *Dispatch) Wake() (at int64, ok bool) {
	at = math.MaxInt64
	if len(d.timers.items) > 0 {
		at, ok = d.timers.items[0].wake, true
	}
	if len(d.calls.items) > 0 {
		at, ok = min(at, d.calls.items[0].wake), true
	}
	if !ok {
		at = 0
	}
	return at, ok
}

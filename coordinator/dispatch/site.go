package dispatch

import (
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// siteShare bounds what the deliveries to one site hold of a session's credit:
// one more is sent only while that is less than so many times what is left. So
// one site alone comes to two thirds of the credit, and many that are crowded
// leave some to one that has nothing in hand.
const siteShare = 2

// site is a place that endpoints share, such as a host and port, in a session's
// eyes. There may be thousands at one, and each has a window of its own; where it
// is slow, and does not fail, what they have in hand would else become all that
// the worker takes.
//
// A subscription that might be sent to but for its site gives way: it stands in
// the site's queue, out of the way of the others, until the site has room.
type site struct {
	name    string
	session *session
	count   int64           // deliveries in the session's hands
	bytes   int64           // that these were charged
	queue   []*subscription // those that gave way, and some that have left since
}

// Settle says where a subscription's endpoint is; "" is nowhere, and alone.
func (d *Dispatch) Settle(number ledger.Number, name string) {
	if s := d.subscriptions[number]; s != nil && s.site != name {
		s.site = name
		d.leaveQueue(s)
	}
}

// crowded reports whether the deliveries to a site hold all that they may of the
// credit, of which something must be left.
func (at *site) crowded() bool {
	left := at.session.credit
	return at.count > 0 && (at.count >= siteShare*left.count || at.bytes >= siteShare*left.bytes)
}

// room returns how many more deliveries the site has room for, by their number.
func (at *site) room() int64 {
	if at.crowded() {
		return 0
	}
	return max(1, (siteShare*at.session.credit.count-at.count)/(1+siteShare))
}

// at returns a session's site of a name.
func (owner *session) at(name string) *site {
	at := owner.sites[name]
	if at == nil {
		at = &site{name: name, session: owner}
		owner.sites[name] = at
	}
	return at
}

// givesWay reports whether a subscription has no turn because its site is
// crowded, or because others queue there. Then it does so too. Only one that was
// recalled goes before those that queue.
func (owner *session) givesWay(s *subscription) bool {
	recalled, at := s.recalled, owner.sites[s.site]
	s.recalled = false
	if at == nil || !at.crowded() && (recalled || len(at.queue) == 0) {
		return false
	}
	if len(at.queue) == 0 {
		owner.crowded = append(owner.crowded, at)
	}
	s.at, at.queue = at, append(at.queue, s)
	return true
}

// recall brings those back that gave way, as far as their sites have room, and
// reports whether there are any.
func (d *Dispatch) recall(owner *session) (some bool) {
	owner.crowded = slices.DeleteFunc(owner.crowded, func(at *site) bool {
		for room := at.room(); room > 0 && len(at.queue) > 0; {
			s := at.queue[0]
			at.queue[0] = nil
			at.queue = at.queue[1:]
			if s.at != at {
				continue // it has left
			}
			s.at = nil
			if s.open() {
				s.recalled, some = true, true
				d.ready(s)
				room--
			}
		}
		at.forget()
		return len(at.queue) == 0
	})
	return some
}

// leaveQueue takes a subscription out of a site's queue, if it stands in one.
func (d *Dispatch) leaveQueue(s *subscription) {
	if s.at != nil {
		s.at = nil
		d.arm(s)
	}
}

// take and give count a delivery that comes into the session's hands, and one
// that leaves them.
func (at *site) take() { at.count++ }

func (at *site) give(bytes int) {
	at.count--
	at.bytes -= int64(bytes)
	at.forget()
}

// forget lets go of a site that nothing is known of any more.
func (at *site) forget() {
	if at.count == 0 && len(at.queue) == 0 {
		delete(at.session.sites, at.name)
	}
}

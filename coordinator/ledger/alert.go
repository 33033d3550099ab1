package ledger

import (
	"maps"
	"slices"
	"sort"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// foldAlert puts or deletes an alert.
func (l *Ledger) foldAlert(change *linkv1.AlertChange) {
	if change.GetPut() == nil {
		delete(l.alerts, change.GetId())
		return
	}
	l.alerts[change.GetId()] = change.GetPut()
}

// Alert returns an alert by its id, or nil. It is never changed in place.
func (l *Ledger) Alert(id string) *linkv1.StoredAlert { return l.alerts[id] }

// Alerts returns the ids of all alerts, in order.
func (l *Ledger) Alerts() []string { return slices.Sorted(maps.Keys(l.alerts)) }

// Overdue returns subscriptions that are owed something of records before
// this one, or may be: at most so many, in no particular order. It looks at
// none of those that are not.
func (l *Ledger) Overdue(before uint64, most int) []*Subscription {
	var found []*Subscription
	look := []int{0}
	for len(look) > 0 && len(found) < most {
		i := look[len(look)-1]
		look = look[:len(look)-1]
		if i >= len(l.needed.heap) || l.needed.heap[i].key >= before {
			continue // what is below it in the heap is higher
		}
		of := l.needed.heap[i].of
		if sequence, ok := of.needs(); ok && sequence < before {
			found = append(found, of)
		}
		look = append(look, 2*i+1, 2*i+2)
	}
	return found
}

// Awaits returns the oldest record that a subscription is owed events of, or may
// be; false if there is none, also if it is behind of records without events
// only.
func (l *Ledger) Awaits(s *Subscription) (sequence uint64, ok bool) {
	if len(s.owed) > 0 {
		sequence, ok = s.owed[0].position.Sequence, true
	}
	if s.behind && s.cursor.Sequence <= l.lastEvents && (!ok || s.cursor.Sequence < sequence) {
		sequence, ok = s.cursor.Sequence, true
	}
	return sequence, ok
}

// OwedSince returns since when the oldest delivery is owed; zero if nothing is.
func (s *Subscription) OwedSince() time.Time {
	since, _ := s.waitsSince()
	return unixMs(int64(since)) //nolint:gosec // was an int64
}

// WrittenBy returns a time at which a record was written, or a little later:
// the one that retention counts from.
func (l *Ledger) WrittenBy(sequence uint64) time.Time {
	marks := l.timeline.marks
	n := sort.Search(len(marks), func(i int) bool { return marks[i].sequence > sequence })
	if n == len(marks) {
		return unixMs(l.time)
	}
	return unixMs(marks[n].time)
}

// DisableAfter returns how long an endpoint may fail before it is disabled.
func (l *Ledger) DisableAfter() time.Duration {
	return time.Duration(l.limits.GetDisableAfterMs()) * time.Millisecond
}

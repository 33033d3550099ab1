package assign

import (
	"slices"
	"time"
)

// minMissing is how many workers must be missing for a disturbance: the death
// of one is an everyday matter, whatever its share.
const minMissing = 2

// State is what one plan hands to the next. The zero State knows nothing.
type State struct {
	// Known are the workers that were there before Since, without those that
	// drain; all that are there, if Since is zero. In order.
	Known []WorkerID
	// Since is when the losses began that are being counted, or, while they
	// are held for a disturbance, when that began.
	Since time.Time
	// Held: it is a disturbance.
	Held bool
}

// next brings the state up to date, and reports whether it is a disturbance.
func (s State) next(workers []Worker, limits Limits, now time.Time) (State, bool) {
	var present, draining []WorkerID
	for _, worker := range workers {
		if worker.Draining {
			draining = append(draining, worker.ID)
		} else {
			present = append(present, worker.ID)
		}
	}
	slices.Sort(present)
	slices.Sort(draining)
	known := slices.DeleteFunc(slices.Clone(s.Known), func(id WorkerID) bool {
		_, leaving := slices.BinarySearch(draining, id)
		return leaving
	})
	missing := len(known) - len(present)
	over := !s.Since.IsZero() && now.Sub(s.Since) >= limits.HoldDown
	if missing <= 0 || over {
		return State{Known: present}, false
	}
	held := missing >= minMissing && missing*100 > limits.VanishPercent*len(known)
	since := s.Since
	if since.IsZero() || held != s.Held {
		since = now
	}
	return State{Known: known, Since: since, Held: held}, held
}

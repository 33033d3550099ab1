package cluster

import "time"

// Clock tells the time since a moment of its own, never going backwards. The
// deadline of a lease is counted on one.
type Clock func() time.Duration

// MonotonicClock counts from now on the clock of package time. It stands still
// while the machine sleeps, on most platforms; inside a testing/synctest
// bubble it follows the bubble.
func MonotonicClock() Clock {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

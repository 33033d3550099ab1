package alert

import "time"

// buckets is into how many parts a Window divides its period: what it counts
// leaves it that much too late, at most.
const buckets = 10

// Window counts what happened within the last Period. The zero Window counts
// nothing until its period is set. Times may go back a little.
type Window struct {
	period time.Duration
	last   int64 // number of the newest bucket, in lengths of a bucket since 1970
	counts [buckets + 1]count
}

type count struct{ all, matching uint32 }

// SetPeriod sets over how long is counted. Another period than before forgets
// what was counted.
func (w *Window) SetPeriod(period time.Duration) {
	if w.period != period {
		*w = Window{period: period}
	}
}

// Add counts one thing, and whether it is of the kind that is looked for.
func (w *Window) Add(now time.Time, matching bool) {
	at := w.turn(now)
	if at == nil {
		return
	}
	at.all++
	if matching {
		at.matching++
	}
}

// Sum returns how many things were counted within the period, and how many of
// them were of the kind that is looked for.
func (w *Window) Sum(now time.Time) (all, matching int) {
	w.turn(now)
	for _, c := range w.counts {
		all += int(c.all)
		matching += int(c.matching)
	}
	return all, matching
}

// turn makes the bucket of a time the newest, and returns it.
func (w *Window) turn(now time.Time) *count {
	length := (w.period / buckets).Milliseconds()
	if length <= 0 {
		return nil
	}
	number := max(now.UnixMilli()/length, w.last)
	for i := max(w.last+1, number-buckets); i <= number; i++ {
		w.counts[i%(buckets+1)] = count{}
	}
	w.last = number
	return &w.counts[number%(buckets+1)]
}

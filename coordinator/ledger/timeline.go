package ledger

import (
	"sort"
	"time"
)

const (
	// markEvery is how far apart two marks of the timeline are at least.
	markEvery = 5 * time.Minute
	// maxMarks bounds the timeline: the newest two weeks or so of it are exact,
	// and what is older becomes coarser.
	maxMarks = 4096
)

// timeline says, roughly, when records were written: enough to find where in
// the log a time is.
type timeline struct {
	marks []mark // rising
}

// mark says that all records before one were written at a time or earlier.
type mark struct {
	sequence uint64
	time     int64 // unix ms
}

// add takes the next record, its time, and that of the one before it.
func (t *timeline) add(sequence uint64, before, now int64) {
	n := len(t.marks)
	if sequence == 1 || n > 0 && now-t.marks[n-1].time < markEvery.Milliseconds() {
		return
	}
	if n >= maxMarks {
		t.thin()
	}
	t.marks = append(t.marks, mark{sequence, before})
}

// thin forgets every second mark of the older half.
func (t *timeline) thin() {
	n := 0
	for i, m := range t.marks {
		if i%2 == 0 || i >= len(t.marks)/2 {
			t.marks[n] = m
			n++
		}
	}
	t.marks = t.marks[:n]
}

// trim forgets what is before a record, but for the last mark of it.
func (t *timeline) trim(before uint64) {
	n := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].sequence > before })
	if n > 1 {
		t.marks = t.marks[n-1:]
	}
}

// SequenceAt returns a record such that all before it were written at a time or
// earlier. None of the others was written markEvery earlier or more, except
// where the timeline is old and coarse. It is 0 if nothing is known to be that
// old.
func (l *Ledger) SequenceAt(at time.Time) uint64 {
	if l.sequence > 0 && l.time <= at.UnixMilli() {
		return l.sequence + 1
	}
	marks := l.timeline.marks
	n := sort.Search(len(marks), func(i int) bool { return marks[i].time > at.UnixMilli() })
	if n == 0 {
		return 0
	}
	return marks[n-1].sequence
}

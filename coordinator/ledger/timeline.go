package ledger

import (
	"sort"
	"time"
)

// markEvery is how far apart two marks of the timeline are at least.
const markEvery = 5 * time.Minute

// timeline says, roughly, when records were written: enough to find where in
// the log a time is.
type timeline struct {
	marks []mark // rising
}

type mark struct {
	sequence uint64
	time     int64 // unix ms
}

func (t *timeline) add(sequence uint64, time int64) {
	if n := len(t.marks); n > 0 && time-t.marks[n-1].time < markEvery.Milliseconds() {
		return
	}
	t.marks = append(t.marks, mark{sequence, time})
}

// trim forgets what is before a record, but for the last mark of it.
func (t *timeline) trim(before uint64) {
	n := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].sequence > before })
	if n > 1 {
		t.marks = t.marks[n-1:]
	}
}

// SequenceAt returns a record such that all before it were written before a
// time: not the newest such, but at most a few minutes from it. It is 0 if
// nothing is that old.
func (l *Ledger) SequenceAt(at time.Time) uint64 {
	marks := l.timeline.marks
	n := sort.Search(len(marks), func(i int) bool { return marks[i].time > at.UnixMilli() })
	if n == 0 {
		return 0
	}
	return marks[n-1].sequence
}

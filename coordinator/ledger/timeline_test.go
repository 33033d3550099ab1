package ledger

import (
	"testing"
	"time"
)

const minute = int64(60_000)

// written returns a ledger whose records were written at these minutes.
func written(minutes ...int64) *Ledger {
	l := New()
	for _, m := range minutes {
		before := l.time
		l.sequence++
		l.time = m * minute
		l.timeline.add(l.sequence, before, l.time)
	}
	return l
}

func TestSequenceAt(t *testing.T) {
	for _, test := range []struct {
		name  string
		times []int64 // minutes
		at    int64   // minute
		want  uint64
	}{
		{"nothing written", nil, 100, 0},
		{"nothing that old", []int64{10, 20}, 9, 0},
		{"all of it is older", []int64{10, 20}, 21, 3},
		{"all of it, the last just so", []int64{10, 20}, 20, 3},
		{"the first", []int64{10, 20, 30}, 10, 2},
		{"between two", []int64{10, 20, 30}, 15, 2},
		{"the second", []int64{10, 20, 30}, 29, 3},
		{"busy: less than five minutes off", []int64{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, 13, 2},
		{"busy: the next mark", []int64{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, 14, 6},
		{"idle for long, then one", []int64{10, 12, 1000}, 999, 3},
		{"idle for long, then busy", []int64{10, 12, 1000, 1001, 1002}, 999, 3},
		{"idle for long, then busy, a moment later", []int64{10, 12, 1000, 1001, 1002}, 1000, 4},
		{"a clock that went back is clamped", []int64{10, 10, 10, 16}, 10, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := written(test.times...)
			got := l.SequenceAt(time.UnixMilli(test.at * minute))
			if got != test.want {
				t.Errorf("sequence %d, want %d", got, test.want)
			}
			for i, m := range test.times {
				if uint64(i+1) < got && m > test.at {
					t.Errorf("record %d of minute %d is before it", i+1, m)
				}
			}
		})
	}
}

func TestTimelineTrim(t *testing.T) {
	l := written(0, 10, 20, 30, 40, 50) // marks: 2 at 0, 3 at 10, 4 at 20, 5 at 30, 6 at 40
	for _, test := range []struct {
		before uint64
		at     int64
		want   uint64
	}{
		{0, 5, 2},
		{2, 5, 2},
		{4, 25, 4},
		{4, 15, 0}, // forgotten
		{5, 35, 5},
		{100, 45, 6}, // the last mark is kept
	} {
		l.timeline.trim(test.before)
		if got := l.SequenceAt(time.UnixMilli(test.at * minute)); got != test.want {
			t.Errorf("trimmed before %d: minute %d is at %d, want %d", test.before, test.at, got, test.want)
		}
	}
	if got := len(l.timeline.marks); got != 1 {
		t.Errorf("%d marks are left, want 1", got)
	}
}

// TestTimelineIsBounded writes for a year: the newest days stay exact, and what
// is old is still found, on the safe side.
func TestTimelineIsBounded(t *testing.T) {
	const year, day = 365 * 24 * 60, 24 * 60
	l := New()
	for m := int64(0); m < year; m += 5 {
		before := l.time
		l.sequence++
		l.time = m * minute
		l.timeline.add(l.sequence, before, l.time)
	}
	if got := len(l.timeline.marks); got > maxMarks {
		t.Fatalf("%d marks, want at most %d", got, maxMarks)
	}
	for _, test := range []struct{ ago, off int64 }{{0, 5}, {5, 10}, {3 * day, 10}, {6 * day, 10}, {30 * day, 10 * day}} {
		at := l.time/minute - test.ago
		sequence := l.SequenceAt(time.UnixMilli(at * minute))
		newest := (int64(sequence) - 2) * 5 // of those before it
		if newest > at || newest < at-test.off {
			t.Errorf("%d minutes ago: off by %d minutes, want at most %d", test.ago, at-newest, test.off)
		}
	}
}

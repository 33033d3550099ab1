package worker

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// fixed is a source whose Float64 is always 0 (low) or just under 1 (high).
type fixed uint64

func (f fixed) Uint64() uint64 { return uint64(f) }

const (
	low  fixed = 0
	high fixed = 1<<64 - 1
)

func TestNextWait(t *testing.T) {
	short := []time.Duration{time.Second, 10 * time.Second}
	tests := []struct {
		name     string
		schedule []time.Duration
		attempt  uint32
		floor    time.Duration
		random   fixed
		want     time.Duration
		more     bool
	}{
		{"first, shortest", defaultSchedule(), 1, 0, low, 4 * time.Second, true},
		{"first, longest", defaultSchedule(), 1, 0, high, 6 * time.Second, true},
		{"ninth", defaultSchedule(), 9, 0, low, 24 * time.Hour * 8 / 10, true},
		{"tenth is the last", defaultSchedule(), 10, 0, low, 0, false},
		{"own schedule", short, 2, 0, low, 8 * time.Second, true},
		{"own schedule ends", short, 3, 0, low, 0, false},
		{"floor above", short, 1, time.Minute, high, time.Minute, true},
		{"floor below", short, 2, time.Second, low, 8 * time.Second, true},
		{"floor adds no attempt", short, 3, time.Minute, low, 0, false},
		{"no wait stays none", []time.Duration{0}, 1, 0, high, 0, true},
		{"attempt 0 is no attempt", short, 0, 0, low, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, more := nextWait(test.schedule, test.attempt, test.floor, newJitter(test.random))
			// Float64 never reaches 1, so the longest wait is missed by a hair.
			if more != test.more || (got-test.want).Abs() > time.Microsecond {
				t.Errorf("nextWait = %v, %v; want %v, %v", got, more, test.want, test.more)
			}
		})
	}
}

func TestJitterStaysWithinBounds(t *testing.T) {
	const wait = 100 * time.Second
	j := newJitter(rand.NewPCG(1, 2))
	var sum time.Duration
	const rounds = 10_000
	for range rounds {
		got := j.spread(wait)
		if got < 80*time.Second || got > 120*time.Second {
			t.Fatalf("spread(%v) = %v, outside 20 %%", wait, got)
		}
		sum += got
	}
	if mean := sum / rounds; (mean - wait).Abs() > time.Second {
		t.Errorf("mean of %d waits is %v, want about %v", rounds, mean, wait)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name, value string
		want        time.Duration
	}{
		{"absent", "", 0},
		{"seconds", "120", 2 * time.Minute},
		{"spaces", " 7 ", 7 * time.Second},
		{"zero", "0", 0},
		{"a day", "86400", 24 * time.Hour},
		{"more than a day", "86401", 24 * time.Hour},
		{"more than 64 bits", "99999999999999999999999", 24 * time.Hour},
		{"negative", "-5", 0},
		{"fraction", "1.5", 0},
		{"words", "soon", 0},
		{"date", "Sun, 01 Mar 2026 12:30:00 GMT", 30 * time.Minute},
		{"old date form", "Sunday, 01-Mar-26 12:00:10 GMT", 10 * time.Second},
		{"past date", "Sun, 01 Mar 2026 11:00:00 GMT", 0},
		{"far date", "Sun, 01 Mar 2036 12:00:00 GMT", 24 * time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			if test.value != "" {
				h.Set("Retry-After", test.value)
			}
			if got := retryAfter(h, now); got != test.want {
				t.Errorf("retryAfter(%q) = %v, want %v", test.value, got, test.want)
			}
		})
	}
}

// Whatever Retry-After says, the wait is within its bounds, and the same said
// in seconds is what it says.
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"120", "86401", "-5", "1.5", "Sun, 01 Mar 2026 12:30:00 GMT", "Sunday, 01-Mar-26 12:00:10 GMT", " 7 ", "٣"} {
		f.Add(value, int64(1_772_366_400))
	}
	f.Fuzz(func(t *testing.T, value string, at int64) {
		now := time.Unix(at%(1<<40), 0)
		wait := retryAfter(http.Header{"Retry-After": {value}}, now)
		if wait < 0 || wait > maxRetryAfter {
			t.Fatalf("%q is a wait of %v", value, wait)
		}
		seconds := strconv.FormatInt(int64(wait/time.Second), 10)
		if again := retryAfter(http.Header{"Retry-After": {seconds}}, now); again != wait.Truncate(time.Second) {
			t.Errorf("%q is a wait of %v, and %s one of %v", value, wait, seconds, again)
		}
	})
}

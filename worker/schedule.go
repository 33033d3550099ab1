package worker

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// defaultSchedule returns the waits before the 2nd, 3rd, … attempt of a
// subscription that sets none of its own: ten attempts in about three days.
func defaultSchedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour,
		14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

const (
	// jitterFraction is how far a wait is varied, either way.
	jitterFraction = 0.2
	// maxRetryAfter caps what an endpoint may ask for by Retry-After: the
	// longest wait of the default schedule.
	maxRetryAfter = 24 * time.Hour
)

// jitter varies waits, so that what failed together is not tried again
// together. Safe for concurrent use.
type jitter struct {
	mu     sync.Mutex
	random *rand.Rand // guarded by mu
}

func newJitter(source rand.Source) *jitter {
	return &jitter{random: rand.New(source)} //nolint:gosec // spreads load; nobody gains by guessing it
}

// spread returns d varied by up to jitterFraction either way, evenly.
func (j *jitter) spread(d time.Duration) time.Duration {
	j.mu.Lock()
	r := j.random.Float64()
	j.mu.Unlock()
	return d + time.Duration(float64(d)*jitterFraction*(2*r-1))
}

// nextWait returns how long to wait after the given attempt (from 1) has
// failed, or false if it was the last. floor is what the endpoint asked for by
// Retry-After: it lengthens a wait, never shortens one, and adds no attempts.
func nextWait(schedule []time.Duration, attempt uint32, floor time.Duration, j *jitter) (time.Duration, bool) {
	if attempt == 0 || uint64(attempt) > uint64(len(schedule)) {
		return 0, false
	}
	return max(j.spread(schedule[attempt-1]), floor), true
}

// retryAfter reads the Retry-After header (RFC 9110, section 10.2.3): seconds
// or an HTTP date, as a wait from now, capped at maxRetryAfter. A header that
// is absent, malformed or in the past is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || seconds > uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter // only digits: an error means too many
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

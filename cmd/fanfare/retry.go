package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// How long to wait before trying again: doubling from the first to the
// longest, each varied by the jitter either way.
const (
	firstRetryWait   = 250 * time.Millisecond
	longestRetryWait = 5 * time.Second
	retryWaitGrowth  = 2.0
	retryWaitJitter  = 0.2

	// retryWaitPrecision is how exactly users are told.
	retryWaitPrecision = 10 * time.Millisecond
)

// retryWaits is a row of growing waits. The zero value is at its beginning.
type retryWaits struct{ last time.Duration }

// next returns how long to wait now.
func (w *retryWaits) next() time.Duration {
	w.last = min(max(time.Duration(retryWaitGrowth*float64(w.last)), firstRetryWait), longestRetryWait)
	spread := 1 + retryWaitJitter*(2*rand.Float64()-1) //nolint:gosec // jitter need not be secret
	return time.Duration(spread * float64(w.last))
}

// pause waits for d. It reports whether d has passed; if not, ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// ended reports whether ctx has ended: for commands that go on until then,
// that is success.
func ended(ctx context.Context) bool { return ctx.Err() != nil }

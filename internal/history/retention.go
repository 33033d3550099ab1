package history

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Defaults of Retention.
const (
	DefaultPayloadRetention    = 14 * 24 * time.Hour
	DefaultAttemptRetention    = 30 * 24 * time.Hour
	DefaultDeliveryRetention   = 30 * 24 * time.Hour
	DefaultStatisticsRetention = 365 * 24 * time.Hour
)

const (
	// minuteRetention is how long statistics are kept by the minute.
	minuteRetention = 48 * time.Hour
	// minRetention is the least that can be asked for: what is young is
	// written to.
	minRetention = time.Hour
	// expireRows is about how many rows one step of Expire removes.
	expireRows = 500
	// expirePause is the time between two steps, in which others write.
	expirePause = 50 * time.Millisecond
	// expireInterval is the time between two rounds.
	expireInterval = 10 * time.Minute
)

// Retention says for how long what is kept. The zero value is the default. Ages
// are those of the events.
//
// What the log still has, and so can be replayed, is kept in any case, and
// deliveries that are pending too.
type Retention struct {
	Payloads   time.Duration // the data of events
	Attempts   time.Duration
	Deliveries time.Duration // and events; the longest of these three
	Statistics time.Duration // their own age
}

// Resolved returns the retention with the defaults in place of zeros.
func (r Retention) Resolved() Retention {
	r.Deliveries = cmp.Or(r.Deliveries, DefaultDeliveryRetention)
	r.Payloads = cmp.Or(r.Payloads, min(DefaultPayloadRetention, r.Deliveries))
	r.Attempts = cmp.Or(r.Attempts, min(DefaultAttemptRetention, r.Deliveries))
	r.Statistics = cmp.Or(r.Statistics, DefaultStatisticsRetention)
	return r
}

// Validate says what is wrong with a retention.
func (r Retention) Validate() error {
	r = r.Resolved()
	for _, one := range []struct {
		field string
		value time.Duration
	}{{"payloads", r.Payloads}, {"attempts", r.Attempts}, {"deliveries", r.Deliveries}, {"statistics", r.Statistics}} {
		if one.value < minRetention {
			return &RetentionError{one.field, fmt.Sprintf("is %v; expected at least %v", one.value, minRetention)}
		}
	}
	if r.Payloads > r.Deliveries {
		return &RetentionError{"payloads", fmt.Sprintf("is %v; at most that of deliveries, %v, is possible", r.Payloads, r.Deliveries)}
	}
	if r.Attempts > r.Deliveries {
		return &RetentionError{"attempts", fmt.Sprintf("is %v; at most that of deliveries, %v, is possible", r.Attempts, r.Deliveries)}
	}
	return nil
}

// RetentionError says which retention makes no sense, and why.
type RetentionError struct {
	Field   string // payloads, attempts, deliveries or statistics
	Problem string
}

// Error implements error.
func (e *RetentionError) Error() string { return "retention of " + e.Field + " " + e.Problem }

// Expired says what a step of Expire did.
type Expired struct {
	Done bool  // there is nothing more to do now
	Rows int64 // that were removed, one by one
	Days int   // that were removed as a whole
	// Kept is how many partitions' logs have what is old enough to be removed
	// and is not, because it can still be replayed.
	Kept int
}

// Keeper removes what is too old from a history, in small steps in the
// background. Several may do so at once.
type Keeper struct {
	Store     Store
	Retention Retention
	Logger    *slog.Logger
}

// Run removes what is too old until ctx ends. A database that is away is no
// reason to end.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(expirePause)
	defer timer.Stop()
	var round Expired
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		step, err := k.Store.Expire(ctx, k.Retention, time.Now())
		round.Rows, round.Days, round.Kept = round.Rows+step.Rows, round.Days+step.Days, max(round.Kept, step.Kept)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && !step.Done {
			timer.Reset(expirePause)
			continue
		}
		k.report(round, err)
		round = Expired{}
		timer.Reset(expireInterval)
	}
}

func (k *Keeper) report(round Expired, err error) {
	if err != nil {
		k.Logger.Error("removing old history", "error", err, "again_in", expireInterval)
	}
	if round.Rows > 0 || round.Days > 0 {
		k.Logger.Info("removed old history", "rows", round.Rows, "days", round.Days)
	}
	if round.Kept > 0 {
		k.Logger.Info("old history is kept, because the log can still replay it", "partitions", round.Kept)
	}
}

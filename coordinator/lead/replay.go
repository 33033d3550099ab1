package lead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// replayPage is how many deliveries a replay looks at in one step, of all
	// subscriptions and of each that lags.
	replayPage = 500
	// replayLagging is how many subscriptions a replay passes by because they
	// have no room. One more, and it waits.
	replayLagging = 256
	// replayReturns is to how many of those a replay comes back in one step.
	replayReturns = 4
	// replayPause is the wait before a replay goes on whose subscriptions
	// have no room, and between two looks for replays.
	replayPause = 500 * time.Millisecond
)

// Why a step of a replay writes nothing.
var (
	errReplayEnded = errors.New("the replay has ended") // was cancelled or deleted meanwhile
	errReplayWaits = errors.New("the next subscriptions of the replay have no room")
)

// replayer carries out replays: it finds deliveries in the history and has
// them owed again, step by step. Each step is one record, which makes the
// deliveries owed and moves the replay past them, so a replay goes on after a
// crash without doing anything twice.
//
// A subscription without room does not hold up the others. The replay's cursor
// passes it by, and the subscription gets one of its own, which stays behind
// until there is room, and ends when it has come to where the other is. So each
// delivery is passed by one cursor, once.
type replayer struct {
	leader *Leader
	rounds int // made so far
}

// replayJob is a replay that runs, and what a step can do for it.
type replayJob struct {
	id     string
	stored *linkv1.StoredReplay
	ready  []lagging // that have room again, or are gone
}

// lagging is a subscription to come back to, and for how many deliveries.
type lagging struct {
	*linkv1.ReplayLag
	room int
}

// replayRows is what the history has for a step.
type replayRows struct {
	first uint64            // record of the log
	next  []history.ScanRow // of all subscriptions
	last  bool              // no more follow
	lags  []replayLagRows
}

// replayLagRows are those of one subscription that lags.
type replayLagRows struct {
	subscription uint64
	rows         []history.ScanRow
	last         bool // no more follow
}

func (r *replayer) run(ctx context.Context) error {
	for {
		running, worked, err := r.round(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotLeading) {
			r.leader.logger.Error("replaying", "error", err)
		}
		if worked && err == nil {
			continue
		}
		var pause <-chan time.Time // for ever, if nothing runs
		if running || err != nil {
			pause = time.After(replayPause)
		}
		select {
		case <-r.leader.replays:
		case <-pause:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// round takes one step of each replay that runs.
func (r *replayer) round(ctx context.Context) (running, worked bool, err error) {
	r.rounds++
	var jobs []replayJob
	err = r.leader.Query(ctx, func(l *ledger.Ledger) {
		for _, id := range l.Replays() {
			if stored := l.Replay(id); stored.GetReplay().GetState() == fanfarev1.Replay_RUNNING {
				jobs = append(jobs, replayJob{id, stored, readyLags(l, stored, r.rounds)})
			}
		}
	})
	if err != nil {
		return false, false, err
	}
	for _, job := range jobs {
		moved, err := r.step(ctx, job)
		if err != nil {
			return true, worked, fmt.Errorf("replay %s: %w", job.id, err)
		}
		worked = worked || moved
	}
	return len(jobs) > 0, worked, nil
}

// readyLags returns a few of the subscriptions that a replay can come back to:
// in each round others, if there are more.
func readyLags(l *ledger.Ledger, stored *linkv1.StoredReplay, round int) []lagging {
	var ready []lagging
	for _, lag := range stored.GetLagging() {
		s := l.Subscription(ledger.Number(lag.GetSubscription()))
		if s == nil {
			ready = append(ready, lagging{lag, replayPage}) // all of it will be skipped
		} else if room := l.Room(s); room > 0 {
			ready = append(ready, lagging{lag, room})
		}
	}
	if len(ready) <= replayReturns {
		return ready
	}
	first := round * replayReturns % len(ready)
	return slices.Concat(ready[first:], ready[:first])[:replayReturns]
}

// step looks at the next deliveries of a replay, and reports whether it moved.
func (r *replayer) step(ctx context.Context, job replayJob) (bool, error) {
	found, err := r.find(ctx, job)
	if err != nil {
		return false, err
	}
	moved := false // the loop's, until Change succeeds
	err = r.leader.Change(ctx, "replay "+job.id, func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		now := l.Replay(job.id)
		if now.GetReplay().GetState() != fanfarev1.Replay_RUNNING {
			return errReplayEnded
		}
		next := proto.CloneOf(now)
		if moved = readmit(l, next, found, record); !moved {
			return errReplayWaits
		}
		if next.GetScanned() && len(next.GetLagging()) == 0 {
			next.Replay.State = fanfarev1.Replay_DONE
			next.Replay.FinishTime = timestamppb.Now()
		}
		record.Replays = append(record.Replays, &linkv1.ReplayChange{Id: job.id, Put: next})
		return nil
	})
	switch {
	case errors.Is(err, errReplayEnded), errors.Is(err, errReplayWaits):
		return false, nil
	case err != nil:
		return false, err // the loop may be building the change still
	default:
		return moved, nil
	}
}

// find reads what a replay looks at next.
func (r *replayer) find(ctx context.Context, job replayJob) (found replayRows, err error) {
	query, stored := ReplayQuery(job.stored), job.stored
	bounds, err := r.leader.Bounds(ctx)
	if err != nil {
		return found, err
	}
	found.first = bounds.First
	if !stored.GetScanned() {
		after := r.key(stored.GetAfterSequence(), stored.GetAfterIndex(), stored.GetAfterSubscription())
		if found.next, err = r.leader.config.History.Scan(ctx, query, after, replayPage); err != nil {
			return found, err
		}
		found.last = len(found.next) < replayPage
	}
	for _, lag := range job.ready {
		query.SubscriptionID = lag.GetSubscriptionId()
		limit := min(replayPage, 2*lag.room+replayPage/10) // some may be of other types
		before := r.key(lag.GetNextSequence(), lag.GetNextIndex(), lag.GetSubscription()-1)
		rows, err := r.leader.config.History.Scan(ctx, query, before, limit)
		if err != nil {
			return found, err
		}
		found.lags = append(found.lags, replayLagRows{lag.GetSubscription(), rows, len(rows) < limit})
	}
	return found, nil
}

func (r *replayer) key(sequence uint64, index uint32, subscription uint64) history.DeliveryKey {
	return history.DeliveryKey{
		EventKey:     history.EventKey{Partition: r.leader.config.Partition, Sequence: sequence, Index: index},
		Subscription: subscription,
	}
}

// readmit adds to the record what of these rows can be owed again, moves the
// replay past them, and reports whether it has moved.
func readmit(l *ledger.Ledger, replay *linkv1.StoredReplay, found replayRows, record *linkv1.Record) (moved bool) {
	a := &readmission{
		ledger: l, replay: replay, record: record,
		first: max(found.first, l.KeptFrom()), added: make(map[uint64]*linkv1.Readmit),
	}
	for _, lag := range found.lags {
		moved = a.comeBack(lag) || moved // first, while the replay's own cursor is where it was
	}
	if replay.GetScanned() {
		return moved
	}
	for i, row := range found.next {
		if !a.passes(row) {
			return moved || i > 0
		}
		replay.AfterSequence, replay.AfterIndex = row.Key.Sequence, row.Key.Index
		replay.AfterSubscription = row.Key.Subscription
	}
	replay.Scanned = found.last
	return moved || len(found.next) > 0 || found.last
}

// readmission is a step of a replay on its way into a record.
type readmission struct {
	ledger *ledger.Ledger
	replay *linkv1.StoredReplay // as it will be
	record *linkv1.Record
	first  uint64                     // record that can be owed again
	added  map[uint64]*linkv1.Readmit // :: subscription -> what this step adds
}

// passes takes the next row of all, and reports whether the replay can go past
// it: it can if the row is dealt with, or if its subscription lags from there on.
func (a *readmission) passes(row history.ScanRow) bool {
	at, lags := a.lag(row.Key.Subscription)
	if lags || a.take(row) {
		return true
	}
	if a.replay.GetReplay().GetSubscription() != "" || len(a.replay.GetLagging()) >= replayLagging {
		return false // there are no others, or too many
	}
	a.replay.Lagging = slices.Insert(a.replay.GetLagging(), at, &linkv1.ReplayLag{
		Subscription: row.Key.Subscription, SubscriptionId: row.SubscriptionID,
		NextSequence: row.Key.Sequence, NextIndex: row.Key.Index,
	})
	return true
}

// comeBack takes the rows of a subscription that lags, as far as it has room,
// and reports whether it got anywhere.
func (a *readmission) comeBack(found replayLagRows) (moved bool) {
	at, lags := a.lag(found.subscription)
	if !lags {
		return false
	}
	lag := a.replay.GetLagging()[at]
	for _, row := range found.rows {
		if a.ahead(row) {
			found.last = true
			break
		}
		if !a.take(row) {
			return moved
		}
		lag.NextSequence, lag.NextIndex = row.Key.Sequence, row.Key.Index+1
		moved = true
	}
	if found.last {
		a.replay.Lagging = slices.Delete(a.replay.GetLagging(), at, at+1)
	}
	return moved || found.last
}

// lag returns where a subscription is, or would be, among those that lag.
func (a *readmission) lag(subscription uint64) (at int, lags bool) {
	return slices.BinarySearchFunc(a.replay.GetLagging(), subscription, func(lag *linkv1.ReplayLag, number uint64) int {
		return cmp.Compare(lag.GetSubscription(), number)
	})
}

// ahead reports whether the replay has not come to a row yet.
func (a *readmission) ahead(row history.ScanRow) bool {
	return cmp.Or(
		cmp.Compare(row.Key.Sequence, a.replay.GetAfterSequence()),
		cmp.Compare(row.Key.Index, a.replay.GetAfterIndex()),
		cmp.Compare(row.Key.Subscription, a.replay.GetAfterSubscription()),
	) > 0
}

// take deals with a row, unless its subscription has no room for it.
func (a *readmission) take(row history.ScanRow) bool {
	s := a.ledger.Subscription(ledger.Number(row.Key.Subscription))
	switch {
	case !ledger.Matches(a.replay.GetReplay().GetEventTypes(), row.EventType):
	case s == nil || row.Key.Sequence < a.first:
		a.replay.Replay.SkippedCount++
	case RoomToReadmit(a.ledger, s, a.record) == 0:
		return false
	default:
		a.add(row)
		a.replay.Replay.ReplayedCount++
	}
	return true
}

func (a *readmission) add(row history.ScanRow) {
	r := a.added[row.Key.Subscription]
	if r == nil {
		r = &linkv1.Readmit{Subscription: row.Key.Subscription}
		a.added[row.Key.Subscription] = r
		a.record.Readmits = append(a.record.Readmits, r)
	}
	r.Sequences = append(r.Sequences, row.Key.Sequence)
	r.Indexes = append(r.Indexes, row.Key.Index)
	r.Attempts = append(r.Attempts, uint32(row.Attempts)) //nolint:gosec // never negative
}

// RoomToReadmit returns how many deliveries of a subscription a record may make
// owed again, beside those that it does already.
func RoomToReadmit(l *ledger.Ledger, s *ledger.Subscription, record *linkv1.Record) int {
	room := l.Room(s)
	for _, r := range record.GetReadmits() {
		if ledger.Number(r.GetSubscription()) == s.Number {
			room -= len(r.GetSequences())
		}
	}
	return max(0, room)
}

// ReplayQuery returns which deliveries a replay looks at.
func ReplayQuery(stored *linkv1.StoredReplay) history.ScanQuery {
	replay := stored.GetReplay()
	query := history.ScanQuery{
		Tenant:         stored.GetTenant(),
		SubscriptionID: replay.GetSubscription(),
		States:         replay.GetStates(),
		End:            replay.GetEndTime().AsTime(),
	}
	if replay.GetStartTime() != nil {
		query.Start = replay.GetStartTime().AsTime()
	}
	return query
}

package lead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// replayPage is how many deliveries a replay looks at in one step.
	replayPage = 500
	// replayPause is the wait before a replay goes on whose subscriptions
	// have no room, and between two looks for replays.
	replayPause = 500 * time.Millisecond
)

// Why a step of a replay writes nothing.
var (
	errReplayEnded = errors.New("the replay has ended") // was cancelled or deleted meanwhile
	errReplayWaits = errors.New("the next subscription of the replay has no room")
)

// replayer carries out replays: it finds deliveries in the history and has
// them owed again, step by step. Each step is one record, which makes the
// deliveries owed and moves the replay past them, so a replay goes on after a
// crash without doing anything twice.
type replayer struct {
	leader *Leader
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
	found := make(map[string]*linkv1.StoredReplay)
	err = r.leader.Query(ctx, func(l *ledger.Ledger) {
		for _, id := range l.Replays() {
			if stored := l.Replay(id); stored.GetReplay().GetState() == fanfarev1.Replay_RUNNING {
				found[id] = stored
			}
		}
	})
	if err != nil {
		return false, false, err
	}
	for id, stored := range found {
		moved, err := r.step(ctx, id, stored)
		if err != nil {
			return true, worked, fmt.Errorf("replay %s: %w", id, err)
		}
		worked = worked || moved
	}
	return len(found) > 0, worked, nil
}

// step looks at the next deliveries of a replay, and reports whether it moved.
func (r *replayer) step(ctx context.Context, id string, stored *linkv1.StoredReplay) (bool, error) {
	after := history.DeliveryKey{
		EventKey:     history.EventKey{Partition: r.leader.config.Partition, Sequence: stored.GetAfterSequence(), Index: stored.GetAfterIndex()},
		Subscription: stored.GetAfterSubscription(),
	}
	rows, err := r.leader.config.History.Scan(ctx, ReplayQuery(stored), after, replayPage)
	if err != nil {
		return false, err
	}
	bounds, err := r.leader.config.Log.State(ctx)
	if err != nil {
		return false, err
	}
	moved := false // the loop's, until Change succeeds
	err = r.leader.Change(ctx, "replay "+id, func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		now := l.Replay(id)
		if now.GetReplay().GetState() != fanfarev1.Replay_RUNNING {
			return errReplayEnded
		}
		next := proto.CloneOf(now)
		taken := readmit(l, next, rows, max(bounds.First, r.leader.Kept()), record)
		moved = taken > 0
		switch {
		case taken == len(rows) && len(rows) < replayPage:
			next.Replay.State = fanfarev1.Replay_DONE
			next.Replay.FinishTime = timestamppb.Now()
		case !moved:
			return errReplayWaits
		}
		record.Replays = append(record.Replays, &linkv1.ReplayChange{Id: id, Put: next})
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

// readmit adds to the record what of these rows can be owed again, as far as
// there is room, moves the replay past them, and returns how many those are.
func readmit(l *ledger.Ledger, replay *linkv1.StoredReplay, rows []history.ScanRow, first uint64, record *linkv1.Record) int {
	bySubscription := make(map[uint64]*linkv1.Readmit)
	for i, row := range rows {
		s := l.Subscription(ledger.Number(row.Key.Subscription))
		switch {
		case !ledger.Matches(replay.GetReplay().GetEventTypes(), row.EventType):
		case s == nil || row.Key.Sequence < first:
			replay.Replay.SkippedCount++
		case l.Room(s) <= len(bySubscription[row.Key.Subscription].GetSequences()):
			return i
		default:
			r := bySubscription[row.Key.Subscription]
			if r == nil {
				r = &linkv1.Readmit{Subscription: row.Key.Subscription}
				bySubscription[row.Key.Subscription] = r
				record.Readmits = append(record.Readmits, r)
			}
			r.Sequences = append(r.Sequences, row.Key.Sequence)
			r.Indexes = append(r.Indexes, row.Key.Index)
			r.Attempts = append(r.Attempts, uint32(row.Attempts)) //nolint:gosec // never negative
			replay.Replay.ReplayedCount++
		}
		replay.AfterSequence, replay.AfterIndex = row.Key.Sequence, row.Key.Index
		replay.AfterSubscription = row.Key.Subscription
	}
	return len(rows)
}

// Kept returns the first record that this leader has not decided to purge: what
// is before it cannot be owed again. Only a build of Change may call it.
func (l *Leader) Kept() uint64 { return l.kept }

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

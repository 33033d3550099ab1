package lead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/canary"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// followRows is about how many rows one transaction of the history holds.
	followRows = 8000
	// followBytes is about how many bytes of log it holds.
	followBytes = 16 << 20
	// followLinger is how long the follower lets records gather, if it has caught
	// up and nobody waits for them. A transaction costs the more the smaller it
	// is, and a delivery that begins and ends in one is written once.
	followLinger = 250 * time.Millisecond
	// followRetry is the longest wait before the history is tried again.
	followRetry = 5 * time.Second
	// snapshotsKept is how many snapshots the log keeps: it is purged only up
	// to the older one, so that a damaged newer one is no loss.
	snapshotsKept = 2
)

// follower folds what is committed a second time, and keeps the history and
// the snapshots from it. One goroutine.
type follower struct {
	leader    *Leader
	state     *ledger.Ledger
	position  uint64   // of the history
	snapshots []uint64 // sequences of the newest ones, oldest first
	unsaved   int      // bytes of log since the newest snapshot
	savedAt   time.Time
	full      bool                                         // the last batch was: there is more to follow than fits into one
	floor     uint64                                       // the log begins here, or later
	stored    map[ledger.Number]*linkv1.StoredSubscription // as the leader has them at the start; nil after that
	silence   silence                                      // of the snapshots' store
	lookout   *lookout
}

// newFollower returns the follower of a leader that begins in a state.
func newFollower(l *Leader, state *ledger.Ledger) *follower {
	return &follower{
		leader: l, stored: state.Stored(), silence: silence{limit: l.config.Silence}, lookout: newLookout(l, state.Sequence()),
	}
}

// run follows until ctx ends. Another leader's follower, one that does not know
// yet that it was fenced, may have written the same records: then it begins
// again, from where the history stands now.
func (f *follower) run(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		if !errors.Is(err, history.ErrPosition) {
			return err
		}
		f.leader.logger.Warn("somebody else wrote the history: following again from where it stands", "error", err)
		f.unsaved = 0
	}
}

func (f *follower) follow(ctx context.Context) error {
	if err := f.retry(ctx, "opening the history", f.begin); err != nil {
		return err
	}
	for {
		if err := f.await(ctx); err != nil {
			return err
		}
		f.linger(ctx)
		batch, changes, err := f.gather(ctx)
		if err != nil {
			return err
		}
		if f.lookout.ready(f.state.Sequence()) {
			f.lookout.judge(f.state)
		}
		if batch.Sequence > f.position {
			if err := f.retry(ctx, "writing the history", func(ctx context.Context) error { return f.write(ctx, batch) }); err != nil {
				return err
			}
			f.position = batch.Sequence
			f.leader.followed.set(f.position)
			f.leader.watch.publish(ctx, f.leader, changes)
			f.leader.recent.slim(f.position)
		}
		if err := f.purge(ctx); err != nil && ctx.Err() == nil { // tried again behind the next records
			f.leader.logger.Error("purging the log", "error", err)
		}
		if err := f.snapshot(ctx); err != nil {
			return err
		}
	}
}

// await returns when there is more to follow.
func (f *follower) await(ctx context.Context) error {
	for {
		risen := f.leader.recent.committed.at(f.state.Sequence() + 1)
		if risen == nil {
			return nil
		}
		look := time.NewTimer(f.lookout.waits(f.state))
		select {
		case <-risen:
			look.Stop()
		case <-look.C:
			f.lookout.judge(f.state)
		case <-f.leader.ended:
			look.Stop()
			return ErrNotLeading
		case <-ctx.Done():
			look.Stop()
			return ctx.Err()
		}
	}
}

// linger lets records gather, unless somebody waits for what there is.
func (f *follower) linger(ctx context.Context) {
	if f.full || f.leader.isShort.Load() || len(f.leader.watch.interested()) > 0 {
		return
	}
	timer := time.NewTimer(followLinger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.leader.hurry:
	case <-f.leader.ended:
	case <-ctx.Done():
	}
}

// write writes the history, unless the disk that both are on is needed for
// the log.
func (f *follower) write(ctx context.Context, batch history.Batch) error {
	if err := f.leader.config.Disk.exhaustion(); err != nil {
		return err
	}
	return f.leader.config.History.Write(ctx, batch)
}

// retry calls what needs the history or the log until it succeeds: that one of
// them is away is no reason to stop leading. That the log is damaged is.
func (f *follower) retry(ctx context.Context, what string, call func(context.Context) error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, followRetry) {
		err := call(ctx)
		if err == nil || errors.Is(err, history.ErrPosition) || Halts(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.leader.logger.Error("following the log", "doing", what, "error", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin finds the state to follow from: the newest snapshot that the history
// has already, else the oldest there is, if the history was thrown away.
func (f *follower) begin(ctx context.Context) (err error) {
	f.position, err = f.leader.config.History.Position(ctx, f.leader.config.Partition)
	if err != nil {
		return fmt.Errorf("reading the position: %w", err)
	}
	f.state, err = restore(ctx, f.leader.config.Log, f.position)
	if err != nil {
		return err
	}
	bounds, err := f.leader.config.Log.State(ctx)
	if err != nil {
		return fmt.Errorf("reading the log's bounds: %w", err)
	}
	if bounds.First > f.state.Sequence()+1 {
		f.leader.logger.Warn("the history has a gap: the log no longer holds what it lacks",
			"from", f.position+1, "log_begins_at", bounds.First)
		if f.state, err = restoreOldest(ctx, f.leader.config.Log, bounds.First); err != nil {
			return err
		}
	}
	// What is stored later comes to both in the same record.
	f.state.Adopt(f.stored)
	f.stored = nil
	f.lookout.begun = false
	f.floor = bounds.First
	f.snapshots = []uint64{f.state.Sequence()}
	f.savedAt = time.Now()
	f.leader.followed.set(f.position)
	return nil
}

// gather folds committed records until there is enough for a batch, or no
// more.
func (f *follower) gather(ctx context.Context) (history.Batch, []ledger.DeliveryChange, error) {
	batch := history.Batch{Partition: f.leader.config.Partition, Prev: f.position, Floor: f.floor}
	var changes []ledger.DeliveryChange
	rows, size := 0, 0
	defer func() { f.full = rows >= followRows || size >= followBytes }()
	for rows < followRows && size < followBytes && f.state.Sequence() < f.leader.recent.committed.get() {
		c, err := f.next(ctx)
		if err != nil {
			return batch, nil, err
		}
		result, err := f.state.Fold(c.sequence, c.hash, c.record)
		if err != nil {
			return batch, nil, fmt.Errorf("following the log: %w", err)
		}
		f.lookout.see(f.state, result)
		f.unsaved += c.size
		batch.Sequence = c.sequence
		if c.sequence <= f.position {
			continue // the history has it; only the state was behind
		}
		if err := f.addEvents(&batch, c); err != nil {
			return batch, nil, err
		}
		for _, change := range result.Deliveries {
			f.addDelivery(&batch, c.record.GetTimeUnixMs(), change)
		}
		changes = append(changes, result.Deliveries...)
		rows += len(c.record.GetEvents()) + len(result.Deliveries)
		size += c.size
	}
	return batch, changes, nil
}

// next returns the record that follows the state.
func (f *follower) next(ctx context.Context) (committed, error) {
	sequence := f.state.Sequence() + 1
	if c, ok := f.leader.recent.whole(sequence); ok {
		return c, nil
	}
	var next committed
	err := f.retry(ctx, "reading the log", func(ctx context.Context) error {
		run, err := f.leader.readBack(ctx, sequence, eventlog.MaxReadRecords)
		if errors.Is(err, eventlog.ErrPurged) { // not by this follower, and nobody else should
			return fmt.Errorf("%w: %w", ErrRegressed, err)
		}
		if err != nil {
			return err
		}
		next = run[0]
		for _, c := range run {
			f.leader.recent.putOlder(c)
		}
		return nil
	})
	return next, err
}

func (f *follower) addEvents(batch *history.Batch, c committed) error {
	for i, logged := range c.record.GetEvents() {
		event := new(fanfarev1.Event)
		if err := proto.Unmarshal(logged.GetEvent(), event); err != nil {
			return fmt.Errorf("decoding event %d/%d: %w", c.sequence, i, err)
		}
		event.PublishTime = timestamppb.New(time.UnixMilli(c.record.GetTimeUnixMs()))
		batch.Events = append(batch.Events, history.EventRow{
			Key:    history.EventKey{Partition: batch.Partition, Sequence: c.sequence, Index: uint32(i)},
			Tenant: logged.GetTenant(),
			Event:  event,
		})
	}
	return nil
}

func (f *follower) addDelivery(batch *history.Batch, now int64, change ledger.DeliveryChange) {
	row := history.DeliveryRow{
		Key:            keyOf(batch.Partition, change.Delivery),
		Tenant:         string(change.Tenant),
		SubscriptionID: change.ID,
		State:          stateOf(change.Kind),
		Attempts:       int32(change.Attempts), //nolint:gosec // few attempts
		Created:        time.UnixMilli(change.Since),
		LastStatus:     int32(change.Outcome.GetStatusCode()), //nolint:gosec // three digits
		LastErrorClass: change.Outcome.GetErrorClass(),
	}
	if row.State == fanfarev1.Delivery_PENDING {
		row.NextAttempt = time.UnixMilli(change.Next)
	} else {
		row.Ended = time.UnixMilli(now)
	}
	batch.Deliveries = append(batch.Deliveries, row)
	if change.Outcome != nil {
		batch.Attempts = append(batch.Attempts, history.AttemptRow{
			Key: row.Key, Tenant: row.Tenant, SubscriptionID: row.SubscriptionID, Attempt: attemptOf(change),
		})
	}
}

func keyOf(partition int, d ledger.Delivery) history.DeliveryKey {
	return history.DeliveryKey{
		EventKey:     history.EventKey{Partition: partition, Sequence: d.Position.Sequence, Index: d.Position.Index},
		Subscription: uint64(d.Subscription),
	}
}

func stateOf(kind ledger.ChangeKind) fanfarev1.Delivery_State {
	switch kind {
	case ledger.Owed, ledger.Retried, ledger.Rescheduled:
		return fanfarev1.Delivery_PENDING
	case ledger.Delivered:
		return fanfarev1.Delivery_DELIVERED
	case ledger.Died:
		return fanfarev1.Delivery_DEAD
	case ledger.Expired:
		return fanfarev1.Delivery_EXPIRED
	case ledger.Cancelled:
		return fanfarev1.Delivery_CANCELLED
	}
	return fanfarev1.Delivery_STATE_UNSPECIFIED
}

func attemptOf(change ledger.DeliveryChange) *fanfarev1.Attempt {
	o := change.Outcome
	attempt := &fanfarev1.Attempt{
		Number:       int32(change.Attempts), //nolint:gosec // few attempts
		StartTime:    timestamppb.New(time.UnixMilli(o.GetStartTimeUnixMs())),
		Latency:      durationpb.New(time.Duration(o.GetLatencyUs()) * time.Microsecond), //nolint:gosec // at most a timeout
		StatusCode:   int32(o.GetStatusCode()),                                           //nolint:gosec // three digits
		ErrorClass:   o.GetErrorClass(),
		Error:        o.GetError(),
		ResponseBody: toUTF8(o.GetResponseBody()),
		Worker:       change.Worker,
	}
	switch o.GetKind() {
	case linkv1.Outcome_DELIVERED:
		attempt.Result = fanfarev1.Attempt_DELIVERED
	case linkv1.Outcome_RETRY:
		attempt.Result = fanfarev1.Attempt_RETRY
		attempt.NextAttemptTime = timestamppb.New(time.UnixMilli(o.GetNextTimeUnixMs()))
	case linkv1.Outcome_DEAD:
		attempt.Result = fanfarev1.Attempt_DEAD
	case linkv1.Outcome_RETURNED, linkv1.Outcome_KIND_UNSPECIFIED: // never in the log
	}
	return attempt
}

// snapshot saves the state if it is time to, and gives up what neither the
// ledger nor a snapshot needs any more. It may fail: the next one will do. It
// returns ErrSilent, or nil. now: if there is anything to save it is time to.
func (f *follower) snapshot(ctx context.Context) error {
	if f.unsaved < f.leader.config.SnapshotBytes && (f.unsaved == 0 || time.Since(f.savedAt) < f.leader.snapshotInterval()) {
		return nil
	}
	f.savedAt = time.Now()
	err := f.save(ctx)
	if silent := f.silence.heard(f.savedAt, err); silent != nil {
		return silent
	}
	if err != nil {
		f.leader.logger.Error("saving a snapshot", "error", err)
		return nil
	}
	f.leader.metrics.took(ctx, f.leader.metrics.snapshot, f.savedAt)
	f.unsaved = 0
	f.leader.remember(ctx, markOf(f.state))
	f.snapshots = append(f.snapshots, f.state.Sequence())
	f.snapshots = f.snapshots[max(0, len(f.snapshots)-snapshotsKept):]
	if err := f.giveUp(ctx); err != nil && ctx.Err() == nil {
		f.leader.logger.Error("giving up what the log need not keep", "error", err)
	}
	return nil
}

// save saves the state, if the disk has room for it.
func (f *follower) save(ctx context.Context) error {
	data, err := f.state.Snapshot()
	if err != nil {
		return err
	}
	if err := f.leader.config.Disk.fits(len(data)); err != nil {
		return err
	}
	f.leader.config.Disk.charge(len(data))
	return f.leader.config.Log.SaveSnapshot(ctx, f.state.Sequence(), data)
}

// giveUp has the log say what of it is needed no more. What has ended is kept
// for a while, to be replayed, but only as long as there is plenty of room.
func (f *follower) giveUp(ctx context.Context) error {
	config, floor := f.leader.config, f.snapshots[0]+1
	if canary.On(canary.PurgeTooFar) {
		return config.Log.Purge(ctx, f.state.Sequence()-1)
	}
	bounds, err := config.Log.State(ctx)
	if err != nil {
		return err
	}
	return f.leader.do(ctx, func(l *loop) {
		floor = min(floor, l.ledger.Floor())
		if bounds.Bytes <= config.ReplayBytes && !l.short() {
			floor = min(floor, l.ledger.SequenceAt(time.Now().Add(-config.ReplayWindow)))
		}
		if kept := l.ledger.KeptFrom(); floor > kept && kept <= l.room.written { // else only blank records would go
			l.pending.purgeBefore = floor
		}
	})
}

// purge drops what the log itself has given up. A leader that was overtaken may
// wake here: what it purges then its successor has given up, too.
func (f *follower) purge(ctx context.Context) error {
	floor := f.state.KeptFrom()
	if floor <= max(f.floor, 1) {
		return nil
	}
	// What is purged cannot be written again: the history must not fall back
	// behind it.
	if err := f.leader.config.History.Sync(ctx); err != nil {
		return err
	}
	if err := f.leader.config.Log.Purge(ctx, floor-1); err != nil {
		return err
	}
	f.floor = max(f.floor, floor)
	return f.leader.measure(ctx)
}

package lead

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// Halts reports whether an error says that a partition's log is not what was
// written, or is beyond this program. Trying again does not help, and serving
// would be wrong, until somebody has put it right.
func Halts(err error) bool {
	for _, kind := range []error{
		ErrRegressed, eventlog.ErrDamaged,
		ledger.ErrChain, ledger.ErrEpoch, ledger.ErrInvalid, ledger.ErrVersion,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// Prepare reads the log while another leader may still write it, so that Run
// has only the rest to read. If that fails, Run reads all of it, and then it is
// known what is wrong. It must not be called once Run is.
func (l *Leader) Prepare(ctx context.Context) error {
	state, _, err := l.read(ctx, nil)
	if err != nil {
		l.forget()
		return err
	}
	l.prepared = state
	return nil
}

// forget lets go of what was read in advance.
func (l *Leader) forget() {
	l.prepared, l.farewell, l.recent = nil, nil, newRecent(l.config.RecentBytes)
}

// takeOver replays the log and fences it.
func (l *Leader) takeOver(ctx context.Context) (*ledger.Ledger, error) {
	state, first, err := l.read(ctx, l.prepared)
	if err != nil && l.prepared != nil && ctx.Err() == nil {
		l.logger.Warn("what was read of the log in advance cannot be gone on from: it is read again", "error", err)
		l.forget()
		state, first, err = l.read(ctx, nil)
	}
	if err != nil {
		return nil, err
	}
	l.prepared = nil
	if floor := state.Floor(); first > floor {
		return nil, fmt.Errorf("%w: it begins at record %d, events of record %d are owed", ErrRegressed, first, floor)
	}
	for {
		prev, farewell := state.Sequence(), l.farewell
		fence, err := l.fence(state)
		if err != nil {
			return nil, err
		}
		refused := l.appendFence(ctx, prev, fence)
		if refused != nil && !errors.Is(refused, eventlog.ErrConflict) {
			return nil, fmt.Errorf("fencing the log: %w", refused)
		}
		if err := l.replay(ctx, state); err != nil { // reads the fence back
			return nil, err
		}
		hash := sha256.Sum256(fence)
		switch {
		case bytes.Equal(state.Hash(), hash[:]):
			l.farewell = farewell
			return state, nil
		case state.Sequence() == prev:
			return nil, fmt.Errorf("%w: it no longer ends at record %d", ErrRegressed, prev)
		case refused == nil:
			return nil, fmt.Errorf("%w, right after this one", ErrFenced)
		}
		// The old leader still writes: fence after what it wrote.
	}
}

// fence returns the record that begins the next epoch.
func (l *Leader) fence(state *ledger.Ledger) ([]byte, error) {
	fence, err := proto.Marshal(&linkv1.Record{
		Epoch:        state.Epoch() + 1,
		PreviousHash: state.Hash(),
		TimeUnixMs:   max(state.Time(), time.Now().UnixMilli()),
		Fence: &linkv1.Fence{
			Coordinator: l.config.Coordinator,
			FoldVersion: ledger.FoldVersion,
			Limits:      l.config.Limits,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding fence: %w", err)
	}
	return fence, nil
}

// appendFence appends, and finds out what became of it if that is not said.
func (l *Leader) appendFence(ctx context.Context, prev uint64, fence []byte) error {
	ctx, cancel := l.untilSilent(ctx, time.Now())
	defer cancel()
	err := l.append(ctx, prev, fence)
	if errors.Is(err, eventlog.ErrUnknown) {
		return l.resolve(ctx, prev+1, fence)
	}
	return err
}

// read returns the ledger that the log makes, from the one of some of it, and
// the first record of the log.
func (l *Leader) read(ctx context.Context, state *ledger.Ledger) (_ *ledger.Ledger, first uint64, err error) {
	if state, first, err = l.restore(ctx, state); err != nil {
		return nil, 0, err
	}
	return state, first, l.replay(ctx, state)
}

// restore returns the ledger to go on from, which is that of the newest
// snapshot unless there is one, and the first record of the log, after checking
// the log against all that is known of it. What is known is read before the
// log: the old leader may still write.
func (l *Leader) restore(ctx context.Context, known *ledger.Ledger) (state *ledger.Ledger, first uint64, err error) {
	position, err := l.config.History.Position(ctx, l.config.Partition)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the history's position: %w", err)
	}
	mark, err := l.config.Marks.Mark(ctx, l.config.Partition)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the log's mark: %w", err)
	}
	if state = known; state == nil {
		if state, err = restore(ctx, l.config.Log, math.MaxUint64); err != nil {
			return nil, 0, err
		}
	}
	bounds, err := l.config.Log.State(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the log's bounds: %w", err)
	}
	if written := max(position, mark.Sequence, state.Sequence()); bounds.Last < written {
		return nil, 0, fmt.Errorf("%w: it ends at record %d, record %d was written", ErrRegressed, bounds.Last, written)
	}
	if next := state.Sequence() + 1; bounds.First > next {
		return nil, 0, fmt.Errorf("%w: it begins at record %d, record %d is needed", ErrRegressed, bounds.First, next)
	}
	for _, m := range []Mark{mark, markOf(state)} {
		if m.Sequence < bounds.First {
			continue // purged, or says nothing
		}
		if err := l.checkMark(ctx, m); err != nil {
			return nil, 0, err
		}
	}
	return state, bounds.First, nil
}

// checkMark compares a record in the log with what it was when it was written.
func (l *Leader) checkMark(ctx context.Context, mark Mark) error {
	records, err := l.config.Log.Read(ctx, mark.Sequence, 1)
	if err != nil {
		return fmt.Errorf("reading record %d: %w", mark.Sequence, err)
	}
	if len(records) == 0 {
		return fmt.Errorf("%w: record %d is not there", ErrRegressed, mark.Sequence)
	}
	if hash := sha256.Sum256(records[0].Data); !bytes.Equal(hash[:], mark.Hash) {
		return fmt.Errorf("%w: record %d has the hash %x, %x was written", ErrRegressed, mark.Sequence, hash, mark.Hash)
	}
	return nil
}

// restore returns the ledger of the newest snapshot that is intact and not
// newer than atMost; an empty one if there is none.
func restore(ctx context.Context, log eventlog.Log, atMost uint64) (*ledger.Ledger, error) {
	for {
		sequence, data, err := log.LoadSnapshot(ctx, atMost)
		if errors.Is(err, eventlog.ErrNoSnapshot) {
			return ledger.New(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("loading snapshot: %w", err)
		}
		state, err := ledger.Restore(data)
		if err == nil {
			return state, nil
		}
		if !errors.Is(err, ledger.ErrSnapshot) || sequence == 0 {
			return nil, err
		}
		atMost = sequence - 1
	}
}

// restoreOldest returns the ledger of the oldest intact snapshot that a log
// which begins at first goes on from.
func restoreOldest(ctx context.Context, log eventlog.Log, first uint64) (*ledger.Ledger, error) {
	state, err := restore(ctx, log, math.MaxUint64)
	for err == nil && state.Sequence() > 0 {
		var older *ledger.Ledger
		if older, err = restore(ctx, log, state.Sequence()-1); err != nil || older.Sequence()+1 < first {
			break
		}
		state = older
	}
	return state, err
}

// overtaken reports whether another leader has written to the log: then what
// this one finds wrong with it may be what has changed since.
func (l *Leader) overtaken(ctx context.Context) bool {
	bounds, err := l.config.Log.State(ctx)
	if err != nil || bounds.Last == 0 {
		return false
	}
	records, err := l.config.Log.Read(ctx, bounds.Last, 1)
	if err != nil || len(records) == 0 {
		return false
	}
	newest, err := decodeRecord(records[0])
	return err == nil && newest.record.GetEpoch() > l.epoch
}

// replay folds what the log holds beyond the state.
func (l *Leader) replay(ctx context.Context, state *ledger.Ledger) error {
	for {
		records, err := l.config.Log.Read(ctx, state.Sequence()+1, eventlog.MaxReadRecords)
		if err != nil {
			return fmt.Errorf("replaying the log: %w", err)
		}
		if len(records) == 0 {
			return nil
		}
		for _, r := range records {
			c, err := decodeRecord(r)
			if err != nil {
				return fmt.Errorf("replaying the log: %w", err)
			}
			if _, err := state.Fold(c.sequence, c.hash, c.record); err != nil {
				return fmt.Errorf("replaying the log: %w", err)
			}
			l.recent.put(c)
			l.farewell = c.record.GetFarewell()
		}
	}
}

package lead

import (
	"context"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// markTimeout bounds the writing of a mark: nobody waits for it longer.
const markTimeout = 2 * time.Second

// Mark says that a record is in a partition's log. The zero Mark says nothing.
type Mark struct {
	Sequence uint64
	Hash     []byte // SHA-256 of the record
}

// Marks keeps a mark of each partition where it does not vanish together with
// the log, the snapshots and the history. It is written seldom, at a fence,
// with each snapshot and when a leader ends, and read when one begins. Safe
// for concurrent use.
type Marks interface {
	// Mark returns a partition's mark; the zero Mark if there is none.
	Mark(ctx context.Context, partition int) (Mark, error)
	// SetMark keeps a mark, unless the one there is is not older.
	SetMark(ctx context.Context, partition int, mark Mark) error
}

// noMarks remembers nothing.
type noMarks struct{}

func (noMarks) Mark(context.Context, int) (Mark, error)  { return Mark{}, nil }
func (noMarks) SetMark(context.Context, int, Mark) error { return nil }

// markOf returns the mark of the last record that was folded.
func markOf(state *ledger.Ledger) Mark { return Mark{state.Sequence(), state.Hash()} }

// remember keeps a mark of a record that is durable. Failing to is no reason
// not to lead: the next mark will do.
func (l *Leader) remember(ctx context.Context, mark Mark) {
	writing, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if err := l.config.Marks.SetMark(writing, l.config.Partition, mark); err != nil && ctx.Err() == nil {
		l.logger.Warn("remembering how far the log reaches", "sequence", mark.Sequence, "error", err)
	}
}

package lead

import (
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// retainInterval is how often the loop looks for what retention has ended.
const retainInterval = time.Minute

// expireOld has what is owed expire that is older than retention.
func (l *loop) expireOld() {
	before := l.ledger.SequenceAt(time.Now().Add(-l.leader.config.Retention))
	if before == 0 || l.ledger.Floor() >= before {
		return // nothing that old is owed
	}
	l.pending.changes = append(l.pending.changes, &change{
		target: retentionTarget,
		build: func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
			record.ExpireBefore = before
			return nil
		},
		done: make(chan error, 1), // nobody waits: it is tried again
	})
}

// needed returns the first record that is owed to somebody, or will be once the
// block in flight is written.
func (l *loop) needed() uint64 {
	needed := l.ledger.Floor()
	if l.flight == nil {
		return needed
	}
	for _, readmit := range l.flight.committed.record.GetReadmits() {
		if sequences := readmit.GetSequences(); len(sequences) > 0 {
			needed = min(needed, sequences[0]) // they rise
		}
	}
	return needed
}

// retentionTarget is the target of every expiry.
const retentionTarget = "retention"

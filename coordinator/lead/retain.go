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

// retentionTarget is the target of every expiry.
const retentionTarget = "retention"

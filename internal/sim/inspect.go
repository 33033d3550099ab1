package sim

import (
	"context"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
)

// State returns the hash of a partition's state as its leader has it, and the
// last record that is in it.
func (c *Cluster) State(partition int) (sequence uint64, hash []byte) {
	c.t.Helper()
	ctx := context.WithoutCancel(c.t.Context())
	for _, coordinator := range c.Coordinators {
		if !coordinator.Running() || coordinator.life.serves.Load() == nil {
			continue
		}
		leader, err := coordinator.life.serves.Load().Leader(partition)
		if err != nil {
			continue // another one leads it
		}
		asked := leader.Query(ctx, func(state *ledger.Ledger) {
			sequence = state.Sequence()
			hash, err = state.StateHash()
		})
		if asked == nil && err == nil {
			return sequence, hash
		}
	}
	c.t.Fatalf("nobody leads partition %d", partition)
	return 0, nil
}

// OpenLog opens a partition's log for one who only reads. It is the caller's to
// close.
func (c *Cluster) OpenLog(partition int) eventlog.Log {
	c.t.Helper()
	log, err := c.logs.Peer().Open(c.t.Context(), partition)
	if err != nil {
		c.t.Fatal(err)
	}
	return log
}

package lead

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// readBack reads at least one and at most `most` records that were committed,
// from one on, and checks that they are still those: each carries the hash of
// the one before it, where that one was read too or is in memory. Halts tells
// of an error whether the log is damaged.
func (l *Leader) readBack(ctx context.Context, from uint64, most int) ([]committed, error) {
	records, err := l.config.Log.Read(ctx, from, most+1)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("%w: record %d is not there", ErrRegressed, from)
	}
	var run []committed
	for _, r := range records[:min(most+1, len(records))] { // the last one vouched for by the next
		c, err := decodeRecord(r)
		if err != nil {
			return nil, err
		}
		run = append(run, c)
	}
	if err := l.recent.check(run); err != nil {
		return nil, err
	}
	return run[:min(most, len(run))], nil
}

// check compares a run of records with each other and with their neighbours in
// memory.
func (r *recent) check(run []committed) error {
	if before, ok := r.get(run[0].sequence - 1); ok {
		run = append([]committed{before}, run...)
	}
	if after, ok := r.get(run[len(run)-1].sequence + 1); ok {
		run = append(slices.Clip(run), after)
	}
	for i := range len(run) - 1 {
		if !bytes.Equal(run[i+1].record.GetPreviousHash(), run[i].hash) {
			return fmt.Errorf("%w: record %d does not carry the hash of record %d", ledger.ErrChain, run[i+1].sequence, run[i].sequence)
		}
	}
	return nil
}

package history

import (
	"slices"
	"time"
)

// calendar tells when the records of one partition's log became durable, to
// the length of a period, from their sequences. Periods begin at multiples of
// their length since 1970.
//
// It only grows at its end, by records that follow all it has, so what it says
// of a sequence stays true. What was before the first period counts to it.
type calendar []period

type period struct {
	first uint64    // sequence of its first record
	start time.Time // UTC
}

// at returns when the period of a sequence began. There must be one.
func (c calendar) at(sequence uint64) time.Time {
	i, found := slices.BinarySearchFunc(c, sequence, func(p period, sequence uint64) int {
		switch {
		case p.first < sequence:
			return -1
		case p.first > sequence:
			return 1
		}
		return 0
	})
	if !found {
		i = max(0, i-1)
	}
	return c[i].start
}

// extend returns the calendar as it is after a batch, of which the periods from
// c's length on are new. Clocks of leaders differ: a time before the last
// period counts to it. A batch that brings rows but no event to a calendar
// that is empty, as after the history was lost, begins one at the time of its
// first row or, if that has none, now.
func (c calendar) extend(batch Batch, length time.Duration, now time.Time) calendar {
	c = slices.Clip(c)
	for _, row := range batch.Events {
		start := row.Event.GetPublishTime().AsTime().Truncate(length)
		if len(c) == 0 || start.After(c[len(c)-1].start) {
			c = append(c, period{first: row.Key.Sequence, start: start})
		}
	}
	if len(c) > 0 || len(batch.Deliveries)+len(batch.Attempts) == 0 {
		return c
	}
	if len(batch.Deliveries) > 0 && !batch.Deliveries[0].Created.IsZero() {
		now = batch.Deliveries[0].Created
	}
	return append(c, period{first: batch.Prev + 1, start: now.UTC().Truncate(length)})
}

package history

import (
	"slices"
	"sync"
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

// before returns the sequence that all records follow that became durable
// after a time: those before it are of periods that had ended then. The last
// period does not end.
func (c calendar) before(at time.Time, length time.Duration) (sequence uint64) {
	for i := 1; i < len(c) && !c[i-1].start.Add(length).After(at); i++ {
		sequence = c[i].first
	}
	return sequence
}

// calendars remembers what the last batches left, so that it need not be read
// again.
type calendars struct {
	mu    sync.Mutex
	known map[int]knownCalendar // :: partition; guarded by mu
}

// knownCalendar is a calendar as it was when the history stood at a position.
// At another position it may have grown since, by another coordinator.
type knownCalendar struct {
	calendar calendar
	position uint64
}

// before returns the calendar that a batch is to extend, if it is known.
func (c *calendars) before(batch Batch) (calendar, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.known[batch.Partition]
	return known.calendar, ok && known.position == batch.Prev
}

// keep remembers the calendar that a batch left.
func (c *calendars) keep(batch Batch, calendar calendar) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = make(map[int]knownCalendar)
	}
	c.known[batch.Partition] = knownCalendar{calendar: calendar, position: batch.Sequence}
}

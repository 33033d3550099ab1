package lead

import (
	"context"
	"errors"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/canary"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// fetchRetry is the wait before a record that could not be read is read again.
const fetchRetry = time.Second

// fetcher reads records that are no longer in memory, one after the other.
type fetcher struct {
	leader *Leader
	asked  *queue[uint64] // bounded by the deliveries in workers' hands
}

func newFetcher(l *Leader) *fetcher {
	return &fetcher{leader: l, asked: newQueue[uint64]()}
}

// ask has a record read and handed to the loop. Called by the loop.
func (f *fetcher) ask(sequence uint64) { f.asked.put(sequence) }

func (f *fetcher) run(ctx context.Context) error {
	for {
		sequences, err := f.asked.take(ctx)
		if err != nil {
			return err
		}
		for _, sequence := range sequences {
			c, err := f.read(ctx, sequence)
			if err := f.leader.do(ctx, func(l *loop) { l.fetched(sequence, c, err) }); err != nil {
				return err
			}
		}
	}
}

// read returns one record, waiting out what may pass. A record that was purged
// does not come back, and a damaged log does not mend.
func (f *fetcher) read(ctx context.Context, sequence uint64) (committed, error) {
	for {
		run, err := f.leader.readBack(ctx, sequence, 1)
		if err == nil {
			return run[0], nil
		}
		if Halts(err) {
			return committed{}, err
		}
		f.leader.logger.Warn("reading an older record", "sequence", sequence, "error", err)
		select {
		case <-time.After(fetchRetry):
		case <-ctx.Done():
			return committed{}, ctx.Err()
		}
		if errors.Is(err, eventlog.ErrPurged) {
			return committed{}, err
		}
	}
}

const (
	// finishMost and finishRecords bound what the loop itself does to catch
	// up: for so many subscriptions, over so many records, at a time.
	finishMost    = 256
	finishRecords = 16
)

// catchUp reads the log for subscriptions that are behind. One scan serves all
// of them: it goes from the lowest cursor on, and finds for each what it wants.
type catchUp struct {
	leader *Leader
	jobs   chan []laggard // capacity 1: the loop never waits for it
	busy   bool           // owned by the loop: a job is under way
}

// laggard is a subscription that is behind and has room.
type laggard struct {
	subscription ledger.Number
	tenant       ledger.TenantID
	interest     ledger.Interest
	cursor       ledger.Position
	tail         uint64 // sequence up to which the interest is known
	room         int    // deliveries
	keyed        bool   // it is ordered by key

	admit *linkv1.Admit // what was found; owned by the scan
}

func newCatchUp(l *Leader) *catchUp {
	return &catchUp{leader: l, jobs: make(chan []laggard, 1)}
}

func (c *catchUp) run(ctx context.Context) error {
	for {
		select {
		case job := <-c.jobs:
			found, from, err := c.scan(ctx, job)
			if err != nil && ctx.Err() == nil {
				c.leader.logger.Warn("catching up from the log", "error", err)
			}
			took := func(l *loop) {
				l.unreadable(from, err)
				l.caughtUp(found)
			}
			if err := c.leader.do(ctx, took); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// startCatchUp begins a scan if none is under way and somebody can use one.
func (l *loop) startCatchUp() {
	if l.catchUp.busy || len(l.pending.admits) > 0 || l.ledger.BehindCount() == 0 {
		return
	}
	var job []laggard
	for s, room := range l.ledger.Laggards() {
		cursor, _ := s.Behind()
		job = append(job, laggard{
			subscription: s.Number, tenant: s.Tenant, interest: s.Interest(), cursor: cursor,
			tail: l.ledger.Sequence(), room: room, keyed: s.Ordering() == ledger.OrderedByKey,
		})
	}
	if len(job) > 0 {
		l.catchUp.busy = true
		l.catchUp.jobs <- job
	}
}

// caughtUp has what a scan found written, and begins the next.
func (l *loop) caughtUp(found []laggard) {
	l.catchUp.busy = false
	l.pending.admits = append(l.pending.admits, found...)
}

// finishCatchUp looks, for those about to be admitted, at what was written
// since their scan, so that one that keeps up becomes current in the block that
// is sealed now: else it would stay a block behind for as long as events come.
func (l *loop) finishCatchUp() {
	for i := range l.pending.admits[:min(len(l.pending.admits), finishMost)] {
		lag := &l.pending.admits[i]
		s := l.ledger.Subscription(lag.subscription)
		if s == nil || lag.cursor.Sequence+finishRecords < l.ledger.Sequence() {
			continue
		}
		var records []committed
		for sequence := lag.cursor.Sequence; sequence <= l.ledger.Sequence(); sequence++ {
			c, ok := l.leader.recent.get(sequence)
			if !ok {
				break
			}
			records = append(records, c)
		}
		if canary.On(canary.ForgetPromotion) {
			lag.admit.NextSequence, lag.admit.NextIndex = l.ledger.Sequence()+1, 0
			continue
		}
		lag.interest, lag.tail = s.Interest(), l.ledger.Sequence()
		lag.scan(records)
	}
}

// lowest returns the first record that somebody has not looked at.
func lowest(job []laggard) uint64 {
	from := job[0].cursor.Sequence
	for _, lag := range job {
		from = min(from, lag.cursor.Sequence)
	}
	return from
}

// scan moves everybody past records that are known to hold nothing for them,
// and then reads one stretch of the log, from the first record that somebody
// needs.
func (c *catchUp) scan(ctx context.Context, job []laggard) (found []laggard, from uint64, err error) {
	known, checks := c.leader.recent.contents(), skipChecks
	for i := range job {
		job[i].skip(&known, &checks)
	}
	from = lowest(job)
	records, err := c.records(ctx, from)
	if err != nil {
		return nil, from, err
	}
	for _, lag := range job {
		if lag.scan(records); lag.admit != nil {
			found = append(found, lag)
		}
	}
	return found, from, nil
}

// records returns a stretch of the log: from memory if it begins there.
func (c *catchUp) records(ctx context.Context, from uint64) ([]committed, error) {
	if first, ok := c.leader.recent.get(from); ok {
		stretch, size := []committed{first}, first.size
		for size < eventlog.MaxReadBytes {
			next, ok := c.leader.recent.get(from + uint64(len(stretch)))
			if !ok {
				break
			}
			stretch, size = append(stretch, next), size+next.size
		}
		return stretch, nil
	}
	if from > c.leader.recent.committed.get() {
		return nil, nil // nothing was written there yet
	}
	return c.leader.readBack(ctx, from, eventlog.MaxReadRecords)
}

// scan adds to the admit what the subscription wants in a stretch, as far as it
// has room, and moves the cursor past what it looked at.
func (lag *laggard) scan(records []committed) {
	if len(records) == 0 || records[0].sequence > lag.cursor.Sequence ||
		records[len(records)-1].sequence < lag.cursor.Sequence {
		return
	}
	if lag.admit == nil {
		lag.admit = &linkv1.Admit{Subscription: uint64(lag.subscription)}
	}
	defer func() { lag.admit.NextSequence, lag.admit.NextIndex = lag.cursor.Sequence, lag.cursor.Index }()
	for _, c := range records[lag.cursor.Sequence-records[0].sequence:] {
		if c.sequence > lag.tail {
			return // written since: it may want other types by now
		}
		for i, event := range c.record.GetEvents() {
			at := ledger.Position{Sequence: c.sequence, Index: uint32(i)}
			if at.Compare(lag.cursor) < 0 || ledger.TenantID(event.GetTenant()) != lag.tenant ||
				!lag.interest.Wants(c.sequence, event.GetType()) {
				continue
			}
			if len(lag.admit.GetSequences()) >= lag.room {
				lag.cursor = at
				return
			}
			lag.admit.Sequences = append(lag.admit.Sequences, at.Sequence)
			lag.admit.Indexes = append(lag.admit.Indexes, at.Index)
			if lag.keyed {
				lag.admit.Lanes = append(lag.admit.Lanes, uint32(ledger.LaneOfKey(event.GetOrderingKey())))
			}
		}
		lag.cursor = ledger.Position{Sequence: c.sequence + 1}
	}
}

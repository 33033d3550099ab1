package lead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
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
// does not come back.
func (f *fetcher) read(ctx context.Context, sequence uint64) (committed, error) {
	for {
		records, err := f.leader.config.Log.Read(ctx, sequence)
		if err == nil && len(records) == 0 {
			err = fmt.Errorf("record %d is not in the log", sequence)
		}
		if err == nil {
			return decodeRecord(records[0])
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
	room         int // deliveries

	admit *linkv1.Admit // what was found; owned by the scan
}

func newCatchUp(l *Leader) *catchUp {
	return &catchUp{leader: l, jobs: make(chan []laggard, 1)}
}

func (c *catchUp) run(ctx context.Context) error {
	for {
		select {
		case job := <-c.jobs:
			admits, err := c.scan(ctx, job)
			if err != nil && ctx.Err() == nil {
				c.leader.logger.Warn("catching up from the log", "error", err)
			}
			if err := c.leader.do(ctx, func(l *loop) { l.caughtUp(admits) }); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// startCatchUp begins a scan if none is under way and somebody can use one.
func (l *loop) startCatchUp() {
	if l.catchUp.busy || l.ledger.BehindCount() == 0 {
		return
	}
	var job []laggard
	for s, room := range l.ledger.Laggards() {
		cursor, _ := s.Behind()
		job = append(job, laggard{
			subscription: s.Number, tenant: s.Tenant, interest: s.Interest(), cursor: cursor,
			tail: l.ledger.Sequence(), room: room,
		})
	}
	if len(job) > 0 {
		l.catchUp.busy = true
		l.catchUp.jobs <- job
	}
}

// caughtUp has what a scan found written, and begins the next.
func (l *loop) caughtUp(admits []*linkv1.Admit) {
	l.catchUp.busy = false
	l.pending.admits = append(l.pending.admits, admits...)
}

// scan reads one stretch of the log, from the lowest cursor on.
func (c *catchUp) scan(ctx context.Context, job []laggard) ([]*linkv1.Admit, error) {
	from := job[0].cursor.Sequence
	for _, lag := range job {
		from = min(from, lag.cursor.Sequence)
	}
	records, err := c.records(ctx, from)
	if err != nil {
		return nil, err
	}
	var admits []*linkv1.Admit
	for i := range job {
		job[i].scan(records)
		if job[i].admit != nil {
			admits = append(admits, job[i].admit)
		}
	}
	return admits, nil
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
	records, err := c.leader.config.Log.Read(ctx, from)
	if err != nil {
		return nil, err
	}
	var stretch []committed
	for _, r := range records {
		next, err := decodeRecord(r)
		if err != nil {
			return nil, err
		}
		stretch = append(stretch, next)
	}
	return stretch, nil
}

// scan finds what the subscription wants in a stretch, as far as it has room.
func (lag *laggard) scan(records []committed) {
	if len(records) == 0 || records[0].sequence > lag.cursor.Sequence ||
		records[len(records)-1].sequence < lag.cursor.Sequence {
		return
	}
	admit := &linkv1.Admit{Subscription: uint64(lag.subscription)}
	next := lag.cursor
	for _, c := range records[lag.cursor.Sequence-records[0].sequence:] {
		if c.sequence > lag.tail {
			break // written since: it may want other types by now
		}
		for i, event := range c.record.GetEvents() {
			at := ledger.Position{Sequence: c.sequence, Index: uint32(i)} //nolint:gosec // a record holds few events
			if at.Compare(next) < 0 || ledger.TenantID(event.GetTenant()) != lag.tenant ||
				!lag.interest.Wants(c.sequence, event.GetType()) {
				continue
			}
			if len(admit.GetSequences()) == lag.room {
				admit.NextSequence, admit.NextIndex = at.Sequence, at.Index
				lag.admit = admit
				return
			}
			admit.Sequences = append(admit.Sequences, at.Sequence)
			admit.Indexes = append(admit.Indexes, at.Index)
		}
		next = ledger.Position{Sequence: c.sequence + 1}
	}
	admit.NextSequence, admit.NextIndex = next.Sequence, next.Index
	lag.admit = admit
}

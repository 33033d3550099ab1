package lead

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
)

const (
	// DefaultSilence is how long the log of a store in this process may leave
	// a write unanswered: see ErrSilent.
	DefaultSilence = 30 * time.Second

	// spaceInterval is how often the log is asked for its size while that
	// matters: when it has a limit, and while space is short.
	spaceInterval = time.Second
	// shortSnapshotInterval is the time between two snapshots while space is
	// short: they are what allows the log to be purged.
	shortSnapshotInterval = 5 * time.Second
	// blankInterval is the time between two blank records; snapshots must be
	// able to follow them.
	blankInterval = 2 * shortSnapshotInterval
)

// ErrSilent says that the log has not answered a write for Config.Silence. An embedded
// server whose disk was full or failed answers nothing more until it is
// started again, and what starts it is the process: it must end. A server
// elsewhere comes back by itself, and is waited for.
var ErrSilent = errors.New("the log has not answered a write for too long: its disk may be full or broken")

// ErrPartly says that the store ran out of space in the middle of a request, and some
// of its events are stored.
var ErrPartly = errors.New("the log ran out of space in the middle of the request: some of the events were stored")

// room is what the loop knows of the space its log has. Owned by the loop.
type room struct {
	first   uint64 // oldest record of the log, as last seen
	bytes   uint64 // of the log, as last seen and with what was appended since
	full    bool   // bytes are over the limit, or were and are not well below it
	written uint64 // newest record that is not blank; the last of all at the start
	blanked time.Time
}

// refusal returns why no events are taken now, or nil.
func (l *loop) refusal() error {
	switch config := l.leader.config; {
	case l.pending.full:
		return eventlog.ErrNoSpace
	case l.room.full:
		return fmt.Errorf("%w: the log of partition %d has %s, and its limit is %s",
			ErrFull, config.Partition, mebibytes(l.room.bytes), mebibytes(config.MaxLogBytes))
	default:
		return config.Disk.Full()
	}
}

// Accepts returns nil if something new may be made durable, and else why not:
// ErrFull, eventlog.ErrNoSpace or ErrNotLeading. Events are asked for when
// they are published; who creates anything else asks first.
func (l *Leader) Accepts(ctx context.Context) error {
	var refusal error
	if err := l.call(ctx, func(loop *loop) { refusal = loop.refusal() }); err != nil {
		return err
	}
	return refusal
}

// Problem says what is wrong with the partition's log and its space, and with
// no other's; nothing if nothing is.
func (l *Leader) Problem(ctx context.Context) (problem string, err error) {
	err = l.call(ctx, func(loop *loop) {
		switch {
		case loop.pending.full || loop.room.full:
			problem = loop.refusal().Error()
		case loop.silent():
			problem = fmt.Sprintf("the log of partition %d has not answered for %v: events are refused",
				l.config.Partition, time.Since(loop.flight.began).Round(time.Second))
		}
	})
	return problem, err
}

// Silent reports whether the log has left an append without an answer for
// Config.Patience: then nothing more is taken.
func (l *Leader) Silent(ctx context.Context) (silent bool, err error) {
	err = l.call(ctx, func(loop *loop) { silent = loop.silent() })
	return silent, err
}

// heedSpace is asked before each block: it gives up what must not be written
// any more.
func (l *loop) heedSpace() {
	if l.pending.stalled {
		return
	}
	if refusal := l.refusal(); refusal != nil {
		l.pending.refuseNew(refusal)
	}
	if exhaustion := l.leader.config.Disk.exhaustion(); exhaustion != nil {
		l.pending.refuseAll(exhaustion)
		l.pending.stalled = true
		l.space.Reset(spaceRetry)
	}
}

// refuseNew gives up the events that wait, but for those of a request of
// which some are stored: it is stored whole, or not at all.
func (p *pending) refuseNew(err error) {
	n := 0
	for n < len(p.events) && p.events[n].call.begun {
		n++
	}
	for _, e := range p.events[n:] {
		e.call.fail(err)
	}
	p.events, _ = split(p.events, n)
	if n == 0 {
		p.events = nil
	}
}

// refuseAll gives up everything somebody waits for. Nothing may be in flight.
func (p *pending) refuseAll(err error) {
	for _, e := range p.events {
		e.call.refused(err)
	}
	for _, c := range p.changes {
		c.done <- err
	}
	p.events, p.changes = nil, nil
}

// refused fails a call for which the store had no space.
func (c *publishCall) refused(err error) {
	if c.left < len(c.duplicates) {
		err = ErrPartly
	}
	c.fail(err)
}

// charge counts a block that is about to be appended.
func (l *loop) charge(b *block) {
	b.began = time.Now()
	n := len(b.data)
	l.leader.config.Disk.charge(n)
	l.leader.appended.Add(uint64(n))
	l.room.grow(uint64(n), l.leader)
	if !b.blank {
		l.room.written = b.committed.sequence
	}
}

// grow counts bytes of the log, and says so when it comes to its limit.
func (r *room) grow(bytes uint64, leader *Leader) { r.judge(r.bytes+bytes, leader) }

// judge takes a new size of the log. What is refused at the limit is taken
// again when an eighth of it is free.
func (r *room) judge(bytes uint64, leader *Leader) {
	r.bytes = bytes
	limit := leader.config.MaxLogBytes
	if limit == 0 {
		return
	}
	bound := limit
	if r.full {
		bound -= limit / 8
	}
	if full := bytes >= bound; full != r.full {
		r.full = full
		if full {
			leader.logger.Error("the log has come to its limit: events are refused until some of it is purged",
				"bytes", bytes, "limit", limit)
		} else {
			leader.logger.Info("the log has space again: events are taken", "bytes", bytes, "limit", limit)
		}
	}
}

// watchSpace asks for the size of the log while it matters, and tells the
// loop.
func (l *Leader) watchSpace(ctx context.Context) error {
	if l.config.MaxLogBytes == 0 && l.config.Disk == nil {
		_ = l.measure(ctx) // for who looks; it is asked again with each purge
		return nil
	}
	ticker := time.NewTicker(spaceInterval)
	defer ticker.Stop()
	for {
		if l.config.MaxLogBytes > 0 || l.config.Disk.tight() || l.isShort.Load() {
			if err := l.measure(ctx); err != nil && ctx.Err() == nil {
				l.logger.Warn("asking for the size of the log", "error", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// measure asks for the size of the log, and tells the loop.
func (l *Leader) measure(ctx context.Context) error {
	before := l.appended.Load()
	state, err := l.config.Log.State(ctx)
	if err != nil {
		return err
	}
	return l.do(ctx, func(loop *loop) { loop.measured(state, before) })
}

// measured takes the state of the log, and how much had been appended when it
// was asked for.
func (l *loop) measured(state eventlog.State, appended uint64) {
	l.room.first = state.First
	l.room.judge(state.Bytes+l.leader.appended.Load()-appended, l.leader)
	short := l.short()
	l.leader.isShort.Store(short)
	l.pending.blank = short && l.wantsBlank()
}

// short reports whether space is so short that nothing is kept that is not
// needed.
func (l *loop) short() bool { return l.refusal() != nil || l.leader.config.Disk.tight() }

// wantsBlank reports whether a record that says nothing would help: the log is
// purged up to the older of two snapshots, so when nothing is written any
// more, a snapshot of what was written last has to become the older one.
func (l *loop) wantsBlank() bool {
	if l.flight != nil || !l.pending.empty() || l.pending.stalled || l.pending.full || time.Since(l.room.blanked) < blankInterval ||
		l.leader.followed.get() < l.ledger.Sequence() || l.room.first > min(l.room.written, l.needed()-1) {
		return false
	}
	l.room.blanked = time.Now()
	return true
}

// snapshotInterval is the time between two snapshots.
func (l *Leader) snapshotInterval() time.Duration {
	if l.isShort.Load() {
		return min(l.config.SnapshotInterval, shortSnapshotInterval)
	}
	return l.config.SnapshotInterval
}

// spaceFlags is what the loop tells others about space.
type spaceFlags struct {
	appended atomic.Uint64 // bytes handed to the log in this leadership
	isShort  atomic.Bool   // what is not needed is to go
}

// silence tells how long a store has left what it was asked to write
// unanswered.
type silence struct {
	limit time.Duration // 0: none
	since time.Time     // zero: it has answered
}

// heard takes how a write ended that began at some time. It returns ErrSilent
// when the store has said nothing for too long.
func (s *silence) heard(began time.Time, err error) error {
	switch {
	case errors.Is(err, eventlog.ErrUnknown):
	case err == nil, errors.Is(err, eventlog.ErrConflict):
		s.since = time.Time{}
		return nil
	default: // nothing was asked to be written, or it was refused
		return nil
	}
	if s.since.IsZero() {
		s.since = began
	}
	if silent := time.Since(s.since); s.limit > 0 && silent >= s.limit {
		return fmt.Errorf("%w (%v)", ErrSilent, silent.Round(time.Second))
	}
	return nil
}

// untilSilent ends when the log has left an append that began at some time
// unanswered for too long, with ErrSilent as its cause.
func (l *Leader) untilSilent(ctx context.Context, began time.Time) (context.Context, context.CancelFunc) {
	if l.config.Silence == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, began.Add(l.config.Silence),
		fmt.Errorf("%w (%v)", ErrSilent, l.config.Silence))
}

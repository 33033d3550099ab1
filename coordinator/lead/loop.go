package lead

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/canary"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

const (
	// spaceRetry is how long the loop waits before it tries events again
	// after the store had no space for them.
	spaceRetry = time.Second
	// unknownRetry is the longest wait between two attempts to find out what
	// became of an append.
	unknownRetry = 2 * time.Second
	// sendsPerTurn is how many deliveries are sent before inputs have a turn.
	sendsPerTurn = 256
	// catchUpInterval is how often the loop looks for subscriptions behind
	// that have room again.
	catchUpInterval = 100 * time.Millisecond
)

// loop is the goroutine that owns a partition: every field is its own.
type loop struct {
	leader   *Leader
	ledger   *ledger.Ledger
	dispatch *dispatch.Dispatch
	sessions map[dispatch.SessionID]*session
	lastID   dispatch.SessionID
	pending  pending
	flight   *block                     // being appended; nil: none
	missing  map[uint64][]dispatch.Send // by record that must be read first
	fetcher  *fetcher
	catchUp  *catchUp
	resolved chan resolution // what became of an append that was not answered; capacity 1
	space    *time.Timer     // until events are tried again
	looking  bool            // somebody is behind: the ticker of catching up runs
	broken   error           // what is wrong with the log, once a read has shown it
	room     room
	traces   *traces
	open     breakers
	gate     gate
	retiring bool // nothing more is taken; what was is made durable
	parted   bool // the last record was made
}

// resolution is what became of the block in flight.
type resolution struct{ err error }

func newLoop(l *Leader, state *ledger.Ledger) *loop {
	loop := &loop{
		leader:   l,
		ledger:   state,
		dispatch: dispatch.New(l.config.Slots),
		sessions: make(map[dispatch.SessionID]*session),
		missing:  make(map[uint64][]dispatch.Send),
		fetcher:  newFetcher(l),
		catchUp:  newCatchUp(l),
		resolved: make(chan resolution, 1),
		room:     room{written: state.Sequence()},
		traces:   newTraces(l.config),
	}
	if state.Outstanding() > 0 {
		loop.gate = newGate(l.farewell, time.Now())
	}
	for _, s := range state.Subscriptions() {
		loop.dispatch.Put(s.Number)
		loop.setPace(s)
		loop.configure(s)
		for o := range s.Outstanding() {
			delivery := ledger.Delivery{Subscription: s.Number, Position: o.Position}
			loop.dispatch.OweInLane(delivery, s.Lane(o.Position), o.Attempts, o.Next.UnixMilli())
		}
	}
	for _, id := range state.Tenants() {
		loop.limitTenant(id)
	}
	return loop
}

// configure tells the dispatch machine how fast a subscription is sent to, and
// how much at a time.
func (l *loop) configure(s *ledger.Subscription) {
	config := s.Stored.GetSubscription()
	l.dispatch.Limit(s.Number, paceOf(config))
	l.dispatch.Batch(s.Number, int(config.GetBatchCount()))
	l.dispatch.Settle(s.Number, hostOf(config.GetUrl()))
}

// hostOf returns the host of a URL, with its port if it says one; "" if it has
// none.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// limitTenant tells the dispatch machine of a tenant's rate.
func (l *loop) limitTenant(id ledger.TenantID) {
	var members []ledger.Number
	for _, s := range l.ledger.TenantSubscriptions(id, 0, math.MaxInt) {
		members = append(members, s.Number)
	}
	l.dispatch.LimitTenant(id, rateOf(l.ledger.Tenant(id)), members)
}

func (l *loop) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup // they end with ctx, for no other reason
	helpers.Go(func() { _ = l.fetcher.run(ctx) })
	helpers.Go(func() { _ = l.catchUp.run(ctx) })
	defer func() {
		cancel()
		helpers.Wait()
		l.endSessions()
		l.failPending()
	}()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	l.space = time.NewTimer(time.Hour)
	defer l.space.Stop()
	behind := time.NewTicker(catchUpInterval)
	behind.Stop()
	defer behind.Stop()
	retain := time.NewTicker(retainInterval)
	defer retain.Stop()
	for {
		if err := l.advance(); err != nil {
			return err
		}
		if l.retiring && l.flight == nil && l.pending.empty() {
			if l.parted {
				return errRetired
			}
			l.parted = true
			l.pending.farewell = &linkv1.Farewell{Workers: l.dispatch.Holders()}
			continue
		}
		more := l.send()
		l.setWake(wake, more)
		l.lookBehind(behind)
		if err := l.step(ctx, wake, behind, retain); err != nil {
			return err
		}
	}
}

// step takes one input, and those that wait behind it.
func (l *loop) step(ctx context.Context, wake *time.Timer, behind, retain *time.Ticker) error {
	var appended <-chan error
	if l.flight != nil {
		appended = l.flight.appended
	}
	retire := l.leader.retire
	if l.retiring {
		retire = nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-retire:
		l.retiring = true
		l.takeInputs()
	case input := <-l.leader.inputs:
		input(l)
		l.takeInputs()
	case err := <-appended:
		return l.answered(ctx, err)
	case r := <-l.resolved:
		return l.answered(ctx, r.err)
	case <-l.space.C:
		l.pending.full, l.pending.stalled = false, false
	case <-retain.C:
		l.expireOld()
	case <-behind.C:
		l.startCatchUp()
	case <-wake.C:
	}
	return l.broken
}

// silent reports whether the log has not answered for so long that nobody
// should begin to wait for it.
func (l *loop) silent() bool {
	return l.flight != nil && time.Since(l.flight.began) >= l.leader.config.Patience
}

// takeInputs takes the inputs that wait.
func (l *loop) takeInputs() {
	for range len(l.leader.inputs) {
		(<-l.leader.inputs)(l)
	}
}

// advance appends the next block if none is in flight and there is one.
func (l *loop) advance() error {
	for l.flight == nil {
		l.heedSpace()
		if l.pending.empty() {
			return nil
		}
		l.finishCatchUp()
		b, err := l.pending.seal(l.ledger)
		if err != nil {
			return err
		}
		if b.data == nil {
			l.settle(b.outcomes)
			continue
		}
		if canary.On(canary.AckBeforeCommit) {
			b.acknowledge()
		}
		l.charge(b)
		b.appended = l.leader.config.Log.Append(l.ledger.Sequence(), b.data)
		l.flight = b
	}
	return nil
}

// answered takes the log's answer to the block in flight.
func (l *loop) answered(ctx context.Context, err error) error {
	b := l.flight
	switch {
	case err == nil:
		l.flight = nil
		return l.commit(ctx, b)
	case errors.Is(err, eventlog.ErrConflict) && canary.On(canary.IgnoreFence):
		l.flight = nil
		return l.commit(ctx, b)
	case errors.Is(err, eventlog.ErrConflict):
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case errors.Is(err, eventlog.ErrNoSpace):
		l.leader.logger.Error("the log has no space left: events are refused", "error", err)
		l.flight = nil
		l.pending.full = true
		l.pending.stalled = len(b.events)+len(b.changes) == 0 // there was nothing to leave out
		l.pending.refuse(b)
		l.space.Reset(spaceRetry)
		return nil
	case errors.Is(err, eventlog.ErrUnknown):
		l.leader.logger.Warn("an append was not answered: reading it back", "sequence", b.committed.sequence)
		b.appended = nil
		go func() {
			ctx, cancel := l.leader.untilSilent(ctx, b.began)
			defer cancel()
			l.resolved <- resolution{l.leader.resolve(ctx, b.committed.sequence, b.data)}
		}()
		return nil
	default:
		return fmt.Errorf("appending to the log: %w", err)
	}
}

// resolve finds out whether a record is in the log, and appends it again, the
// same bytes at the same place, until that is known. It returns nil once it is
// there, or ErrConflict, ErrNoSpace, ErrDamaged, ErrRegressed if the log has
// become too short for it, or why ctx has ended: see untilSilent.
func (l *Leader) resolve(ctx context.Context, sequence uint64, data []byte) error {
	refused := false // the last append, as if another record were there
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, unknownRetry) {
		records, err := l.config.Log.Read(ctx, sequence, 1)
		switch {
		case Halts(err):
			return err
		case errors.Is(err, eventlog.ErrPurged):
			return fmt.Errorf("%w: %w", eventlog.ErrConflict, err) // another leader has been there and gone on
		case err != nil:
		case len(records) > 0 && bytes.Equal(records[0].Data, data):
			return nil
		case len(records) > 0:
			return eventlog.ErrConflict
		case refused:
			return fmt.Errorf("%w: it no longer ends at record %d", ErrRegressed, sequence-1)
		default:
			if err = l.append(ctx, sequence-1, data); err == nil || errors.Is(err, eventlog.ErrNoSpace) {
				return err
			}
			refused = errors.Is(err, eventlog.ErrConflict)
		}
		l.logger.Warn("an append is not answered yet", "sequence", sequence, "error", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// append appends a record, and waits for the answer.
func (l *Leader) append(ctx context.Context, prev uint64, data []byte) error {
	select {
	case err := <-l.config.Log.Append(prev, data):
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// setWake sets the timer to when the loop must look again by itself.
func (l *loop) setWake(wake *time.Timer, now bool) {
	if now {
		wake.Reset(0)
		return
	}
	if at, ok := l.dispatch.Wake(); ok && !l.retiring {
		wake.Reset(max(0, time.Until(time.UnixMilli(at)), time.Until(l.gate.opens)))
		return
	}
	wake.Reset(time.Hour)
}

// lookBehind keeps the ticker running while somebody is behind, and only then:
// an idle partition costs nothing.
func (l *loop) lookBehind(ticker *time.Ticker) {
	is := l.ledger.BehindCount() > 0
	if is == l.looking {
		return
	}
	l.looking = is
	if is {
		ticker.Reset(catchUpInterval)
	} else {
		ticker.Stop()
	}
}

// send hands out what is due, and reports whether there may be more.
func (l *loop) send() (more bool) {
	if l.retiring || time.Now().Before(l.gate.opens) {
		return false // the next leader does, or the next turn
	}
	now, sent := time.Now().UnixMilli(), 0
	for sent < sendsPerTurn {
		sends := l.dispatch.Next(now, sendsPerTurn)
		if len(sends) == 0 {
			return false
		}
		l.sendAll(sends)
		sent += len(sends)
	}
	return true
}

// sendAll sends each event once to each session: sends of one event to one
// session follow each other.
func (l *loop) sendAll(sends []dispatch.Send) {
	for len(sends) > 0 {
		n := 1
		for n < len(sends) && sends[n].Session == sends[0].Session && sends[n].Position == sends[0].Position {
			n++
		}
		l.sendEvent(sends[:n])
		sends = sends[n:]
	}
}

// sendEvent sends one event to one session, or has it read first.
func (l *loop) sendEvent(sends []dispatch.Send) {
	sequence := sends[0].Position.Sequence
	c, ok := l.leader.recent.get(sequence)
	if !ok {
		if l.missing[sequence] == nil {
			l.fetcher.ask(sequence)
		}
		l.missing[sequence] = append(l.missing[sequence], sends...)
		return
	}
	session, index := l.sessions[sends[0].Session], int(sends[0].Position.Index)
	if session == nil || index >= len(c.record.GetEvents()) {
		return
	}
	event := c.record.GetEvents()[index]
	message := &linkv1.Dispatch{
		Sequence:          sequence,
		Index:             sends[0].Position.Index,
		Tenant:            event.GetTenant(),
		Event:             event.GetEvent(),
		PublishTimeUnixMs: c.record.GetTimeUnixMs(),
		Json:              event.GetJson(),
	}
	for _, s := range sends {
		switch {
		case !l.dispatch.Holds(s.Session, s.Delivery):
		case !l.dispatch.InTurn(s.Delivery):
			l.dispatch.Return(s.Session, s.Delivery)
		default:
			l.dispatch.Charge(s, len(event.GetEvent()))
			message.Targets = append(message.Targets, &linkv1.Target{
				Subscription: uint64(s.Subscription), Attempt: s.Attempt, Step: l.ledger.Charged(s.Delivery) + 1,
				Lane: uint32(s.Lane),
			})
		}
	}
	if len(message.GetTargets()) > 0 {
		session.dispatch(message, l.traces.begin(message, event))
	}
}

// fetched takes a record that was read back, and sends what waited for it.
func (l *loop) fetched(sequence uint64, c committed, err error) {
	sends := l.missing[sequence]
	delete(l.missing, sequence)
	if err != nil {
		l.leader.logger.Error("reading events back to send them", "sequence", sequence, "error", err)
		l.unreadable(sequence, err)
		for _, s := range sends { // to be tried again
			l.dispatch.Return(s.Session, s.Delivery)
		}
		return
	}
	l.leader.recent.putOlder(c)
	l.sendAll(sends)
}

// unreadable takes what came of reading a record, nil included. It ends the
// leadership if the log is damaged, or begins after what is owed.
func (l *loop) unreadable(sequence uint64, err error) {
	switch {
	case Halts(err):
		l.broken = err
	case errors.Is(err, eventlog.ErrPurged) && sequence >= l.ledger.Floor():
		l.broken = fmt.Errorf("%w: events of record %d are owed: %w", ErrRegressed, sequence, err)
	}
}

// failPending answers everybody who still waits. What is in flight may be in
// the log or not (ErrInterrupted): a producer that repeats its event with the
// same id is safe. What was only pending is not.
func (l *loop) failPending() {
	if b := l.flight; b != nil {
		for _, c := range b.changes {
			c.done <- ErrInterrupted
		}
		for _, e := range append(b.events, b.repeats...) {
			e.call.fail(ErrInterrupted)
		}
	}
	for _, c := range l.pending.changes {
		c.done <- ErrNotLeading
	}
	for _, e := range l.pending.events {
		if e.call.begun {
			e.call.fail(ErrInterrupted)
		} else {
			e.call.fail(ErrNotLeading)
		}
	}
}

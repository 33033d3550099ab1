package lead

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/canary"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// Sizes of a block, in bytes before encoding: each kind fills it up to its
// limit, and may overshoot by its last item. What frees memory comes before
// events, but leaves them room.
const (
	blockChangeBytes  = 128 << 10
	blockAdmitBytes   = 256 << 10
	blockOutcomeBytes = 384 << 10
	blockBytes        = 512 << 10
	changeOverhead    = 4096 // of a change, beside its subscription: a replay's page
	outcomeOverhead   = 32   // of an outcome, beside its texts
	eventOverhead     = 16   // of an event, beside its fields
	// blockDeliveries limits what one block makes owed, by events and by admits
	// each, since a block is folded in one go and its deliveries are one
	// transaction of the history: a few events for very many subscriptions are
	// not a block that holds up everybody else's.
	blockDeliveries = 16 << 10
)

// pending is what waits to be sealed into the next block. Owned by the loop.
type pending struct {
	changes  []*change
	outcomes []reported
	events   []published
	admits   []laggard // with what was found for each
	// full is set while the store refuses for want of space: until then only
	// what frees space is written.
	full bool
	// stalled is set while it refuses even that: until then nothing is.
	stalled bool
	// blank asks for a record although there is nothing to say: see wantsBlank.
	blank bool
	// purgeBefore, if not 0, asks for what is before this record to be given up.
	purgeBefore uint64
	// farewell, if not nil, ends the log for this leader.
	farewell *linkv1.Farewell
}

// tenantTarget is the target of every change of tenants.
const tenantTarget = "tenant"

// change is a change of tenants or subscriptions that somebody waits for.
type change struct {
	// target names what is changed: one block changes it once, and a tenant
	// alone, since whether it may go depends on its subscriptions.
	target string
	// build adds the change to the record, from the state it will be applied
	// to. next is the number of a new subscription.
	build func(state *ledger.Ledger, next ledger.Number, record *linkv1.Record) error
	done  chan<- error // capacity 1
}

// published is one event that somebody waits for.
type published struct {
	event *linkv1.LoggedEvent
	index int // in its call
	call  *publishCall
}

// publishCall is one call of Publish. Owned by the loop once handed over.
type publishCall struct {
	duplicates []bool
	begun      bool       // some events are on their way, or stored
	left       int        // events without an answer
	done       chan error // capacity 1: the first error, or nil at the end
}

func (c *publishCall) answer(index int, duplicate bool) {
	c.duplicates[index] = duplicate
	c.left--
	if c.left == 0 {
		c.done <- nil
	}
}

// fail answers the whole call; what else it waits for no longer matters.
func (c *publishCall) fail(err error) {
	if c.left > 0 {
		c.left = 0
		c.done <- err
	}
}

// reported is an outcome that a session waits to have made durable, or, behind
// the outcomes of a batch, its number.
type reported struct {
	session *session
	outcome *linkv1.Outcome // nil: the batch has ended
	batch   uint64          // if outcome is nil
}

// block is what is being appended. Owned by the loop.
type block struct {
	committed committed
	data      []byte // nil: nothing needs to be written
	blank     bool   // it says nothing but, perhaps, what may be purged
	began     time.Time
	changes   []*change
	outcomes  []reported
	events    []published
	repeats   []published // duplicates of events that are in this block
	appended  <-chan error
}

func (p *pending) empty() bool {
	return p.stalled || !p.blank && p.purgeBefore == 0 && p.farewell == nil && len(p.outcomes) == 0 && len(p.admits) == 0 &&
		(p.full || len(p.changes) == 0 && len(p.events) == 0)
}

// seal makes the next block of what is pending.
func (p *pending) seal(l *ledger.Ledger) (*block, error) {
	b := new(block)
	record := &linkv1.Record{
		Epoch:        l.Epoch(),
		PreviousHash: l.Hash(),
		TimeUnixMs:   max(l.Time(), time.Now().UnixMilli()),
	}
	size := 0
	if !p.full {
		size = p.sealChanges(b, record, l)
	}
	size = p.sealAdmits(record, size)
	size = p.sealOutcomes(b, record, size)
	if !p.full {
		p.sealEvents(b, record, l, size)
	}
	record.PurgeBefore, record.Farewell = p.purgeBefore, p.farewell
	if b.blank = b.idle(record); b.blank && !p.blank && p.purgeBefore == 0 && p.farewell == nil {
		return b, nil
	}
	p.blank, p.purgeBefore, p.farewell = false, 0, nil
	data, err := proto.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encoding block: %w", err)
	}
	hash := sha256.Sum256(data)
	b.data = data
	b.committed = committed{sequence: l.Sequence() + 1, hash: hash[:], record: record, size: len(data)}
	return b, nil
}

// idle reports whether a record would say nothing but what may be purged, and
// farewell.
func (b *block) idle(record *linkv1.Record) bool {
	return len(b.changes) == 0 && len(record.GetEvents()) == 0 && len(record.GetAdmits()) == 0 && record.GetOutcomes() == nil
}

// sealAdmits takes what was found for subscriptions that are behind.
func (p *pending) sealAdmits(record *linkv1.Record, size int) int {
	n, deliveries := 0, 0
	for n < len(p.admits) && size < blockAdmitBytes && deliveries < blockDeliveries {
		admit := p.admits[n].admit
		n++
		size += proto.Size(admit)
		deliveries += len(admit.GetSequences())
		record.Admits = append(record.Admits, admit)
	}
	_, p.admits = split(p.admits, n)
	return size
}

func (p *pending) sealOutcomes(b *block, record *linkv1.Record, size int) int {
	n := 0
	var outcomes []ledger.Reported
	for n < len(p.outcomes) && size < blockOutcomeBytes {
		r := p.outcomes[n]
		n++
		if r.outcome == nil {
			continue
		}
		size += outcomeOverhead + len(r.outcome.GetError()) + len(r.outcome.GetResponseBody())
		outcomes = append(outcomes, ledger.Reported{Worker: r.session.worker.ID, Outcome: r.outcome})
	}
	b.outcomes, p.outcomes = split(p.outcomes, n)
	record.Outcomes = ledger.EncodeOutcomes(record.GetTimeUnixMs(), outcomes)
	return size
}

// sealChanges takes changes in their order, up to one that depends on another
// of this block.
func (p *pending) sealChanges(b *block, record *linkv1.Record, l *ledger.Ledger) (size int) {
	n, next, targets := 0, l.NextNumber(), make(map[string]bool)
	for n < len(p.changes) && size < blockChangeBytes {
		c := p.changes[n]
		if targets[c.target] || len(b.changes) > 0 && (c.target == tenantTarget || targets[tenantTarget]) {
			break
		}
		n++
		added := len(record.GetSubscriptions())
		if err := c.build(l, next, record); err != nil {
			c.done <- err
			continue
		}
		targets[c.target] = true
		b.changes = append(b.changes, c)
		size += changeOverhead
		for _, subscription := range record.GetSubscriptions()[added:] {
			size += proto.Size(subscription)
			if ledger.Number(subscription.GetNumber()) == next {
				next++
			}
		}
	}
	_, p.changes = split(p.changes, n)
	return size
}

func (p *pending) sealEvents(b *block, record *linkv1.Record, l *ledger.Ledger, size int) {
	n, deliveries, ids := 0, 0, make(map[string]bool)
	for n < len(p.events) && size < blockBytes && deliveries < blockDeliveries {
		e := p.events[n]
		n++
		id := ""
		if !e.event.GetIdGenerated() { // else it is no other's
			id = e.event.GetTenant() + "\x00" + e.event.GetId()
		}
		switch {
		case e.call.left == 0: // it was refused
		case id != "" && ids[id]:
			b.repeats = append(b.repeats, e)
		case id != "" && l.Seen(ledger.TenantID(e.event.GetTenant()), e.event.GetId()):
			e.call.answer(e.index, true)
		default:
			if id != "" {
				ids[id] = true
			}
			e.call.begun = true
			deliveries += l.Reach(ledger.TenantID(e.event.GetTenant()), e.event.GetType())
			size += eventOverhead + len(e.event.GetEvent()) + len(e.event.GetId()) + len(e.event.GetType())
			b.events = append(b.events, e)
			record.Events = append(record.Events, e.event)
		}
	}
	_, p.events = split(p.events, n)
}

// split cuts a queue, and lets go of it when it is empty.
func split[T any](queue []T, n int) (head, tail []T) {
	if n == len(queue) {
		return queue, nil
	}
	return queue[:n:n], queue[n:]
}

// refuse gives up what of a block the store had no space for, and takes the
// rest back to be tried again.
func (p *pending) refuse(b *block) {
	for _, c := range b.changes {
		c.done <- eventlog.ErrNoSpace
	}
	for _, e := range append(b.events, b.repeats...) {
		e.call.refused(eventlog.ErrNoSpace)
	}
	p.outcomes = append(b.outcomes, p.outcomes...)
	p.purgeBefore = max(p.purgeBefore, b.committed.record.GetPurgeBefore())
}

// commit folds a block that is in the log, and answers who waited for it.
func (l *loop) commit(ctx context.Context, b *block) error {
	l.leader.metrics.took(ctx, l.leader.metrics.appended, b.began)
	begin := time.Now()
	result, err := l.ledger.Fold(b.committed.sequence, b.committed.hash, b.committed.record)
	if err != nil {
		return fmt.Errorf("folding what was written: %w", err)
	}
	l.leader.metrics.took(ctx, l.leader.metrics.folded, begin)
	l.leader.recent.put(b.committed)
	for _, c := range b.changes {
		c.done <- nil
	}
	if !canary.On(canary.AckBeforeCommit) {
		b.acknowledge()
	}
	l.apply(result)
	for _, change := range b.committed.record.GetTenants() {
		l.limitTenant(ledger.TenantID(change.GetId()))
	}
	l.settle(b.outcomes)
	if len(b.committed.record.GetReplays()) > 0 {
		select {
		case l.leader.replays <- struct{}{}:
		default:
		}
	}
	if len(b.committed.record.GetAdmits()) > 0 {
		l.startCatchUp()
	}
	if b.committed.record.GetExpireBefore() > l.ledger.Floor() {
		l.expireOld() // one record expires only so many
	}
	l.leader.metrics.committed(ctx, b, result)
	return nil
}

// settle tells the sessions which of their outcomes are durable.
func (l *loop) settle(outcomes []reported) {
	for _, r := range outcomes {
		if r.outcome == nil {
			r.session.durable(r.batch)
			continue
		}
		// If the ledger counted it, nobody holds it any more; else it was
		// stale, and what is owed waits again.
		l.dispatch.Return(r.session.id, deliveryOf(r.outcome))
	}
}

// acknowledge answers those who wait for the block's events.
func (b *block) acknowledge() {
	for _, e := range b.events {
		e.call.answer(e.index, false)
	}
	for _, e := range b.repeats {
		e.call.answer(e.index, true)
	}
}

// apply tells the dispatch machine and the workers what a record changed.
func (l *loop) apply(result ledger.Result) {
	for _, s := range result.Subscriptions {
		l.applySubscription(s)
	}
	for i, d := range result.Deliveries {
		switch d.Kind {
		case ledger.Owed:
			l.dispatch.OweInLane(d.Delivery, d.Lane, d.Attempts, d.Next)
		case ledger.Retried:
			l.dispatch.OweInLane(d.Delivery, d.Lane, d.Attempts, d.Next)
			l.narrow(result.Deliveries[:i], d)
		case ledger.Delivered:
			l.dispatch.End(d.Delivery)
			l.dispatch.Succeeded(d.Subscription)
		case ledger.Died:
			l.dispatch.End(d.Delivery)
			l.narrow(result.Deliveries[:i], d)
		case ledger.Expired, ledger.Cancelled:
			l.dispatch.End(d.Delivery)
		case ledger.Rescheduled: // together with all that its subscription is owed
			if i == 0 || result.Deliveries[i-1].Kind != d.Kind || result.Deliveries[i-1].Subscription != d.Subscription {
				l.dispatch.Hasten(d.Subscription, d.Next)
			}
		}
	}
	for _, s := range result.Reordered {
		l.dispatch.Reorder(s.Number, s.Lane)
	}
	for _, s := range result.Paced {
		l.setPace(s)
	}
	l.reportExpired(result.Expired)
}

// narrow takes a failed attempt, behind those that a record has before it. How
// much an endpoint can take is the worker's to find out, by what each request
// meets; the window here follows by the same rule, so that it is never what keeps
// the worker from sending: what an endpoint refuses for what it is narrows
// neither of them, and what failed in one request counts once.
func (l *loop) narrow(before []ledger.DeliveryChange, d ledger.DeliveryChange) {
	if !ledger.EndpointFailed(d.Outcome) || d.Outcome.GetErrorClass() == classCanceled {
		return
	}
	if n := len(before); n > 0 && sameRequest(before[n-1], d) {
		return
	}
	l.dispatch.Failed(d.Subscription)
}

// classCanceled is the error class of an attempt that its worker ended.
const classCanceled = "canceled"

// sameRequest reports whether two attempts were one request, of a batch: they
// began and took alike.
func sameRequest(a, b ledger.DeliveryChange) bool {
	return a.Subscription == b.Subscription && a.Worker == b.Worker && a.Outcome != nil &&
		a.Outcome.GetStartTimeUnixMs() == b.Outcome.GetStartTimeUnixMs() && a.Outcome.GetLatencyUs() == b.Outcome.GetLatencyUs()
}

// expiredShown is of how many subscriptions one record's expiry is logged: all
// that are dead may be at the same place in the log.
const expiredShown = 10

func (l *loop) reportExpired(expired []ledger.Range) {
	for _, r := range expired[:min(len(expired), expiredShown)] {
		l.leader.logger.Warn("events expired before they could be sent: retention is over",
			"subscription", l.ledger.Subscription(r.Subscription).ID(), "from", r.From.String(), "until", r.Until.String())
	}
	if more := len(expired) - expiredShown; more > 0 {
		l.leader.logger.Warn("events expired before they could be sent: retention is over", "more_subscriptions", more)
	}
}

func (l *loop) applySubscription(s ledger.SubscriptionChange) {
	slot := l.dispatch.SlotOf(s.Number)
	if s.Current == nil {
		l.dispatch.Delete(s.Number)
		l.open.set(s.Number, false)
	} else {
		l.dispatch.Put(s.Number)
		l.configure(s.Current)
		l.dispatch.Join(s.Number, s.Current.Tenant)
	}
	for _, session := range l.sessions {
		if session.claimed[slot] {
			session.subscriptionChanged(slot, s)
		}
	}
}

func deliveryOf(o *linkv1.Outcome) ledger.Delivery {
	return ledger.Delivery{
		Subscription: ledger.Number(o.GetSubscription()),
		Position:     ledger.Position{Sequence: o.GetSequence(), Index: o.GetIndex()},
	}
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// agent is the worker's side of one partition, over all sessions with all of
// its leaders: what it owns there, what it has in hand, and what it has to
// report. run keeps a session open while there is any of the three.
//
// Locks are taken in the order agent.mu, launcher.mu.
type agent struct {
	link      linkConfig
	partition int32
	launcher  *launcher
	settled   func() // called when there may be nothing left to report

	wake chan struct{} // capacity 1; has run look again

	mu     sync.Mutex
	leader cluster.PartitionReady // guarded by mu; zero: not known

	creditBytes uint64 // guarded by mu; that the leader is granted

	slots   map[int32]*slot  // guarded by mu; those the worker owns
	homes   map[uint64]int32 // guarded by mu; subscription -> slot, of all endpoints the launcher has
	hand    hand             // guarded by mu
	box     outbox           // guarded by mu
	due     time.Time        // guarded by mu; when the pending outcomes are to be sent
	session *session         // guarded by mu; nil: none is open
}

// linkConfig is what the links to all leaders have in common.
type linkConfig struct {
	worker      cluster.MemberID
	incarnation string
	version     string
	creditCount uint32
	creditBytes uint64
	dialOptions []grpc.DialOption
	jitter      *jitter
	logger      *slog.Logger
}

// slot is a shard of the partition that the worker owns.
type slot struct {
	epoch int64
	// What a snapshot under way has named so far; nil if none is. What it
	// does not name when it is complete is gone.
	named map[uint64]struct{}
}

// Why a session ends without a fault of either side.
var (
	errLeaderMoved = errors.New("another leader is ready")
	errNothingLeft = errors.New("nothing left to say")
)

func newAgent(link linkConfig, partition int32, launcher *launcher, settled func()) *agent {
	link.logger = link.logger.With("partition", partition)
	return &agent{
		link: link, partition: partition, launcher: launcher, settled: settled,
		creditBytes: link.creditBytes,

		wake:  make(chan struct{}, 1),
		slots: make(map[int32]*slot),
		homes: make(map[uint64]int32),
		hand:  newHand(),
	}
}

// lead says who leads the partition now. A session with another leader ends.
func (a *agent) lead(ready cluster.PartitionReady) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leader == ready {
		return
	}
	a.leader = ready
	if a.session != nil {
		a.session.cancel(errLeaderMoved)
	}
	notify(a.wake)
}

// own says which slots the worker owns now, with their epochs. Of a slot that
// it has lost, also if it has won it back since, what is queued is handed back
// and nothing more is started when own returns; then the slot is released.
func (a *agent) own(slots map[int32]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for number, s := range a.slots {
		if epoch, ok := slots[number]; !ok || epoch != s.epoch {
			a.giveUp(number)
		}
	}
	if a.session == nil || !a.session.welcomed {
		a.abandonLocked() // whoever is next is not told what is on the wire
	}
	for _, number := range slices.Sorted(maps.Keys(slots)) {
		if _, ok := a.slots[number]; !ok {
			a.slots[number] = &slot{epoch: slots[number]}
			a.claim(number)
		}
	}
	notify(a.wake)
}

// giveUp ends the ownership of a slot. Called with mu held.
func (a *agent) giveUp(number int32) {
	delete(a.slots, number)
	for subscription, home := range a.homes {
		if home == number {
			a.removeEndpoint(subscription)
		}
	}
	a.seal()
	a.post(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Release{
		Release: &linkv1.Release{Slot: number},
	}})
}

// claim tells the leader that the worker owns a slot. Called with mu held.
func (a *agent) claim(number int32) {
	s := a.slots[number]
	s.named = make(map[uint64]struct{})
	a.post(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Claim{
		Claim: &linkv1.Claim{Slot: number, Epoch: s.epoch, InHand: a.hand.ofSlot(number)},
	}})
}

// putEndpoint adds or changes an endpoint of a slot. Called with mu held.
func (a *agent) putEndpoint(number int32, e *linkv1.Endpoint) {
	a.homes[e.GetNumber()] = number
	a.launcher.put(endpointID{a.partition, e.GetNumber()}, newRoute(e))
	if named := a.slots[number].named; named != nil {
		named[e.GetNumber()] = struct{}{}
	}
}

// removeEndpoint takes an endpoint away, and hands back what is queued for it.
// Called with mu held.
func (a *agent) removeEndpoint(subscription uint64) {
	delete(a.homes, subscription)
	for _, d := range a.launcher.remove(endpointID{a.partition, subscription}) {
		a.endLocked(d, d.newOutcome(linkv1.Outcome_RETURNED))
	}
	a.returnUnqueued(subscription)
}

// returnUnqueued hands back what waits for others of its lane. Called with mu
// held.
func (a *agent) returnUnqueued(subscription uint64) {
	for _, d := range a.hand.unqueued(subscription) {
		a.endLocked(d, d.newOutcome(linkv1.Outcome_RETURNED))
	}
}

// returnAllUnqueued is returnUnqueued for all subscriptions.
func (a *agent) returnAllUnqueued() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, subscription := range slices.Sorted(maps.Keys(a.hand.lanes)) {
		a.returnUnqueued(subscription)
	}
}

// end keeps the outcome of a delivery, to be reported.
func (a *agent) end(d *delivery, o *linkv1.Outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endLocked(d, o)
}

// endLocked is end with mu held.
func (a *agent) endLocked(d *delivery, o *linkv1.Outcome) {
	d.outcome = o
	d.message = nil // the event's bytes are needed no more
	if len(a.box.pending) == 0 {
		a.due = time.Now().Add(a.interval())
	}
	a.box.add(o)
	if len(a.box.pending) == 1 || a.box.full(a.batch()) {
		a.rouse()
	}
	if d.lane != 0 {
		a.advance(d)
	}
}

// advance queues what follows in the lane of a delivery that has ended. If that
// was not delivered, what follows is handed back instead. Called with mu held.
func (a *agent) advance(ended *delivery) {
	l := a.hand.lane(ended)
	rest := l.close(ended)
	if ended.outcome.GetKind() != linkv1.Outcome_DELIVERED {
		l.back[ended.ref] = struct{}{}
		// What is queued for the same batch goes back when this one ends.
		rest = rest[min(len(rest), max(0, l.pushed()-(len(l.open)-len(rest)))):]
		l.open = l.open[:len(l.open)-len(rest)]
		for _, d := range rest {
			a.endLocked(d, d.newOutcome(linkv1.Outcome_RETURNED))
		}
	} else if len(rest) > 0 && len(rest) == len(l.open) && !l.open[0].pushed {
		a.queue(l.open[0])
	}
	a.hand.tidy(ended)
}

// queue has a delivery sent, or hands it back. Called with mu held.
func (a *agent) queue(d *delivery) {
	d.pushed = true
	if !a.launcher.push(endpointID{a.partition, d.subscription}, d) {
		a.endLocked(d, d.newOutcome(linkv1.Outcome_RETURNED))
	}
}

// interval and batch are the pace of outcomes that the leader has set. Called
// with mu held.
func (a *agent) interval() time.Duration {
	if a.session == nil || a.session.interval == 0 {
		return defaultOutcomeInterval
	}
	return a.session.interval
}

func (a *agent) batch() int {
	if a.session == nil || a.session.batch == 0 {
		return defaultOutcomeBatch
	}
	return a.session.batch
}

// seal numbers the outcomes that have gathered and posts them. Called with mu
// held.
func (a *agent) seal() {
	for _, batch := range a.box.seal(a.batch()) {
		a.postBatch(batch)
	}
}

func (a *agent) postBatch(batch *linkv1.OutcomeBatch) {
	a.post(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Outcomes{Outcomes: batch}})
}

// post gives a message to the session, if one is open: a new one begins by
// saying everything anyway. Called with mu held.
func (a *agent) post(m *linkv1.AttachRequest) {
	if a.session != nil {
		a.session.outgoing = append(a.session.outgoing, m)
		a.rouse()
	}
}

// rouse has the session look for something to send. Called with mu held.
func (a *agent) rouse() {
	if a.session != nil {
		notify(a.session.wake)
	}
}

// begin opens a session: it says what the worker has, from the start. A new
// leader knows nothing of earlier sessions.
func (a *agent) begin(cancel context.CancelCauseFunc) *session {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session = &session{agent: a, cancel: cancel, wake: make(chan struct{}, 1), granted: a.creditBytes}
	a.post(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{
		Worker:      string(a.link.worker),
		Incarnation: a.link.incarnation,
		Partition:   a.partition,
		CreditCount: a.link.creditCount,
		CreditBytes: a.creditBytes,
		LastDurable: a.box.durable,
		Version:     a.link.version,
		InHand:      a.hand.ofOthers(a.slots),

		TakesDispatchBatches: true,
	}}})
	for _, number := range slices.Sorted(maps.Keys(a.slots)) {
		a.claim(number)
	}
	a.box.keep(a.hand.stands)
	for _, batch := range a.box.sealed {
		a.postBatch(batch)
	}
	return a.session
}

// finish closes the session.
func (a *agent) finish() {
	a.mu.Lock()
	a.session = nil
	a.mu.Unlock()
	a.abandon()
	a.settled()
}

// abandon ends requests whose order only the session vouched for: those of
// lanes in slots that are somebody else's by now, or may be.
func (a *agent) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.abandonLocked()
}

// abandonLocked is abandon with mu held.
func (a *agent) abandonLocked() {
	a.launcher.abortOrdered(func(d *delivery, doubt bool) bool {
		_, owned := a.slots[d.slot]
		return d.agent == a && (doubt || !owned)
	})
}

// next returns what the session has to send now, and otherwise how long there
// will be nothing unless it is roused. done is true when it never will.
func (a *agent) next(s *session) (messages []*linkv1.AttachRequest, wait time.Duration, done bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wait = idleWait
	if len(a.box.pending) > 0 {
		wait = time.Until(a.due)
		if wait <= 0 || a.box.full(a.batch()) {
			a.seal()
		}
	}
	messages, s.outgoing = s.outgoing, nil
	return messages, wait, len(messages) == 0 && a.idle()
}

// idle reports whether there is no reason for a session. Called with mu held.
func (a *agent) idle() bool {
	return len(a.slots) == 0 && len(a.hand.deliveries) == 0 && a.box.empty()
}

// unsettled returns how many deliveries are in hand, and whether the agent has
// still something to do before it can be let go.
func (a *agent) unsettled() (inHand int, busy bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.hand.deliveries), !a.idle() || a.session != nil
}

// wanted returns the leader to attach to, if there is a reason to, and one.
func (a *agent) wanted() (cluster.PartitionReady, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leader, a.leader.Address != "" && !a.idle()
}

// welcome takes the leader's pace.
func (a *agent) welcome(s *session, w *linkv1.Welcome) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.GetEpoch() < a.leader.Epoch {
		return fmt.Errorf("leader of the old epoch %d answered, not %d", w.GetEpoch(), a.leader.Epoch)
	}
	s.welcomed = true
	s.interval = time.Duration(w.GetOutcomeIntervalMs()) * time.Millisecond
	s.batch = int(w.GetOutcomeBatch())
	s.takesCredit = w.GetTakesCredit()
	a.postCredit()
	a.due = time.Now()
	a.rouse()
	return nil
}

// snapshot takes a part of a slot's subscriptions.
func (a *agent) snapshot(part *linkv1.ShardSnapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.slots[part.GetSlot()]
	if !ok || s.epoch != part.GetEpoch() || s.named == nil {
		return // it has crossed a Release, or it is another claim's
	}
	for _, e := range part.GetEndpoints() {
		a.putEndpoint(part.GetSlot(), e)
	}
	if !part.GetComplete() {
		return
	}
	for subscription, home := range a.homes {
		if _, named := s.named[subscription]; home == part.GetSlot() && !named {
			a.removeEndpoint(subscription)
		}
	}
	s.named = nil
}

// change takes a change to one subscription.
func (a *agent) change(delta *linkv1.SubscriptionDelta) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.slots[delta.GetSlot()]
	if !ok {
		return // it has crossed a Release
	}
	if delta.GetPut() != nil {
		a.putEndpoint(delta.GetSlot(), delta.GetPut())
	}
	if delta.GetDeleted() != 0 {
		delete(s.named, delta.GetDeleted())
		a.removeEndpoint(delta.GetDeleted())
	}
}

// dispatchAll is dispatch for several, in their order.
func (a *agent) dispatchAll(dispatches ...*linkv1.Dispatch) error {
	defer a.launcher.poke()
	for _, d := range dispatches {
		if err := a.dispatch(d); err != nil {
			return err
		}
	}
	return nil
}

// dispatch queues an event for the subscriptions it goes to. What the worker
// cannot take goes straight back: subscriptions of slots it has just released,
// and what is far beyond its credit.
func (a *agent) dispatch(d *linkv1.Dispatch) error {
	m := newMessage(d)
	l := &load{bytes: uint64(len(d.GetEvent()))}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, target := range d.GetTargets() {
		r := ref{target.GetSubscription(), d.GetSequence(), d.GetIndex()}
		if !a.hand.wants(r, target.GetAttempt()) {
			continue
		}
		if len(a.hand.deliveries) >= overrun*int(a.link.creditCount) {
			return fmt.Errorf("leader has sent over %d deliveries, the credit is %d",
				len(a.hand.deliveries), a.link.creditCount)
		}
		a.take(&delivery{
			ref: r, agent: a, attempt: target.GetAttempt(), step: target.GetStep(), lane: target.GetLane(),
			slot: noSlot, message: m, load: l, size: l.bytes,
			traced: i < int(d.GetTracedTargets()) || target.GetAttempt() > 1,
		})
	}
	return nil
}

// take puts one delivery in hand and queues it, or hands it back. Called with
// mu held.
func (a *agent) take(d *delivery) {
	if home, ok := a.homes[d.subscription]; ok {
		d.slot = home
	}
	room := len(a.hand.deliveries) < slack*int(a.link.creditCount) &&
		(d.load.holders > 0 || a.hand.bytes+d.load.bytes <= slack*a.mostBytes())
	if !room {
		d.load = &load{} // its event is not kept
	}
	a.hand.take(d)
	switch {
	case !room:
		a.endLocked(d, d.newOutcome(linkv1.Outcome_RETURNED))
	case d.lane != 0:
		a.takeInLane(d)
	default:
		a.queue(d)
	}
}

// takeInLane lets a delivery wait for those before it. Called with mu held.
func (a *agent) takeInLane(d *delivery) {
	l := a.hand.lane(d)
	if l.broken(d) {
		a.endLocked(d, d.newOutcome(linkv1.Outcome_RETURNED))
		return
	}
	l.open = append(l.open, d)
	if len(l.open) == 1 || l.pushed() == len(l.open)-1 && a.launcher.batches(endpointID{a.partition, d.subscription}) {
		a.queue(d)
	}
}

// begins reports whether deliveries of one subscription can be sent together,
// as far as their order goes.
func (a *agent) begins(deliveries []*delivery) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hand.begins(deliveries)
}

// durable forgets what the leader has made durable.
func (a *agent) durable(number uint64) error {
	a.mu.Lock()
	outcomes, ok := a.box.settle(number)
	for _, o := range outcomes {
		a.hand.forget(o)
	}
	if a.idle() {
		a.rouse()
	}
	a.mu.Unlock()
	if !ok {
		return fmt.Errorf("leader has made outcome batch %d durable, which was never sent", number)
	}
	a.settled()
	return nil
}

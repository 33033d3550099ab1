package dispatch

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// Windows of a subscription: how many of its deliveries may be in hands.
const (
	WindowStart = 16  // until its endpoint has shown what it can do
	WindowMax   = 512 // however well it does; or one batch, if that is more
)

// batchShare is which part of a batch each place in the window of a subscription
// that is sent batches stands for.
const batchShare = 8

// SessionID names a session; each one that attaches gets a new one.
type SessionID uint64

// Worker is who is at the other end of a session.
type Worker struct {
	ID          string
	Incarnation string // of the process
}

// Send says that a delivery goes to a session now.
type Send struct {
	Session SessionID
	ledger.Delivery
	Attempt uint32      // to make, from 1
	Lane    ledger.Lane // the worker keeps its order; NoLane: there is none
}

// Dispatch is the machine. It is for one goroutine at a time.
type Dispatch struct {
	slots         []*slot
	sessions      map[SessionID]*session
	subscriptions map[ledger.Number]*subscription
	timers        heap[*subscription]         // those that look again at a time, by it
	tenants       map[ledger.TenantID]*shared // those that have a rate
	calls         heap[*shared]               // those of which somebody queues, by when the next has a turn
	last          SessionID                   // whose turn it was when Next had enough
	inHand        int
}

// slot is a shard of this partition.
type slot struct {
	epoch   int64
	owner   *session // nil: nobody claimed it, or its owner is gone
	members []ledger.Number
	ready   []*subscription // ring: each has something due and room in its window
	inHand  int             // of the members' deliveries
}

// session is an attached worker, or one that left something behind.
type session struct {
	id       SessionID
	worker   Worker
	attached bool
	granted  Credit // in total
	credit   Credit // what is left of it
	next     int    // slot whose turn it is
	hands    map[ledger.Delivery]struct{}
}

// subscription is one endpoint's queue.
type subscription struct {
	number  ledger.Number
	slot    *slot
	waiting heap[item]                // of a lane, no more than the first
	lanes   *lanes                    // nil: it has none
	hands   map[ledger.Position]*hand // nil at first, and again when there is none of an endpoint that failed
	window  int
	batch   int // how many of its deliveries are sent together at most; 0: each alone
	pace    ledger.Pace
	bucket  *bucket // of its rate; nil: it has none
	tenant  *shared // nil: its tenant has no rate
	ready   bool    // in the slot's ring
	queued  bool    // for a token of its tenant's
	called  bool    // one is there for it
	timer   int     // its index in the timers; -1: it has none
	wake    int64   // unix ms of its timer, if it has one
}

// item is a delivery that waits.
type item struct {
	position ledger.Position
	attempts uint32 // made so far
	lane     ledger.Lane
	due      int64 // unix ms
}

// hand is a delivery in a session's hands.
type hand struct {
	item
	session *session
	bytes   int // charged
}

// New returns a machine for a partition of so many slots.
func New(slots int) *Dispatch {
	d := &Dispatch{
		slots:         make([]*slot, slots),
		sessions:      make(map[SessionID]*session),
		subscriptions: make(map[ledger.Number]*subscription),
		tenants:       make(map[ledger.TenantID]*shared),
		calls: heap[*shared]{
			less:  func(a, b *shared) bool { return a.wake < b.wake },
			moved: func(t *shared, i int) { t.timer = i },
		},
		timers: heap[*subscription]{
			less:  func(a, b *subscription) bool { return a.wake < b.wake },
			moved: func(s *subscription, i int) { s.timer = i },
		},
	}
	for i := range d.slots {
		d.slots[i] = new(slot)
	}
	return d
}

// SlotOf returns the slot that a subscription belongs to.
func (d *Dispatch) SlotOf(number ledger.Number) int {
	return int(uint64(number) % uint64(len(d.slots))) //nolint:gosec // less than the slots
}

// Members returns the subscriptions of a slot in rising order. The slice
// belongs to the machine until its next change.
func (d *Dispatch) Members(slot int) []ledger.Number { return d.slots[slot].members }

// Put makes a subscription known. Putting it again changes nothing.
func (d *Dispatch) Put(number ledger.Number) {
	if d.subscriptions[number] != nil {
		return
	}
	s := &subscription{
		number:  number,
		slot:    d.slots[d.SlotOf(number)],
		window:  WindowStart,
		timer:   -1,
		waiting: heap[item]{less: byDue},
	}
	d.subscriptions[number] = s
	at, _ := slices.BinarySearch(s.slot.members, number)
	s.slot.members = slices.Insert(s.slot.members, at, number)
}

// Delete forgets a subscription and all that it was owed.
func (d *Dispatch) Delete(number ledger.Number) {
	s := d.subscriptions[number]
	if s == nil {
		return
	}
	delete(d.subscriptions, number)
	s.lanes, s.waiting.moved = nil, nil
	for position := range s.hands {
		d.take(s, position)
	}
	s.waiting.items = nil
	d.disarm(s)
	if at, found := slices.BinarySearch(s.slot.members, number); found {
		s.slot.members = slices.Delete(s.slot.members, at, at+1)
	}
}

// Owe says that a delivery is owed and due at a time, in unix ms, after so
// many attempts. If it was in somebody's hands it no longer is; if it waited,
// it waits for the new time. One without attempts is owed for the first time:
// it must be said once only.
func (d *Dispatch) Owe(delivery ledger.Delivery, attempts uint32, due int64) {
	d.OweInLane(delivery, ledger.NoLane, attempts, due)
}

// OweInLane is Owe for a delivery of a lane: it is sent to nobody before all
// that is older in its lane has ended, or is on its way to the session that it
// would be sent to.
func (d *Dispatch) OweInLane(delivery ledger.Delivery, lane ledger.Lane, attempts uint32, due int64) {
	s := d.subscriptions[delivery.Subscription]
	if s == nil {
		return
	}
	if d.take(s, delivery.Position) == nil && attempts > 0 {
		d.drop(s, delivery.Position)
	}
	d.wait(s, item{delivery.Position, attempts, lane, due})
}

// End says that a delivery is no longer owed.
func (d *Dispatch) End(delivery ledger.Delivery) {
	s := d.subscriptions[delivery.Subscription]
	if s != nil && d.take(s, delivery.Position) == nil {
		d.drop(s, delivery.Position)
	}
}

// drop removes a delivery that waits, if it does. Then somebody reported late
// on what was taken from them: that is rare, and worth no index.
func (d *Dispatch) drop(s *subscription, position ledger.Position) {
	if _, waits := s.pull(position); waits {
		d.arm(s) // there may be another in its place
	}
}

// Succeeded and Failed move a subscription's window: Failed is for what says
// that the endpoint is not well, once for each request.
func (d *Dispatch) Succeeded(number ledger.Number) {
	if s := d.subscriptions[number]; s != nil {
		s.window = min(s.window+1, WindowMax)
		d.arm(s)
	}
}

// Failed halves a subscription's window; see Succeeded.
func (d *Dispatch) Failed(number ledger.Number) {
	if s := d.subscriptions[number]; s != nil {
		s.window = max(s.window/2, 1)
	}
}

// Batch says how many of a subscription's deliveries are sent together at most.
func (d *Dispatch) Batch(number ledger.Number, count int) {
	if s := d.subscriptions[number]; s != nil {
		s.batch = count
		d.arm(s)
	}
}

// SetPace says how a subscription may be sent to from now on.
func (d *Dispatch) SetPace(number ledger.Number, pace ledger.Pace) {
	if s := d.subscriptions[number]; s != nil {
		s.pace = pace
		d.arm(s)
	}
}

// Hasten says that all that a subscription is owed is due at a time, in unix ms,
// at the latest: what waits, and what is handed back.
func (d *Dispatch) Hasten(number ledger.Number, due int64) {
	if s := d.subscriptions[number]; s != nil {
		s.hasten(due)
		d.arm(s)
	}
}

// Attach makes a session known that takes as much as its credit says.
func (d *Dispatch) Attach(id SessionID, worker Worker, credit Credit) {
	d.sessions[id] = &session{
		id: id, worker: worker, attached: true, granted: credit, credit: credit,
		hands: make(map[ledger.Delivery]struct{}),
	}
}

// Grant changes how much a session takes: in total, what it has included.
func (d *Dispatch) Grant(id SessionID, credit Credit) {
	if s := d.sessions[id]; s != nil {
		s.credit.Regrant(s.granted, credit)
		s.granted = credit
	}
}

// Claim gives a slot to a session, with what the worker says it still has of
// it in hand. It reports false, and changes nothing, if a session has claimed
// the slot with a higher epoch.
func (d *Dispatch) Claim(id SessionID, number int, epoch int64, inHand []ledger.Delivery) bool {
	owner := d.sessions[id]
	if owner == nil || number < 0 || number >= len(d.slots) || epoch < d.slots[number].epoch {
		return false
	}
	slot := d.slots[number]
	slot.owner, slot.epoch = owner, epoch
	declared := make(map[ledger.Delivery]struct{}, len(inHand))
	for _, delivery := range inHand {
		declared[delivery] = struct{}{}
	}
	for _, member := range slot.members {
		d.reclaim(d.subscriptions[member], owner, declared)
	}
	for _, delivery := range inHand {
		d.adopt(delivery, slot)
	}
	return true
}

// reclaim settles, for one subscription of a slot with a new owner, who has
// what.
func (d *Dispatch) reclaim(s *subscription, owner *session, declared map[ledger.Delivery]struct{}) {
	if len(s.hands) == 0 {
		return
	}
	for _, position := range slices.SortedFunc(maps.Keys(s.hands), ledger.Position.Compare) {
		h := s.hands[position]
		_, has := declared[ledger.Delivery{Subscription: s.number, Position: position}]
		has = has && h.session.worker == owner.worker
		if h.session == owner || h.session.attached && !has {
			continue // it stays with who has it
		}
		d.take(s, position)
		if has {
			d.hold(s, owner, h.item)
		} else {
			d.wait(s, h.item)
		}
	}
}

// adopt puts a delivery that waits, but that the slot's owner says it has,
// into the owner's hands. One that is not owed is left to its outcome.
func (d *Dispatch) adopt(delivery ledger.Delivery, slot *slot) {
	s := d.subscriptions[delivery.Subscription]
	if s == nil || s.slot != slot {
		return
	}
	if it, waits := s.pull(delivery.Position); waits {
		d.hold(s, slot.owner, it)
	}
}

// Keep puts into a session's hands what the worker says it still has of slots
// that it does not own any more. What is in other hands stays there, unless it
// is in those of an earlier session of the same worker; what is not owed is left
// to its outcome.
func (d *Dispatch) Keep(id SessionID, inHand []ledger.Delivery) {
	keeper := d.sessions[id]
	if keeper == nil {
		return
	}
	for _, delivery := range inHand {
		s := d.subscriptions[delivery.Subscription]
		if s == nil {
			continue
		}
		if h := s.hands[delivery.Position]; h != nil {
			if !h.session.attached && h.session.worker == keeper.worker {
				d.hold(s, keeper, d.take(s, delivery.Position).item)
			}
			continue
		}
		if it, waits := s.pull(delivery.Position); waits {
			d.hold(s, keeper, it)
		}
	}
}

// Release takes a slot from a session. What the session has in hand it keeps.
func (d *Dispatch) Release(id SessionID, number int) {
	if number < 0 || number >= len(d.slots) {
		return
	}
	if slot := d.slots[number]; slot.owner != nil && slot.owner.id == id {
		slot.owner = nil
	}
}

// Detach ends a session. What it had in hand waits again where somebody else
// owns the slot by now; elsewhere it stays until somebody claims it.
func (d *Dispatch) Detach(id SessionID) {
	gone := d.sessions[id]
	if gone == nil {
		return
	}
	gone.attached = false
	delete(d.sessions, id)
	for _, slot := range d.slots {
		if slot.owner == gone {
			slot.owner = nil
		}
	}
	for _, delivery := range slices.SortedFunc(maps.Keys(gone.hands), compare) {
		s := d.subscriptions[delivery.Subscription]
		if s.slot.owner != nil {
			d.wait(s, d.take(s, delivery.Position).item)
		}
	}
}

// Holds reports whether a delivery is in a session's hands.
func (d *Dispatch) Holds(id SessionID, delivery ledger.Delivery) bool {
	if s := d.sessions[id]; s != nil {
		_, holds := s.hands[delivery]
		return holds
	}
	return false
}

// Return takes a delivery that was not attempted out of a session's hands. It
// waits again, due as before.
func (d *Dispatch) Return(id SessionID, delivery ledger.Delivery) {
	if d.Holds(id, delivery) {
		s := d.subscriptions[delivery.Subscription]
		s.refund()
		d.wait(s, d.take(s, delivery.Position).item)
	}
}

// Charge takes the bytes of a delivery just sent from the session's credit.
// Before it is called nothing follows in the delivery's lane.
func (d *Dispatch) Charge(send Send, bytes int) {
	if d.Holds(send.Session, send.Delivery) {
		s := d.subscriptions[send.Subscription]
		h := s.hands[send.Position]
		h.bytes += bytes
		h.session.credit.Charge(bytes)
		if h.lane != ledger.NoLane {
			s.departed(h.item)
			d.arm(s)
		}
	}
}

// Next returns what to send at a time, in unix ms: at most so many, each of
// them in its session's hands from now on. It returns one delivery of a
// subscription at the most: called until it returns nothing, it leaves nothing
// that could be sent. The sends of a session follow each other, so that those
// of one event can travel together; where there are too many, the session
// whose turn it was is the last to have one in the next call.
func (d *Dispatch) Next(now int64, most int) []Send {
	for {
		d.rouse(now)
		sends := d.turns(now, most)
		// What was passed over may have let others in: who gave way to its
		// lane, or queued for a token that is there.
		if at, ok := d.Wake(); len(sends) > 0 || !ok || at > now {
			return sends
		}
	}
}

// rouse lets those have their turn whose time has come.
func (d *Dispatch) rouse(now int64) {
	for len(d.calls.items) > 0 && d.calls.items[0].wake <= now {
		d.callNext(d.calls.items[0], now)
	}
	for len(d.timers.items) > 0 && d.timers.items[0].wake <= now {
		s := d.timers.items[0]
		d.disarm(s)
		d.ready(s)
	}
}

// turns gives each session its turns.
func (d *Dispatch) turns(now int64, most int) []Send {
	var sends []Send
	for _, session := range d.round() {
		for session.credit.Open() {
			if len(sends) >= most {
				return sends
			}
			send, ok := d.turn(session, now)
			if !ok {
				break
			}
			sends = append(sends, send)
			d.last = session.id
		}
	}
	return sends
}

// round returns the sessions in the order of their turns.
func (d *Dispatch) round() []*session {
	ids := slices.Sorted(maps.Keys(d.sessions))
	after, _ := slices.BinarySearch(ids, d.last+1)
	sessions := make([]*session, 0, len(ids))
	for _, id := range slices.Concat(ids[after:], ids[:after]) {
		sessions = append(sessions, d.sessions[id])
	}
	return sessions
}

// turn takes one delivery for a session from the next of its slots that has
// something ready.
func (d *Dispatch) turn(owner *session, now int64) (Send, bool) {
	for range d.slots {
		slot := d.slots[owner.next]
		owner.next = (owner.next + 1) % len(d.slots)
		if slot.owner != owner {
			continue
		}
		for len(slot.ready) > 0 {
			s := slot.ready[0]
			slot.ready = slot.ready[1:]
			s.ready = false
			if d.subscriptions[s.number] != s || !s.open() || s.due() > now {
				d.arm(s)
				continue
			}
			if !d.admits(s, now) {
				continue // it is called
			}
			it, ok := s.pick()
			if !ok {
				d.arm(s)
				continue
			}
			s.spend(now)
			owner.credit.Take()
			d.place(s, owner, owner, it)
			d.arm(s)
			delivery := ledger.Delivery{Subscription: s.number, Position: it.position}
			return Send{owner.id, delivery, it.attempts + 1, s.sendLane(it.lane)}, true
		}
	}
	return Send{}, false
}

// Wake returns when Next may have something that it does not have now, in unix
// ms; ok is false when only another input can bring that about.
func (d *Dispatch) Wake() (at int64, ok bool) {
	at = math.MaxInt64
	if len(d.timers.items) > 0 {
		at, ok = d.timers.items[0].wake, true
	}
	if len(d.calls.items) > 0 {
		at, ok = min(at, d.calls.items[0].wake), true
	}
	if !ok {
		at = 0
	}
	return at, ok
}

// SlotState is what a slot looks like from outside.
type SlotState struct {
	Worker        string // its owner's id; empty if it has none attached
	Epoch         int64
	Subscriptions int
	InHand        int
}

// Slot returns the state of a slot.
func (d *Dispatch) Slot(number int) SlotState {
	slot := d.slots[number]
	state := SlotState{Epoch: slot.epoch, Subscriptions: len(slot.members), InHand: slot.inHand}
	if slot.owner != nil {
		state.Worker = slot.owner.worker.ID
	}
	return state
}

// InHand returns how many deliveries are in hands.
func (d *Dispatch) InHand() int { return d.inHand }

// open reports whether the subscription has something waiting and room for it.
func (s *subscription) open() bool {
	most := s.room()
	switch {
	case s.pace.Stopped:
		most = 0
	case s.pace.Probing:
		most = 1
	}
	return len(s.waiting.items) > 0 && len(s.hands) < most
}

// room returns how many of its deliveries may be in hands by its window, which
// counts requests: of one that is sent batches, enough for a batch to fill. What
// counts for one that fails is an eighth of a batch, so that it soon holds no
// more of a worker's credit than others can.
func (s *subscription) room() int {
	if s.batch <= batchShare {
		return s.window
	}
	return min(s.window*(s.batch/batchShare), max(WindowMax, s.batch))
}

// due returns when the next delivery is due; it must be open.
func (s *subscription) due() int64 {
	due := max(s.waiting.items[0].due, s.pace.After)
	if s.pace.Probing {
		due = max(s.pace.Probe, s.pace.After)
	}
	if s.bucket != nil {
		due = max(due, s.bucket.due())
	}
	return due
}

// pick takes the next delivery out of the heap: the one due first or, of an
// endpoint that is probed, the oldest or the newest. It takes none, and returns
// false, if that may no longer follow what is in hands of its lane.
func (s *subscription) pick() (item, bool) {
	best := 0
	if s.pace.Probing {
		for i, it := range s.waiting.items {
			if order := it.position.Compare(s.waiting.items[best].position); order < 0 != s.pace.Newest && order != 0 {
				best = i
			}
		}
	}
	it := s.waiting.items[best]
	if it.lane == ledger.NoLane {
		return s.waiting.remove(best), true
	}
	l := s.lane(it.lane)
	if !s.follows(l, it.position) {
		s.withdraw(l)
		return item{}, false
	}
	s.waiting.remove(best)
	l.offered = -1
	return it, true
}

// hasten makes all that waits or is in hands due at a time at the latest.
func (s *subscription) hasten(due int64) {
	items := s.waiting.items
	s.waiting.items = nil
	for _, it := range items {
		it.due = min(it.due, due)
		s.waiting.push(it)
	}
	for _, h := range s.hands {
		h.due = min(h.due, due)
	}
	if s.lanes == nil {
		return
	}
	for _, l := range s.lanes.all {
		for i := range l.rest {
			l.rest[i].due = min(l.rest[i].due, due)
		}
	}
}

func (s *subscription) indexOf(position ledger.Position) int {
	return slices.IndexFunc(s.waiting.items, func(it item) bool { return it.position == position })
}

// wait puts a delivery into its subscription's heap.
func (d *Dispatch) wait(s *subscription, it item) {
	s.enqueue(it)
	d.arm(s)
}

// arm sees to it that a subscription with something to send and room for it
// has its turn when that is due. In the ring, it finds out then.
func (d *Dispatch) arm(s *subscription) {
	if s.ready || s.queued || !s.open() || d.subscriptions[s.number] != s {
		return
	}
	due := s.due()
	if s.timer >= 0 && s.wake <= due {
		return
	}
	d.disarm(s)
	s.wake = due
	d.timers.push(s)
}

// disarm takes a subscription's timer away, if it has one.
func (d *Dispatch) disarm(s *subscription) {
	if s.timer >= 0 {
		d.timers.remove(s.timer)
		s.timer = -1
	}
}

func (d *Dispatch) ready(s *subscription) {
	if !s.ready && !s.queued && s.open() && d.subscriptions[s.number] == s {
		s.ready = true
		s.slot.ready = append(s.slot.ready, s)
	}
}

// hold takes credit for a delivery that a worker has already, whether the
// credit reaches or not, and puts it into its hands.
func (d *Dispatch) hold(s *subscription, owner *session, it item) {
	owner.credit.Take()
	d.place(s, owner, nil, it)
}

// place puts a delivery into a session's hands. in is as in subscription.hold.
func (d *Dispatch) place(s *subscription, owner, in *session, it item) {
	if s.hands == nil {
		s.hands = make(map[ledger.Position]*hand)
	}
	if it.lane != ledger.NoLane {
		s.hold(it, in)
	}
	s.hands[it.position] = &hand{item: it, session: owner}
	owner.hands[ledger.Delivery{Subscription: s.number, Position: it.position}] = struct{}{}
	s.slot.inHand++
	d.inHand++
}

// take removes a delivery from whoever has it in hand and gives the credit
// back. It returns nil if nobody has.
func (d *Dispatch) take(s *subscription, position ledger.Position) *hand {
	h := s.hands[position]
	if h == nil {
		return nil
	}
	delete(s.hands, position)
	if len(s.hands) == 0 && s.window < WindowStart {
		s.hands = nil // of the dead there may be very many
	}
	delete(h.session.hands, ledger.Delivery{Subscription: s.number, Position: position})
	h.session.credit.Give(h.bytes)
	s.slot.inHand--
	d.inHand--
	if h.lane != ledger.NoLane && d.subscriptions[s.number] == s {
		s.free(h.item)
	}
	d.arm(s)
	return h
}

func compare(a, b ledger.Delivery) int {
	return cmp.Or(cmp.Compare(a.Subscription, b.Subscription), a.Position.Compare(b.Position))
}

package dispatch

import (
	"cmp"
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

// wait puts a delivery into its subscription's heap.
func (d *Dispatch) wait(s *subscription, it item) {
	s.enqueue(it)
	d.arm(s)
}

// arm sees to it that a subscription with something to send and room for it
// has its turn when that is due. In the ring, it finds out then.
func (d *Dispatch) arm(s *subscription) {
	if s.ready || s.queued || s.at != nil || !s.open() || d.subscriptions[s.number] != s {
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
	if !s.ready && !s.queued && s.at == nil && s.open() && d.subscriptions[s.number] == s {
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
	h := &hand{item: it, session: owner}
	if s.site != "" {
		h.site = owner.at(s.site)
		h.site.take()
	}
	s.hands[it.position] = h
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
	if h.site != nil {
		h.site.give(h.bytes)
	}
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

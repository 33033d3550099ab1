package worker

import (
	"slices"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// ref names a delivery within its partition.
type ref struct {
	subscription, sequence uint64
	index                  uint32
}

// noSlot is the slot of a delivery for a subscription that the worker does not
// have.
const noSlot = -1

// delivery is one event in hand for one subscription, from its dispatch until
// its outcome is durable.
type delivery struct {
	ref
	agent   *agent // whose hand it is in
	attempt uint32 // number of the one to make
	step    uint32 // of the schedule, that it is
	lane    uint32 // 0: it is in no order
	traced  bool   // its attempt is recorded whatever comes of it, if its event is traced
	pushed  bool   // it was queued to be sent, which in a lane it may not be yet
	since   int64  // unix ms: when it was queued
	size    uint64 // of its event
	slot    int32
	message *message // nil once it has ended
	load    *load
	outcome *linkv1.Outcome // nil while it is queued or on the wire
}

// load is the event of one dispatch, which all of its deliveries share.
type load struct {
	bytes   uint64
	holders int // deliveries in hand that share it
}

// newOutcome begins the outcome of a delivery.
func (d *delivery) newOutcome(kind linkv1.Outcome_Kind) *linkv1.Outcome {
	return &linkv1.Outcome{
		Kind: kind, Subscription: d.subscription, Sequence: d.sequence, Index: d.index, Attempt: d.attempt,
	}
}

// hand is what a worker has of one partition, and so what its credit there is
// spent on: every delivery that is queued, on the wire, or ended with an
// outcome that is not durable. A pure data structure, not safe for concurrent
// use.
//
// Invariant: bytes is the sum over the distinct loads of all deliveries.
type hand struct {
	deliveries map[ref]*delivery
	bytes      uint64
	lanes      map[uint64]map[uint32]*lane // :: subscription -> its lanes, as far as something is in them
}

func newHand() hand {
	return hand{deliveries: make(map[ref]*delivery), lanes: make(map[uint64]map[uint32]*lane)}
}

// wants reports whether a delivery that was dispatched is new, and not one
// whose end is only not known to the leader yet. A dispatch of one that was
// handed back, or of a later attempt than the one reported, has crossed
// nothing: the leader has read that outcome.
func (h *hand) wants(r ref, attempt uint32) bool {
	d, ok := h.deliveries[r]
	if !ok {
		return true
	}
	if d.outcome == nil {
		return false
	}
	switch d.outcome.GetKind() {
	case linkv1.Outcome_RETURNED:
		return true
	case linkv1.Outcome_RETRY:
		return attempt > d.attempt
	case linkv1.Outcome_DELIVERED, linkv1.Outcome_DEAD, linkv1.Outcome_KIND_UNSPECIFIED:
	}
	return false
}

// take puts a delivery in hand, in place of an ended one of the same name.
func (h *hand) take(d *delivery) {
	if before, ok := h.deliveries[d.ref]; ok {
		h.drop(before)
	}
	h.deliveries[d.ref] = d
	if d.load.holders == 0 {
		h.bytes += d.load.bytes
	}
	d.load.holders++
}

// forget takes the delivery out of hand whose outcome this is. It does nothing
// if the delivery has been dispatched again since.
func (h *hand) forget(o *linkv1.Outcome) {
	if d, ok := h.deliveries[refOf(o)]; ok && d.outcome == o {
		h.drop(d)
	}
}

// stands reports whether an outcome says what there is to say of a delivery. If
// that has been dispatched again since, the leader has read it. To a leader that
// is told what is in hand it would say that the new one has ended so; only that
// it was delivered is true for ever.
func (h *hand) stands(o *linkv1.Outcome) bool {
	d, ok := h.deliveries[refOf(o)]
	return o.GetKind() == linkv1.Outcome_DELIVERED || ok && d.outcome == o
}

func refOf(o *linkv1.Outcome) ref { return ref{o.GetSubscription(), o.GetSequence(), o.GetIndex()} }

func (h *hand) drop(d *delivery) {
	delete(h.deliveries, d.ref)
	d.load.holders--
	if d.load.holders == 0 {
		h.bytes -= d.load.bytes
	}
	if d.lane != 0 {
		delete(h.lane(d).back, d.ref)
		h.tidy(d)
	}
}

// ofSlot returns the names of what is in hand of one slot.
func (h *hand) ofSlot(slot int32) []*linkv1.DeliveryRef {
	var refs []*linkv1.DeliveryRef
	for r, d := range h.deliveries {
		if d.slot == slot {
			refs = append(refs, &linkv1.DeliveryRef{Subscription: r.subscription, Sequence: r.sequence, Index: r.index})
		}
	}
	return refs
}

// ofOthers returns the names of what is in hand of slots that are not among
// the worker's.
func (h *hand) ofOthers(slots map[int32]*slot) []*linkv1.DeliveryRef {
	var refs []*linkv1.DeliveryRef
	for r, d := range h.deliveries {
		if slots[d.slot] == nil {
			refs = append(refs, &linkv1.DeliveryRef{Subscription: r.subscription, Sequence: r.sequence, Index: r.index})
		}
	}
	return refs
}

// maxBatchBytes bounds an outcome batch, well below gRPC's 4 MiB a message.
const maxBatchBytes = 1 << 20

// outcomeOverhead is about what an outcome's numbers take in a batch.
const outcomeOverhead = 64

// outbox holds outcomes until they are durable. They gather in pending, are
// sealed into a numbered batch, and are forgotten when the batch is durable.
// It needs no bound of its own, since every outcome in it belongs to a delivery
// that takes credit. A pure data structure, not safe for concurrent use.
type outbox struct {
	pending      []*linkv1.Outcome
	pendingBytes int
	sealed       []*linkv1.OutcomeBatch // by rising number, without gaps
	last         uint64                 // number of the last batch sealed
	durable      uint64                 // number of the last batch known to be durable
}

// add gathers an outcome.
func (b *outbox) add(o *linkv1.Outcome) {
	b.pending = append(b.pending, o)
	b.pendingBytes += outcomeSize(o)
}

// full reports whether what has gathered is worth a batch of its own.
func (b *outbox) full(count int) bool {
	return len(b.pending) >= count || b.pendingBytes >= maxBatchBytes
}

// seal makes batches of at most count outcomes of all that has gathered, and
// returns them.
func (b *outbox) seal(count int) []*linkv1.OutcomeBatch {
	from := len(b.sealed)
	for len(b.pending) > 0 {
		n, size := 0, 0
		for n < min(count, len(b.pending)) && (n == 0 || size+outcomeSize(b.pending[n]) <= maxBatchBytes) {
			size += outcomeSize(b.pending[n])
			n++
		}
		b.last++
		b.sealed = append(b.sealed, &linkv1.OutcomeBatch{Number: b.last, Outcomes: b.pending[:n:n]})
		b.pending = b.pending[n:]
	}
	b.pending, b.pendingBytes = nil, 0
	return b.sealed[from:]
}

// settle forgets the batches up to number and returns their outcomes. It
// returns false for a number that was never given to a batch.
func (b *outbox) settle(number uint64) ([]*linkv1.Outcome, bool) {
	if number > b.last {
		return nil, false
	}
	var outcomes []*linkv1.Outcome
	for len(b.sealed) > 0 && b.sealed[0].GetNumber() <= number {
		outcomes = append(outcomes, b.sealed[0].GetOutcomes()...)
		b.sealed[0] = nil // the array lives on behind the slice
		b.sealed = b.sealed[1:]
	}
	b.durable = max(b.durable, number)
	return outcomes, true
}

// keep lets go of the outcomes that do not stand. Their batches stay, by their
// numbers.
func (b *outbox) keep(stands func(*linkv1.Outcome) bool) {
	falls := func(o *linkv1.Outcome) bool { return !stands(o) }
	for i, batch := range b.sealed {
		if slices.ContainsFunc(batch.GetOutcomes(), falls) { // a new one: the old may be on its way
			b.sealed[i] = &linkv1.OutcomeBatch{
				Number: batch.GetNumber(), Outcomes: slices.DeleteFunc(slices.Clone(batch.GetOutcomes()), falls),
			}
		}
	}
	b.pending = slices.DeleteFunc(b.pending, falls)
	b.pendingBytes = 0
	for _, o := range b.pending {
		b.pendingBytes += outcomeSize(o)
	}
}

// empty reports whether there is nothing left to report.
func (b *outbox) empty() bool {
	return len(b.pending) == 0 && len(b.sealed) == 0
}

func outcomeSize(o *linkv1.Outcome) int {
	return outcomeOverhead + len(o.GetError()) + len(o.GetResponseBody())
}

package worker

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

func TestHandCountsSharedEventsOnce(t *testing.T) {
	h := newHand()
	l := &load{bytes: 100}
	first := &delivery{ref: ref{1, 7, 0}, load: l, slot: 1}
	second := &delivery{ref: ref{2, 7, 0}, load: l, slot: 2}
	h.take(first)
	h.take(second)
	if h.bytes != 100 {
		t.Errorf("two deliveries of one event count %d bytes, want 100", h.bytes)
	}
	if got := h.ofSlot(2); len(got) != 1 || got[0].GetSubscription() != 2 {
		t.Errorf("slot 2 holds %v", got)
	}
	for _, d := range []*delivery{first, second} {
		if h.bytes != 100 {
			t.Errorf("with a delivery left the event counts %d bytes, want 100", h.bytes)
		}
		d.outcome = d.newOutcome(linkv1.Outcome_DELIVERED)
		h.forget(d.outcome)
	}
	if h.bytes != 0 || len(h.deliveries) != 0 {
		t.Errorf("left: %d bytes, %d deliveries", h.bytes, len(h.deliveries))
	}
}

func TestHandWants(t *testing.T) {
	tests := []struct {
		name     string
		ended    linkv1.Outcome_Kind // unspecified: it has not
		attempt  uint32
		wantsOne bool
	}{
		{"the same one twice", linkv1.Outcome_KIND_UNSPECIFIED, 2, false},
		{"a later attempt of one on the wire", linkv1.Outcome_KIND_UNSPECIFIED, 3, false},
		{"one delivered", linkv1.Outcome_DELIVERED, 3, false},
		{"one dead", linkv1.Outcome_DEAD, 3, false},
		{"one handed back", linkv1.Outcome_RETURNED, 2, true},
		{"the attempt reported as failed", linkv1.Outcome_RETRY, 2, false},
		{"the attempt after it", linkv1.Outcome_RETRY, 3, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHand()
			d := &delivery{ref: ref{1, 7, 0}, attempt: 2, load: &load{bytes: 5}}
			if !h.wants(d.ref, 2) {
				t.Error("a new one is not wanted")
			}
			h.take(d)
			if test.ended != linkv1.Outcome_KIND_UNSPECIFIED {
				d.outcome = d.newOutcome(test.ended)
			}
			if got := h.wants(d.ref, test.attempt); got != test.wantsOne {
				t.Errorf("wants = %v, want %v", got, test.wantsOne)
			}
		})
	}
}

// The outcome of an earlier stay in hand must not end a later one.
func TestHandForgetsOnlyTheRightStay(t *testing.T) {
	h := newHand()
	before := &delivery{ref: ref{1, 7, 0}, load: &load{bytes: 5}}
	h.take(before)
	before.outcome = before.newOutcome(linkv1.Outcome_RETURNED)
	after := &delivery{ref: ref{1, 7, 0}, load: &load{bytes: 6}}
	h.take(after)
	h.forget(before.outcome)
	if h.deliveries[after.ref] != after || h.bytes != 6 {
		t.Errorf("in hand: %v, %d bytes; want the later stay and 6", h.deliveries, h.bytes)
	}
}

// What a new session is told again is what stands: not how an earlier stay in
// hand has ended, unless it was delivered.
func TestOutboxKeepsWhatStands(t *testing.T) {
	h, b := newHand(), outbox{}
	ended := func(sequence uint64, kind linkv1.Outcome_Kind, again bool) *linkv1.Outcome {
		d := &delivery{ref: ref{1, sequence, 0}, load: &load{}}
		h.take(d)
		d.outcome = d.newOutcome(kind)
		if again {
			h.take(&delivery{ref: d.ref, load: &load{}})
		}
		return d.outcome
	}
	stays := []*linkv1.Outcome{
		ended(1, linkv1.Outcome_RETURNED, false), ended(2, linkv1.Outcome_RETRY, false), ended(3, linkv1.Outcome_DELIVERED, true),
	}
	goes := []*linkv1.Outcome{ended(4, linkv1.Outcome_RETURNED, true), ended(5, linkv1.Outcome_RETRY, true)}
	for _, o := range slices.Concat(stays, goes) {
		b.add(o)
	}
	b.seal(4)
	before := b.sealed[0]
	b.add(ended(6, linkv1.Outcome_RETURNED, true))
	b.add(ended(7, linkv1.Outcome_DEAD, false))
	b.keep(h.stands)
	if diff := cmp.Diff(map[uint64]int{1: 3, 2: 0}, shape(b.sealed)); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
	if !slices.Equal(b.sealed[0].GetOutcomes(), stays) || len(before.GetOutcomes()) != 4 {
		t.Errorf("kept %v of %v, want %v", b.sealed[0].GetOutcomes(), before.GetOutcomes(), stays)
	}
	if len(b.pending) != 1 || b.pending[0].GetSequence() != 7 || b.pendingBytes != outcomeSize(b.pending[0]) {
		t.Errorf("pending: %v, %d bytes; want the one that stands", b.pending, b.pendingBytes)
	}
}

func TestOutbox(t *testing.T) {
	var b outbox
	add := func(sequences ...uint64) {
		for _, s := range sequences {
			b.add(&linkv1.Outcome{Sequence: s})
		}
	}
	add(1, 2)
	if b.full(3) {
		t.Error("2 of 3 outcomes are said to be full")
	}
	add(3, 4)
	if !b.full(3) {
		t.Error("4 of 3 outcomes are not said to be full")
	}
	if diff := cmp.Diff(map[uint64]int{1: 3, 2: 1}, shape(b.seal(3))); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
	if got := b.seal(3); len(got) != 0 {
		t.Errorf("sealed %v of nothing", got)
	}
	add(5)
	if diff := cmp.Diff(map[uint64]int{3: 1}, shape(b.seal(3))); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
	outcomes, ok := b.settle(2)
	if !ok || len(outcomes) != 4 || b.durable != 2 {
		t.Errorf("settle(2) = %v, %v; durable %d", outcomes, ok, b.durable)
	}
	if outcomes, ok := b.settle(1); !ok || outcomes != nil || b.durable != 2 {
		t.Errorf("settle(1) again = %v, %v; durable %d", outcomes, ok, b.durable)
	}
	if _, ok := b.settle(4); ok {
		t.Error("a batch that was never sealed is settled")
	}
	if _, ok := b.settle(3); !ok || !b.empty() {
		t.Error("not empty at the end")
	}
}

func TestOutboxBoundsBytes(t *testing.T) {
	var b outbox
	body := make([]byte, maxBatchBytes/2)
	for range 3 {
		b.add(&linkv1.Outcome{ResponseBody: body})
	}
	if !b.full(100) {
		t.Error("1.5 batches of bytes are not said to be full")
	}
	if diff := cmp.Diff(map[uint64]int{1: 1, 2: 1, 3: 1}, shape(b.seal(100))); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
}

// shape returns how many outcomes each batch has, by number.
func shape(batches []*linkv1.OutcomeBatch) map[uint64]int {
	sizes := make(map[uint64]int)
	for _, batch := range batches {
		sizes[batch.GetNumber()] = len(batch.GetOutcomes())
	}
	return sizes
}

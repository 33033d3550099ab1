package historytest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// tenant is one of those that appear in the logs of a world.
type tenant struct {
	name          string
	partition     int
	subscriptions []string // ids; the numbers are their indexes
}

// tenants returns them all: two that share a partition, and one apart. Their
// subscriptions have the same ids.
func tenants() []tenant {
	return []tenant{
		{name: "acme", partition: 0, subscriptions: []string{"sub_0", "sub_1", "sub_2"}},
		{name: "acme-2", partition: 0, subscriptions: []string{"sub_0", "sub_1"}},
		{name: "default", partition: 1, subscriptions: []string{"sub_0", "sub_1", "sub_2", "sub_3"}},
	}
}

func types() []string {
	return []string{"order", "order.created", "order.paid", "none"}
}

// world makes up batches as the logs of several partitions could bring them.
// The same seed makes the same batches.
type world struct {
	rng        *rand.Rand
	clock      time.Time
	positions  map[int]uint64
	deliveries map[int][]history.DeliveryRow // by partition, as they began
}

func newWorld(seed uint64) *world {
	return &world{
		rng:        rand.New(rand.NewPCG(seed, seed)), //nolint:gosec // to be repeated, not to be secret
		clock:      time.UnixMilli(1_750_000_000_000).UTC(),
		positions:  make(map[int]uint64),
		deliveries: make(map[int][]history.DeliveryRow),
	}
}

// next returns the next batch of some partition: small mostly, at times large.
func (w *world) next() history.Batch {
	partition := w.rng.IntN(2)
	batch := history.Batch{Partition: partition, Prev: w.positions[partition]}
	batch.Sequence = batch.Prev + 1 + w.rng.Uint64N(3)
	w.positions[partition] = batch.Sequence
	w.fill(&batch)
	if w.rng.IntN(10) == 0 {
		for range 15 {
			w.fill(&batch)
		}
	}
	return batch
}

// fill adds to a batch an event that begins to be owed, and attempts for some
// deliveries of its partition, new and old.
func (w *world) fill(batch *history.Batch) {
	var at []tenant
	for _, tenant := range tenants() {
		if tenant.partition == batch.Partition {
			at = append(at, tenant)
		}
	}
	tenant := pick(w.rng, at)
	event := history.EventRow{Key: w.eventKey(batch), Tenant: tenant.name, Event: w.event()}
	batch.Events = append(batch.Events, event)
	for number, id := range tenant.subscriptions {
		if number > 0 && maybe(w.rng) {
			continue
		}
		row := w.change(history.DeliveryRow{
			Key:    history.DeliveryKey{EventKey: event.Key, Subscription: uint64(number)},
			Tenant: tenant.name, SubscriptionID: id,
		})
		batch.Deliveries = append(batch.Deliveries, row)
		w.deliveries[batch.Partition] = append(w.deliveries[batch.Partition], row)
	}
	for range 3 {
		row := w.change(pick(w.rng, w.deliveries[batch.Partition]))
		batch.Deliveries = append(batch.Deliveries, row)
		batch.Attempts = append(batch.Attempts, w.attempt(row, 1+w.rng.Int32N(12)))
	}
}

// eventKey returns a key that follows the batch's last.
func (w *world) eventKey(batch *history.Batch) history.EventKey {
	key := history.EventKey{Partition: batch.Partition, Sequence: batch.Prev + 1}
	if n := len(batch.Events); n > 0 {
		key = batch.Events[n-1].Key
		key.Index++
	}
	if key.Sequence < batch.Sequence && maybe(w.rng) {
		key.Sequence, key.Index = key.Sequence+1, 0
	}
	return key
}

// event returns one that is published now. The clock often stands.
func (w *world) event() *fanfarev1.Event {
	w.clock = w.clock.Add(time.Duration(w.rng.IntN(3)) * time.Millisecond)
	event := &fanfarev1.Event{
		Id:          fmt.Sprintf("evt_%x", w.rng.Uint64()),
		Type:        pick(w.rng, types()[:3]),
		Source:      "/shop",
		PublishTime: timestamppb.New(w.clock),
	}
	if maybe(w.rng) { // a few events to a trace
		event.Extensions = map[string]string{"traceparent": fmt.Sprintf("00-%032x-00f067aa0ba902b7-01", 1+w.rng.IntN(10))}
	}
	for range w.rng.IntN(1000) {
		event.Data = binary.BigEndian.AppendUint64(event.Data, w.rng.Uint64())
	}
	return event
}

// change returns a delivery after something happened to it.
func (w *world) change(row history.DeliveryRow) history.DeliveryRow {
	row.State = fanfarev1.Delivery_State(1 + w.rng.Int32N(5))
	row.Attempts = w.rng.Int32N(12)
	row.Created = w.clock.Add(time.Duration(w.rng.IntN(3)) * time.Millisecond)
	row.NextAttempt, row.Ended = time.Time{}, time.Time{}
	if row.State == fanfarev1.Delivery_PENDING {
		row.NextAttempt = w.clock.Add(time.Hour)
	} else {
		row.Ended = w.clock
	}
	row.LastStatus = pick(w.rng, []int32{0, 200, 404, 503})
	row.LastErrorClass = pick(w.rng, []string{"", "status", "timeout"})
	return row
}

func (w *world) attempt(row history.DeliveryRow, number int32) history.AttemptRow {
	return history.AttemptRow{Key: row.Key, Tenant: row.Tenant, SubscriptionID: row.SubscriptionID, Attempt: &fanfarev1.Attempt{
		Number:       number,
		Result:       fanfarev1.Attempt_Result(1 + w.rng.Int32N(3)),
		StartTime:    timestamppb.New(w.clock),
		Latency:      durationpb.New(time.Duration(w.rng.IntN(1e6)) * time.Microsecond),
		StatusCode:   pick(w.rng, []int32{0, 200, 503}),
		ErrorClass:   pick(w.rng, []string{"", "status", "timeout"}),
		ResponseBody: string(make([]rune, w.rng.IntN(4096))),
		Worker:       "worker-1",
	}}
}

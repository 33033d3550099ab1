package historytest

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// testContent shows that what is text or bytes comes back as it was, names
// included, and that what was handed in is not changed.
func testContent(t *testing.T, open Open) {
	store := opened(t, open)
	text := "zażółć \U0001f389 e\u0301 ' \" ; -- % ? \x00 end\r\n"
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	at := time.UnixMilli(1_750_000_000_123)
	key := history.DeliveryKey{EventKey: history.EventKey{Partition: 3, Sequence: 1}, Subscription: 40}
	event := &fanfarev1.Event{
		Id: "it's-100%", Type: "a.b", Source: text, Subject: text, DataContentType: "application/x", Data: everyByte,
		DataSchema: "urn:x", OrderingKey: text, Extensions: map[string]string{"a": text, "b": ""},
		Time: &timestamppb.Timestamp{Seconds: 1, Nanos: 999_999_999}, PublishTime: timestamppb.New(at),
	}
	empty := &fanfarev1.Event{Id: "empty", PublishTime: timestamppb.New(at)}
	attempt := &fanfarev1.Attempt{
		Number: 1, Result: fanfarev1.Attempt_RETRY, StartTime: timestamppb.New(at), Latency: durationpb.New(1234567 * time.Microsecond),
		StatusCode: 503, ErrorClass: "status", Error: "nicht verfügbar", ResponseBody: text, Worker: "w-ü",
		NextAttemptTime: timestamppb.New(at.Add(time.Hour)),
	}
	given := proto.CloneOf(event)
	write(t, store, history.Batch{
		Partition: 3, Sequence: 1,
		Events: []history.EventRow{
			{Key: key.EventKey, Tenant: "o'neil", Event: given},
			{Key: history.EventKey{Partition: 3, Sequence: 1, Index: 1}, Tenant: "o'neil", Event: empty},
		},
		Deliveries: []history.DeliveryRow{{
			Key: key, Tenant: "o'neil", SubscriptionID: "sub_ł", State: fanfarev1.Delivery_PENDING, Attempts: 1,
			NextAttempt: at.Add(time.Hour), Created: at, LastStatus: 503, LastErrorClass: "status",
		}},
		Attempts: []history.AttemptRow{
			{Key: key, Tenant: "o'neil", Attempt: attempt},
			{Key: key, Tenant: "o'neil", Attempt: &fanfarev1.Attempt{Number: 2}},
		},
	})
	same(t, "event that was handed in", given, event)

	ctx := t.Context()
	got, err := store.Event(ctx, "o'neil", event.Id)
	if err != nil {
		t.Fatal(err)
	}
	event.Name = "tenants/o'neil/events/it's-100%"
	same(t, "event", got, event)
	if got, err = store.Event(ctx, "o'neil", "empty"); err != nil {
		t.Fatal(err)
	}
	empty.Name = "tenants/o'neil/events/empty"
	same(t, "event without data", got, empty)

	delivery, err := store.Delivery(ctx, "o'neil", key)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "delivery", delivery, &fanfarev1.Delivery{
		Name: "tenants/o'neil/deliveries/dlv_3-1-0-14", Event: event.Name, EventType: "a.b",
		Subscription: "tenants/o'neil/subscriptions/sub_ł", State: fanfarev1.Delivery_PENDING, AttemptCount: 1,
		NextAttemptTime: timestamppb.New(at.Add(time.Hour)), CreateTime: timestamppb.New(at),
		LastStatusCode: 503, LastErrorClass: "status",
	})

	attempts, _, err := store.Attempts(ctx, "o'neil", key, history.Page{Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	attempt.Name = delivery.Name + "/attempts/1"
	sameList(t, "attempts", attempts, []*fanfarev1.Attempt{
		attempt, {Name: delivery.Name + "/attempts/2", Number: 2, Latency: durationpb.New(0)},
	})
}

// testEventIDUsedAgain: after the idempotency window an id can come again.
func testEventIDUsedAgain(t *testing.T, open Open) {
	store := opened(t, open)
	at := time.UnixMilli(1_750_000_000_000)
	batch := history.Batch{Sequence: 2}
	for i := range 2 {
		key := history.EventKey{Sequence: uint64(i) + 1}
		batch.Events = append(batch.Events, history.EventRow{Key: key, Tenant: "acme", Event: &fanfarev1.Event{
			Id: "again", Type: "a", Data: []byte{byte(i)}, PublishTime: timestamppb.New(at.AddDate(0, 0, i)),
		}})
		batch.Deliveries = append(batch.Deliveries, history.DeliveryRow{
			Key: history.DeliveryKey{EventKey: key, Subscription: 1}, Tenant: "acme", State: fanfarev1.Delivery_PENDING, Created: at,
		})
	}
	write(t, store, batch)
	event, err := store.Event(t.Context(), "acme", "again")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(event.Data, []byte{1}) {
		t.Errorf("data of the event: got %v, want the newer one's", event.Data)
	}
	deliveries := all(t, sized(1), func(page history.Page) ([]*fanfarev1.Delivery, string, error) {
		return store.Deliveries(t.Context(), history.DeliveryQuery{Tenant: "acme", EventID: "again"}, page)
	})
	var names []string
	for _, delivery := range deliveries {
		names = append(names, delivery.Name)
	}
	want := []string{"tenants/acme/deliveries/dlv_0-2-0-1", "tenants/acme/deliveries/dlv_0-1-0-1"}
	if !slices.Equal(names, want) {
		t.Errorf("deliveries: got %v, want %v", names, want)
	}
}

// testUnknownEvent: a history made anew from a log that was purged learns of
// outcomes whose events it has not seen.
func testUnknownEvent(t *testing.T, open Open) {
	store := opened(t, open)
	key := history.DeliveryKey{EventKey: history.EventKey{Sequence: 1}, Subscription: 1}
	at := time.UnixMilli(1_750_000_000_000)
	write(t, store, history.Batch{Sequence: 9, Deliveries: []history.DeliveryRow{{
		Key: key, Tenant: "acme", SubscriptionID: "sub_1", State: fanfarev1.Delivery_DELIVERED, Attempts: 1, Created: at, Ended: at,
	}}})
	delivery, err := store.Delivery(t.Context(), "acme", key)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "delivery", delivery, &fanfarev1.Delivery{
		Name: "tenants/acme/deliveries/dlv_0-1-0-1", Subscription: "tenants/acme/subscriptions/sub_1",
		State: fanfarev1.Delivery_DELIVERED, AttemptCount: 1,
		CreateTime: timestamppb.New(at), EndTime: timestamppb.New(at),
	})
	query := history.ScanQuery{Tenant: "acme", States: []fanfarev1.Delivery_State{fanfarev1.Delivery_DELIVERED}}
	sameRows(t, query, scan(t, store, query, history.DeliveryKey{}, 10), []history.ScanRow{
		{Key: key, SubscriptionID: "sub_1", State: fanfarev1.Delivery_DELIVERED, Attempts: 1},
	})
}

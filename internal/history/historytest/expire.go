package historytest

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// begin is when the first of the days began that these tests write.
func begin() time.Time { return time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC) }

// writeDays writes one event a day, with one delivery that was dead after an
// attempt, the newest last. The log still has the events from floor on.
func writeDays(t *testing.T, store history.Store, days int, floor uint64) (keys []history.DeliveryKey) {
	t.Helper()
	for day := range days {
		at := begin().AddDate(0, 0, day)
		key := history.DeliveryKey{EventKey: history.EventKey{Sequence: uint64(day) + 1}, Subscription: 1}
		keys = append(keys, key)
		write(t, store, history.Batch{
			Prev: uint64(day), Sequence: uint64(day) + 1, Floor: floor,
			Events: []history.EventRow{{Key: key.EventKey, Tenant: "acme", Event: &fanfarev1.Event{
				Id: idOf(day), Type: "order", Data: []byte("data"), PublishTime: timestamppb.New(at),
			}}},
			Deliveries: []history.DeliveryRow{{
				Key: key, Tenant: "acme", SubscriptionID: "sub_1", State: fanfarev1.Delivery_DEAD, Attempts: 1, Created: at, Ended: at.Add(time.Second),
			}},
			Attempts: []history.AttemptRow{{Key: key, Tenant: "acme", SubscriptionID: "sub_1", Attempt: &fanfarev1.Attempt{
				Number: 1, Result: fanfarev1.Attempt_DEAD, StartTime: timestamppb.New(at), StatusCode: 503, Latency: durationpb.New(time.Millisecond),
			}}},
		})
	}
	return keys
}

func idOf(day int) string { return begin().AddDate(0, 0, day).Format("evt_20060102") }

// expire removes until there is nothing more to remove.
func expire(t *testing.T, store history.Store, retention history.Retention, now time.Time) (all history.Expired) {
	t.Helper()
	for range 10_000 {
		step, err := store.Expire(t.Context(), retention, now)
		if err != nil {
			t.Fatal(err)
		}
		all.Rows, all.Days, all.Kept = all.Rows+step.Rows, all.Days+step.Days, max(all.Kept, step.Kept)
		if step.Done {
			return all
		}
	}
	t.Fatal("there is no end of what is old")
	return all
}

// testExpiring: payloads, attempts and deliveries go each in its own time.
func testExpiring(t *testing.T, open Open) {
	store := opened(t, open)
	const days = 12
	keys := writeDays(t, store, days, days+1)
	now := begin().AddDate(0, 0, days).Add(time.Minute)
	retention := history.Retention{Payloads: 3 * 24 * time.Hour, Attempts: 6 * 24 * time.Hour, Deliveries: 9 * 24 * time.Hour}
	for range 2 { // what is gone stays gone, and nothing else goes
		expired := expire(t, store, retention, now)
		t.Logf("%+v", expired)
		if expired.Kept != 0 {
			t.Errorf("kept in %d partitions, want none", expired.Kept)
		}
		for day, key := range keys {
			checkExpired(t, store, days-1-day, day, key)
		}
	}
	// And what comes next is written as before.
	wantPosition(t, store, 0, days)
	write(t, store, history.Batch{Prev: days, Sequence: days + 1, Deliveries: []history.DeliveryRow{{
		Key: keys[0], Tenant: "acme", SubscriptionID: "sub_1", State: fanfarev1.Delivery_DELIVERED, Created: begin(), Ended: now,
	}}})
	if _, err := store.Delivery(t.Context(), "acme", keys[0]); err != nil {
		t.Errorf("a delivery that ended after its row was removed: %v", err)
	}
}

// checkExpired wants of a day's event what is to be there after some days.
func checkExpired(t *testing.T, store history.Store, age, day int, key history.DeliveryKey) {
	t.Helper()
	event, err := store.Event(t.Context(), "acme", idOf(day))
	if known := err == nil; known != (age < 9) || (err != nil && !errors.Is(err, history.ErrNotFound)) {
		t.Errorf("event of %d days: %v", age, err)
	}
	if err == nil && (event.DataExpired != (age >= 3) || (string(event.Data) == "data") == event.DataExpired) {
		t.Errorf("event of %d days has the data %q, expired: %v", age, event.Data, event.DataExpired)
	}
	if _, err := store.Delivery(t.Context(), "acme", key); (err == nil) != (age < 9) || (err != nil && !errors.Is(err, history.ErrNotFound)) {
		t.Errorf("delivery of %d days: %v", age, err)
	}
	attempts, _, err := store.Attempts(t.Context(), "acme", key, history.Page{Size: 10})
	if err != nil || (len(attempts) == 1) != (age < 6) {
		t.Errorf("delivery of %d days has %d attempts, %v", age, len(attempts), err)
	}
}

// testKeptForReplay: what the log still has is kept whatever its age, and so is
// what is pending.
func testKeptForReplay(t *testing.T, open Open) {
	store := opened(t, open)
	const days, floor = 6, 4
	keys := writeDays(t, store, days, floor)
	day := 24 * time.Hour
	expired := expire(t, store, history.Retention{Payloads: day, Attempts: day, Deliveries: day}, begin().AddDate(0, 0, 100))
	if expired.Kept != 1 {
		t.Errorf("something was kept in %d partitions, want 1", expired.Kept)
	}
	for i, key := range keys {
		_, err := store.Delivery(t.Context(), "acme", key)
		if kept := key.Sequence >= floor; (err == nil) != kept {
			t.Errorf("delivery %d: %v; the log has those from %d on", i, err, floor)
		}
	}
	query := history.ScanQuery{Tenant: "acme", States: []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD}}
	if n, err := store.Count(t.Context(), query); err != nil || n != days-floor+1 {
		t.Errorf("a replay finds %d deliveries (%v), want %d", n, err, days-floor+1)
	}
}

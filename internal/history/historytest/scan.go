package historytest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func scan(t *testing.T, store history.Store, query history.ScanQuery, after history.DeliveryKey, limit int) []history.ScanRow {
	t.Helper()
	rows, err := store.Scan(t.Context(), query, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func sameRows(t *testing.T, query history.ScanQuery, got, want []history.ScanRow) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%+v (-want +got):\n%s", query, diff)
	}
}

// checkScan compares a scan, call by call, and the count with a model's.
func checkScan(t *testing.T, store history.Store, m *model, query history.ScanQuery, size func() int) {
	t.Helper()
	found := scanAll(t, store, m, query, size, func() {})
	if count, err := store.Count(t.Context(), query); err != nil || count != int64(found) {
		t.Fatalf("count of %+v: got %d, %v; want %d", query, count, err, found)
	}
}

// scanAll reads a scan to its end, compares each call with what a model has at
// that moment, and returns how many deliveries it has met. between is run
// after each call that was not the last.
func scanAll(t *testing.T, store history.Store, m *model, query history.ScanQuery, size func() int, between func()) int {
	t.Helper()
	met := make(map[history.DeliveryKey]bool)
	var after history.DeliveryKey
	for {
		limit := size()
		rows := scan(t, store, query, after, limit)
		sameRows(t, query, rows, m.scan(query, after, limit))
		for _, row := range rows {
			if met[row.Key] {
				t.Fatalf("%+v: met %s twice", query, history.DeliveryID(row.Key))
			}
			met[row.Key] = true
			after = row.Key
		}
		if len(rows) < limit {
			return len(met)
		}
		between()
	}
}

// testScanningWhileWriting changes deliveries behind the cursor and in front
// of it, each in a way of its own.
func testScanningWhileWriting(t *testing.T, open Open) {
	const pending, delivered, dead, expired = fanfarev1.Delivery_PENDING, fanfarev1.Delivery_DELIVERED, fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED
	store := opened(t, open)
	query := history.ScanQuery{Tenant: "acme", States: []fanfarev1.Delivery_State{dead, expired}}
	row := func(subscription uint64, state fanfarev1.Delivery_State, attempts int32) history.DeliveryRow {
		return history.DeliveryRow{
			Key:    history.DeliveryKey{EventKey: history.EventKey{Sequence: 1}, Subscription: subscription},
			Tenant: "acme", SubscriptionID: "sub_1", State: state, Attempts: attempts,
		}
	}
	found := func(subscription uint64, state fanfarev1.Delivery_State, attempts int32) history.ScanRow {
		return history.ScanRow{Key: row(subscription, 0, 0).Key, SubscriptionID: "sub_1", State: state, Attempts: attempts}
	}
	write(t, store, history.Batch{Sequence: 1, Deliveries: []history.DeliveryRow{
		row(0, expired, 1), row(1, delivered, 1), row(2, dead, 1), row(3, dead, 1),
		row(4, dead, 1), row(5, delivered, 1), row(6, pending, 1), row(7, expired, 1), row(8, dead, 1),
	}})
	sameRows(t, query, scan(t, store, query, history.DeliveryKey{}, 3), []history.ScanRow{found(0, expired, 1), found(2, dead, 1), found(3, dead, 1)})
	write(t, store, history.Batch{Prev: 1, Sequence: 2, Deliveries: []history.DeliveryRow{
		row(0, pending, 1), row(1, dead, 2), row(2, expired, 2), row(3, pending, 1), row(3, dead, 2), // behind the cursor, and under it
		row(4, pending, 1), row(5, dead, 2), row(6, expired, 2), row(7, dead, 2), // in front of it
	}})
	sameRows(t, query, scan(t, store, query, row(3, 0, 0).Key, 10), []history.ScanRow{
		found(5, dead, 2), found(6, expired, 2), found(7, dead, 2), found(8, dead, 1),
	})
}

// testScanningAtRandom changes and adds deliveries while it reads.
func testScanningAtRandom(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(10)
	m := &model{}
	next := func() {
		batch := w.next()
		write(t, store, batch)
		m.apply(batch)
	}
	for range 30 {
		next()
	}
	writes := 0
	for range 20 {
		scanAll(t, store, m, m.scanQuery(w.rng), func() int { return 1 + w.rng.IntN(10) }, func() {
			next()
			writes++
		})
	}
	if writes < 20 {
		t.Errorf("there were only %d writes between calls", writes)
	}
}

// testReplayed: a delivery that has ended is owed again, and ends again.
func testReplayed(t *testing.T, open Open) {
	store := opened(t, open)
	at := time.UnixMilli(1_750_000_000_000)
	ended := history.DeliveryRow{
		Key:    history.DeliveryKey{EventKey: history.EventKey{Sequence: 1}, Subscription: 1},
		Tenant: "acme", SubscriptionID: "sub_1", State: fanfarev1.Delivery_DEAD, Attempts: 2,
		Created: at, Ended: at.Add(time.Minute), LastStatus: 503, LastErrorClass: "status",
	}
	again := ended
	again.State, again.Ended, again.NextAttempt = fanfarev1.Delivery_PENDING, time.Time{}, at.Add(time.Hour)
	delivered := again
	delivered.State, delivered.Attempts, delivered.LastStatus, delivered.LastErrorClass = fanfarev1.Delivery_DELIVERED, 3, 200, ""
	delivered.NextAttempt, delivered.Ended = time.Time{}, at.Add(2*time.Hour)
	attempt := func(number int32) history.AttemptRow {
		return history.AttemptRow{Key: ended.Key, Tenant: "acme", Attempt: &fanfarev1.Attempt{
			Number: number, StartTime: timestamppb.New(at), Latency: durationpb.New(time.Millisecond),
		}}
	}
	event := &fanfarev1.Event{Id: "evt_1", Type: "order", PublishTime: timestamppb.New(at)}
	m := &model{}
	for i, batch := range []history.Batch{
		{
			Events:     []history.EventRow{{Key: ended.Key.EventKey, Tenant: "acme", Event: event}},
			Deliveries: []history.DeliveryRow{ended},
			Attempts:   []history.AttemptRow{attempt(1), attempt(2)},
		},
		{Deliveries: []history.DeliveryRow{again}},
		{Deliveries: []history.DeliveryRow{delivered}, Attempts: []history.AttemptRow{attempt(3)}},
		{Deliveries: []history.DeliveryRow{again, ended}}, // at once
		{Deliveries: []history.DeliveryRow{delivered, again}},
	} {
		batch.Prev, batch.Sequence = uint64(i), uint64(i)+1
		write(t, store, batch)
		m.apply(batch)
		checkReplayed(t, store, m, m.deliveries[0])
	}
}

// checkReplayed compares all that there is of the only delivery with a model's.
func checkReplayed(t *testing.T, store history.Store, m *model, row history.DeliveryRow) {
	t.Helper()
	delivery, err := store.Delivery(t.Context(), row.Tenant, row.Key)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "delivery", delivery, m.delivery(row))
	attempts, _, err := store.Attempts(t.Context(), row.Tenant, row.Key, history.Page{Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	sameList(t, "attempts", attempts, m.listAttempts(row.Tenant, row.Key))
	for _, state := range []fanfarev1.Delivery_State{fanfarev1.Delivery_PENDING, fanfarev1.Delivery_DELIVERED, fanfarev1.Delivery_DEAD} {
		checkLists(t, store, m, history.EventQuery{Tenant: row.Tenant}, history.DeliveryQuery{Tenant: row.Tenant, State: state}, sized(10))
	}
	for _, state := range []fanfarev1.Delivery_State{fanfarev1.Delivery_DELIVERED, fanfarev1.Delivery_DEAD} {
		checkScan(t, store, m, history.ScanQuery{Tenant: row.Tenant, States: []fanfarev1.Delivery_State{state}}, sized(10))
	}
}

// testScanningForNothing: a query without states is a mistake, not all or none.
func testScanningForNothing(t *testing.T, open Open) {
	store := opened(t, open)
	query := history.ScanQuery{Tenant: "acme"}
	if rows, err := store.Scan(t.Context(), query, history.DeliveryKey{}, 1); err == nil {
		t.Errorf("scan without states: got %v, want an error", rows)
	}
	if count, err := store.Count(t.Context(), query); err == nil {
		t.Errorf("count without states: got %d, want an error", count)
	}
}

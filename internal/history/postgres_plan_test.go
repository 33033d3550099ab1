package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/history/postgrestest"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Every list of a large history goes through indexes: nothing that grows is
// scanned, and where a page is asked for, only a page is read.
func TestPostgresPlans(t *testing.T) {
	store, err := OpenPostgres(t.Context(), postgrestest.Start(t).URL(), PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	end := fillForPlans(t, store)
	in := postgresTables()
	byID := eventList("default", "event, data")
	byID.table = in.payloads
	byID.and("event_id", "=", "evt_1")
	one := in.deliveryList("default")
	one.of(DeliveryKey{EventKey: EventKey{Sequence: 5}, Subscription: 1})
	subscription := fmt.Sprintf("sub_%026d", 3)
	scan := ScanQuery{Tenant: "default", States: []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED}}
	count := scan.counted(in)
	tests := []struct {
		name string
		list list
		want string // an index that is used
	}{
		{"event", byID, "event_id"},
		{"events", EventQuery{Tenant: "default"}.list(in), "publish_ms"},
		{"events of a type", EventQuery{Tenant: "default", Type: "rare"}.list(in), "type"},
		{"events of a time", EventQuery{Tenant: "default", Start: end.Add(-time.Hour)}.list(in), "publish_ms"},
		{"events of a trace", EventQuery{Tenant: "default", TraceID: strings.Repeat("1", 32)}.list(in), "trace_id"},
		{"delivery", one, "pkey"},
		{"deliveries", DeliveryQuery{Tenant: "default"}.list(in), "pkey"},
		{"delivered", DeliveryQuery{Tenant: "default", State: fanfarev1.Delivery_DELIVERED}.list(in), "pkey"},
		{"pending", DeliveryQuery{Tenant: "default", State: fanfarev1.Delivery_PENDING}.list(in), "pending"},
		{"dead", DeliveryQuery{Tenant: "default", State: fanfarev1.Delivery_DEAD}.list(in), "state"},
		{"of a subscription", DeliveryQuery{Tenant: "default", SubscriptionID: subscription}.list(in), ""},
		{"dead of a subscription", DeliveryQuery{Tenant: "default", SubscriptionID: subscription, State: fanfarev1.Delivery_DEAD}.list(in), ""},
		{"of an event", DeliveryQuery{Tenant: "default", EventID: "evt_1"}.list(in), "event_id"},
		{"of a trace", DeliveryQuery{Tenant: "default", TraceID: strings.Repeat("1", 32)}.list(in), "trace_id"},
		{"of a type", DeliveryQuery{Tenant: "default", EventType: "rare"}.list(in), ""},
		{"answered with 5xx", DeliveryQuery{Tenant: "default", StatusClass: 5}.list(in), ""},
		{"timed out", DeliveryQuery{Tenant: "default", ErrorClass: "timeout"}.list(in), ""},
		{"attempts", attemptList("default", DeliveryKey{EventKey: EventKey{Sequence: 5}, Subscription: 1}), "pkey"},
		{"scan", scan.list(in), "state"},
	}
	for _, test := range tests {
		for range 2 { // the first page, then another
			checkPostgresPlan(t, store, test.name, test.list.query(50), test.list.args, test.want)
			key := make([]int64, len(test.list.key))
			key[0] = 1
			test.list.after(key)
		}
	}
	checkPostgresPlan(t, store, "count", count.count(), count.args, "state")
}

func checkPostgresPlan(t *testing.T, store *Postgres, name, query string, args []any, want string) {
	t.Helper()
	rows, err := store.db.QueryContext(t.Context(), "EXPLAIN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says it
	var plan []string
	large := false // a scan of what has many rows
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, line)
		// Partitions of days to come are empty: any way through them will do.
		large = large || strings.Contains(line, "Seq Scan on ") && !strings.Contains(line, "_20250702 ") && !strings.Contains(line, "_20250703 ")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(plan, "\n")
	if large || !strings.Contains(text, want) {
		t.Errorf("%s: the plan scans a table, or does not use %q:\n%s\n%s", name, want, query, text)
	}
}

// fillForPlans fills the four days from 28 June 2025 with some tens of thousands of deliveries, of
// which few failed and few are pending, and tells the planner. It returns when
// the last one was made.
func fillForPlans(t *testing.T, store *Postgres) time.Time {
	t.Helper()
	const batches, size = 20, 2000
	start := time.Date(2025, 6, 28, 0, 0, 0, 0, time.UTC)
	at := start
	for n := range uint64(batches) {
		pair := benchmarkBatches(2*n, size)
		at = start.Add(time.Duration(n) * 4 * time.Hour)
		for i := range pair {
			age(&pair[i], at, i == 1)
			if err := store.Write(t.Context(), pair[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, table := range append(dailyTables(), "pending_deliveries") {
		if _, err := store.writer.Exec(t.Context(), "ANALYZE "+table); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// age moves a batch of a benchmark to a time, and makes a little of it fail.
func age(batch *Batch, at time.Time, ends bool) {
	for i := range batch.Events {
		event := batch.Events[i].Event
		event.PublishTime.Reset()
		event.PublishTime.Seconds = at.Unix()
		event.Data = nil
		if i%100 == 0 {
			event.Type, event.Extensions = "rare", map[string]string{"traceparent": "00-" + strings.Repeat("1", 32) + "-" + strings.Repeat("2", 16) + "-01"}
		}
	}
	for i := range batch.Deliveries {
		row := &batch.Deliveries[i]
		row.Created = at
		if !ends {
			continue
		}
		row.Ended, row.LastStatus = at, 200
		switch i % 100 {
		case 0:
			row.State, row.LastStatus, row.LastErrorClass = fanfarev1.Delivery_DEAD, 503, "status"
		case 1:
			row.State, row.LastStatus, row.LastErrorClass = fanfarev1.Delivery_EXPIRED, 0, "timeout"
		case 2:
			row.State, row.Ended, row.NextAttempt = fanfarev1.Delivery_PENDING, time.Time{}, at.Add(time.Hour)
		}
	}
}

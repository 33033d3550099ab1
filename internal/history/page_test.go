package history

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func FuzzParseDeliveryID(f *testing.F) {
	for _, key := range []DeliveryKey{
		{},
		{EventKey: EventKey{Partition: 15, Sequence: 1234, Index: 7}, Subscription: 99},
		{EventKey: EventKey{Partition: math.MaxInt32, Sequence: math.MaxUint64, Index: math.MaxUint32}, Subscription: math.MaxUint64},
	} {
		f.Add(DeliveryID(key))
		if got, err := ParseDeliveryID(DeliveryID(key)); err != nil || got != key {
			f.Errorf("parsing %q: got %+v, %v; want %+v", DeliveryID(key), got, err, key)
		}
	}
	for _, id := range []string{"", "dlv_", "dlv_1-2-3", "dlv_1-2-3-4-5", "dlv_-1-2-3", "dlv_+1-2-3-4", "dlv_1--3-4", "evt_1-2-3-4", "dlv_zik0zk-0-0-0", "dlv_A-0-0-0"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		key, err := ParseDeliveryID(id)
		if err != nil {
			return
		}
		if again, err := ParseDeliveryID(DeliveryID(key)); err != nil || again != key {
			t.Errorf("%q is %+v, but that is read back as %+v, %v", id, key, again, err)
		}
	})
}

func FuzzParsePageToken(f *testing.F) {
	const fingerprint = 0x0123_4567_89ab_cdef
	for _, key := range [][]int64{{}, {0}, {1, 2, 3, 4}, {math.MinInt64, -1, math.MaxInt64, 0}} {
		token := pageToken(fingerprint, key)
		f.Add(token, len(key))
		if got, err := parsePageToken(token, fingerprint, len(key)); err != nil || !slices.Equal(got, key) {
			f.Errorf("parsing token of %v: got %v, %v", key, got, err)
		}
		if _, err := parsePageToken(token, fingerprint+1, len(key)); err == nil {
			f.Errorf("token of %v fits another fingerprint", key)
		}
		if _, err := parsePageToken(token, fingerprint, len(key)+1); err == nil {
			f.Errorf("token of %v fits another number of columns", key)
		}
	}
	f.Add("", 1)
	f.Add("====", 0)
	f.Fuzz(func(t *testing.T, token string, columns int) {
		columns &= 7
		key, err := parsePageToken(token, fingerprint, columns)
		if err != nil {
			return
		}
		if len(key) != columns {
			t.Errorf("%q gives %d columns, want %d", token, len(key), columns)
		}
		if again, err := parsePageToken(pageToken(fingerprint, key), fingerprint, columns); err != nil || !slices.Equal(again, key) {
			t.Errorf("%q is %v, but that is read back as %v, %v", token, key, again, err)
		}
	})
}

// Every list goes through an index in its own order, beginning where the page
// does: no table is scanned, and only the few deliveries of one event are
// sorted.
func TestSQLitePlans(t *testing.T) {
	store, err := OpenSQLite(t.Context(), InMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	now := time.Now()
	eventByID := eventList("acme", "event, data")
	eventByID.and("event_id", "=", "evt_1")
	one := sqliteTables().deliveryList("acme")
	one.of(DeliveryKey{})
	tests := []struct {
		name string
		list list
		want string // of the plan's first line
		sort bool
	}{
		{name: "event", list: eventByID, want: "events_by_id (tenant=? AND event_id=?)", sort: true},
		{name: "events", list: EventQuery{Tenant: "acme"}.list(sqliteTables()), want: "events_newest (tenant=?"},
		{name: "events of a type", list: EventQuery{Tenant: "acme", Type: "a"}.list(sqliteTables()), want: "events_newest (tenant=?"},
		{name: "events of a time", list: EventQuery{Tenant: "acme", Type: "a", Start: now, End: now}.list(sqliteTables()), want: "events_newest (tenant=? AND publish_ms>? AND publish_ms<?)"},
		{name: "delivery", list: one, want: "PRIMARY KEY (tenant=? AND partition=? AND sequence=? AND idx=? AND subscription=?)"},
		{name: "deliveries", list: DeliveryQuery{Tenant: "acme", Start: now}.list(sqliteTables()), want: "PRIMARY KEY (tenant=?"},
		{name: "delivered", list: DeliveryQuery{Tenant: "acme", State: fanfarev1.Delivery_DELIVERED}.list(sqliteTables()), want: "PRIMARY KEY (tenant=?"},
		{name: "dead", list: DeliveryQuery{Tenant: "acme", State: fanfarev1.Delivery_DEAD}.list(sqliteTables()), want: "deliveries_by_state (tenant=? AND state=?"},
		{name: "of a subscription", list: DeliveryQuery{Tenant: "acme", SubscriptionID: "s"}.list(sqliteTables()), want: "deliveries_by_subscription (tenant=? AND subscription_id=?"},
		{name: "dead of a subscription", list: DeliveryQuery{Tenant: "acme", SubscriptionID: "s", State: fanfarev1.Delivery_DEAD}.list(sqliteTables()), want: "deliveries_ended_by_subscription (tenant=? AND subscription_id=? AND state=?"},
		{name: "pending of a subscription", list: DeliveryQuery{Tenant: "acme", SubscriptionID: "s", State: fanfarev1.Delivery_PENDING}.list(sqliteTables()), want: "deliveries_by_"},
		{name: "of an event", list: DeliveryQuery{Tenant: "acme", EventID: "e"}.list(sqliteTables()), want: "events_by_id (tenant=? AND event_id=?)", sort: true},
		{name: "dead of an event", list: DeliveryQuery{Tenant: "acme", EventID: "e", SubscriptionID: "s", State: fanfarev1.Delivery_DEAD}.list(sqliteTables()), want: "events_by_id (tenant=? AND event_id=?)", sort: true},
		{name: "events of a trace", list: EventQuery{Tenant: "acme", TraceID: "t"}.list(sqliteTables()), want: "events_by_trace (tenant=? AND trace_id=?)", sort: true},
		{name: "of a type", list: DeliveryQuery{Tenant: "acme", EventType: "a"}.list(sqliteTables()), want: "events_by_type (tenant=? AND type=?"},
		{name: "delivered of a type", list: DeliveryQuery{Tenant: "acme", EventType: "a", State: fanfarev1.Delivery_DELIVERED}.list(sqliteTables()), want: "events_by_type (tenant=? AND type=?"},
		{name: "of a type and a subscription", list: DeliveryQuery{Tenant: "acme", EventType: "a", SubscriptionID: "s"}.list(sqliteTables()), want: "deliveries_by_subscription (tenant=? AND subscription_id=?"},
		{name: "of a trace", list: DeliveryQuery{Tenant: "acme", TraceID: "t"}.list(sqliteTables()), want: "events_by_trace (tenant=? AND trace_id=?)", sort: true},
		{name: "answered with 5xx", list: DeliveryQuery{Tenant: "acme", StatusClass: 5}.list(sqliteTables()), want: "deliveries_by_status (tenant=? AND <expr>=?"},
		{name: "answered with 2xx", list: DeliveryQuery{Tenant: "acme", StatusClass: 2}.list(sqliteTables()), want: "PRIMARY KEY (tenant=?"},
		{name: "timed out", list: DeliveryQuery{Tenant: "acme", ErrorClass: "timeout"}.list(sqliteTables()), want: "deliveries_by_error (tenant=? AND last_error_class=?"},
		{name: "attempts", list: attemptList("acme", DeliveryKey{}), want: "PRIMARY KEY (tenant=? AND partition=? AND sequence=? AND idx=? AND subscription=?"},
	}
	for _, test := range tests {
		for range 2 { // the first page, then another
			plan := explain(t, store, test.list.query(50), test.list.args)
			if first, _, _ := strings.Cut(plan, "\n"); !strings.Contains(first, test.want) {
				t.Errorf("%s: the plan does not begin with %q:\n%s", test.name, test.want, plan)
			}
			if strings.Contains(plan, "SCAN") || strings.Contains(plan, "TEMP B-TREE") != test.sort {
				t.Errorf("%s: the plan scans or sorts:\n%s", test.name, plan)
			}
			test.list.after(make([]int64, len(test.list.key)))
		}
	}
}

// Scans and counts go through an index too: with DELIVERED through all rows of
// the subscription or the tenant, otherwise through those of each state alone,
// merged.
func TestSQLiteScanPlans(t *testing.T) {
	store, err := OpenSQLite(t.Context(), InMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	const delivered, dead, expired = fanfarev1.Delivery_DELIVERED, fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED
	const byState = "deliveries_by_state (tenant=? AND state=?"
	const ofOne = "deliveries_ended_by_subscription (tenant=? AND subscription_id=? AND state=?"
	tests := []struct {
		name         string
		subscription string
		states       []fanfarev1.Delivery_State
		want         string // up to where a scan adds its cursor
		searches     int
	}{
		{name: "dead", states: []fanfarev1.Delivery_State{dead}, want: byState, searches: 1},
		{name: "dead twice", states: []fanfarev1.Delivery_State{dead, dead}, want: byState, searches: 1},
		{name: "dead or expired", states: []fanfarev1.Delivery_State{expired, dead}, want: byState, searches: 2},
		{name: "dead or expired of a subscription", subscription: "s", states: []fanfarev1.Delivery_State{dead, expired}, want: ofOne, searches: 2},
		{name: "delivered or dead", states: []fanfarev1.Delivery_State{delivered, dead}, want: "PRIMARY KEY (tenant=?", searches: 1},
		{name: "delivered or dead of a subscription", subscription: "s", states: []fanfarev1.Delivery_State{dead, delivered}, want: "deliveries_by_subscription (tenant=? AND subscription_id=?", searches: 1},
	}
	for _, test := range tests {
		for _, end := range []time.Time{{}, time.Now()} {
			query := ScanQuery{Tenant: "acme", SubscriptionID: test.subscription, States: test.states, End: end}
			count := query.counted(sqliteTables())
			plan := explain(t, store, count.count(), count.args)
			if strings.Count(plan, test.want+")") != test.searches || strings.Contains(plan, "SCAN deliveries") || strings.Contains(plan, "events") {
				t.Errorf("counting %s: want %d times %q:\n%s", test.name, test.searches, test.want, plan)
			}
			scan := query.list(sqliteTables())
			scan.after(make([]int64, len(scan.key)))
			plan = explain(t, store, scan.query(50), scan.args)
			want := test.want + " AND (partition,sequence,idx,subscription)>(?,?,?,?))"
			if strings.Count(plan, want) != test.searches || strings.Contains(plan, "SCAN") || strings.Contains(plan, "TEMP B-TREE") {
				t.Errorf("scanning for %s: want %d times %q:\n%s", test.name, test.searches, want, plan)
			}
		}
	}
}

func explain(t *testing.T, store *SQLite, query string, args []any) string {
	t.Helper()
	rows, err := store.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says it
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "\n")
}

// Package historytest checks that a history.Store keeps its contract. Every
// implementation passes the same suite.
package historytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Open opens a database, as it is after the store opened before was closed.
type Open func() history.Store

// Run checks the stores of create, which makes a new, empty database for one
// test.
func Run(t *testing.T, create func(t *testing.T) Open) {
	tests := []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"positions", testPositions},
		{"replacing", testReplacing},
		{"queries against a model", testQueries},
		{"paging while rows arrive", testPagingWhileWriting},
		{"page tokens", testPageTokens},
		{"not found", testNotFound},
		{"scanning while rows change", testScanningWhileWriting},
		{"scanning while anything changes", testScanningAtRandom},
		{"scanning for nothing", testScanningForNothing},
		{"replayed", testReplayed},
		{"event id used again", testEventIDUsedAgain},
		{"outcome of an unknown event", testUnknownEvent},
		{"content", testContent},
		{"reopening", testReopening},
		{"syncing", testSyncing},
		{"torn writes", testTornWrites},
		{"reading while writing", testReadingWhileWriting},
		{"statistics", testStatistics},
		{"expiring", testExpiring},
		{"kept for a replay", testKeptForReplay},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, create(t)) })
	}
}

// testSyncing: a sync neither loses nor changes anything, on an empty history
// or not.
func testSyncing(t *testing.T, open Open) {
	store := opened(t, open)
	for sequence := range uint64(3) {
		if err := store.Sync(t.Context()); err != nil {
			t.Fatalf("syncing at %d: %v", sequence, err)
		}
		wantPosition(t, store, 1, sequence)
		write(t, store, history.Batch{Partition: 1, Prev: sequence, Sequence: sequence + 1})
	}
}

// opened opens a store until the end of the test.
func opened(t *testing.T, open Open) history.Store {
	t.Helper()
	store := open()
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("closing store: %v", err)
		}
	})
	return store
}

func write(t *testing.T, store history.Store, batch history.Batch) {
	t.Helper()
	if err := store.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func wantPosition(t *testing.T, store history.Store, partition int, want uint64) {
	t.Helper()
	if got, err := store.Position(t.Context(), partition); err != nil || got != want {
		t.Fatalf("position of partition %d: got %d, %v; want %d", partition, got, err, want)
	}
}

// same compares two messages.
func same[M proto.Message](t *testing.T, what string, got, want M) {
	t.Helper()
	sameList(t, what, []M{got}, []M{want})
}

// sameList compares two lists of messages.
func sameList[M proto.Message](t *testing.T, what string, got, want []M) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b M) bool { return proto.Equal(a, b) }) {
		t.Fatalf("%s (-want +got):\n%s", what, cmp.Diff(want, got, protocmp.Transform()))
	}
}

// all reads every page of a list, with sizes of its own for each.
func all[T any](t *testing.T, size func() int, list func(history.Page) ([]T, string, error)) []T {
	t.Helper()
	var items []T
	var token string
	for {
		page := history.Page{Size: size(), Token: token}
		got, next, err := list(page)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > page.Size || (len(got) < page.Size && next != "") || (len(got) == 0 && token != "") || (next == token && next != "") {
			t.Fatalf("page of %d items for a size of %d, next %q", len(got), page.Size, next)
		}
		items = append(items, got...)
		if next == "" {
			return items
		}
		token = next
	}
}

// sized returns pages of one size.
func sized(n int) func() int {
	return func() int { return n }
}

func testPositions(t *testing.T, open Open) {
	store := opened(t, open)
	wantPosition(t, store, 0, 0)
	write(t, store, history.Batch{Partition: 0, Prev: 0, Sequence: 3})
	write(t, store, history.Batch{Partition: 7, Prev: 0, Sequence: 1})
	write(t, store, history.Batch{Partition: 0, Prev: 3, Sequence: 4})
	wantPosition(t, store, 0, 4)
	wantPosition(t, store, 7, 1)
	wantPosition(t, store, 1, 0)

	w := newWorld(1)
	for _, batch := range []history.Batch{
		{Partition: 0, Prev: 0, Sequence: 5},
		{Partition: 0, Prev: 3, Sequence: 4},
		{Partition: 0, Prev: 5, Sequence: 6},
		{Partition: 0, Prev: 4, Sequence: 4},
		{Partition: 1, Prev: 1, Sequence: 2},
	} {
		w.fill(&batch)
		if err := store.Write(t.Context(), batch); !errors.Is(err, history.ErrPosition) {
			t.Errorf("writing %d to %d of partition %d: got %v, want ErrPosition", batch.Prev, batch.Sequence, batch.Partition, err)
		}
	}
	wantPosition(t, store, 0, 4)
	wantPosition(t, store, 1, 0)
	check(t, store, &model{}, w.rng) // nothing of what was refused is there
}

func testReplacing(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(2)
	batch := w.next()
	m := &model{}
	write(t, store, batch)
	m.apply(batch)
	check(t, store, m, w.rng)

	second := history.Batch{Partition: batch.Partition, Prev: batch.Sequence, Sequence: batch.Sequence + 1}
	for _, row := range batch.Deliveries {
		second.Deliveries = append(second.Deliveries, w.change(row), w.change(row)) // the later one wins
	}
	for _, row := range batch.Attempts {
		second.Attempts = append(second.Attempts, w.attempt(history.DeliveryRow{Key: row.Key, Tenant: row.Tenant, SubscriptionID: row.SubscriptionID}, row.Attempt.Number))
	}
	write(t, store, second)
	m.apply(second)
	check(t, store, m, w.rng)
}

func testQueries(t *testing.T, open Open) {
	const seed = 3
	store := opened(t, open)
	w := newWorld(seed)
	m := &model{}
	for range 60 {
		batch := w.next()
		write(t, store, batch)
		m.apply(batch)
		check(t, store, m, w.rng)
	}
	for _, tenant := range tenants() {
		if len(m.listDeliveries(history.DeliveryQuery{Tenant: tenant.name})) == 0 {
			t.Errorf("nothing was checked of %s", tenant.name)
		}
	}
}

// check compares random queries of a store with a model's answers, and every
// single row by its name.
func check(t *testing.T, store history.Store, m *model, rng *rand.Rand) {
	t.Helper()
	ctx := t.Context()
	size := func() int { return 1 + rng.IntN(40) }
	for range 10 {
		checkLists(t, store, m, m.eventQuery(rng), m.deliveryQuery(rng), size)
		checkScan(t, store, m, m.scanQuery(rng), size)
	}
	for range 10 {
		if len(m.events) > 0 {
			row := m.events[rng.IntN(len(m.events))]
			got, err := store.Event(ctx, row.Tenant, row.Event.Id)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "event "+row.Event.Id, got, m.event(row.Tenant, row.Event.Id))
		}
		if len(m.deliveries) > 0 {
			row := m.deliveries[rng.IntN(len(m.deliveries))]
			got, err := store.Delivery(ctx, row.Tenant, row.Key)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "delivery "+history.DeliveryID(row.Key), got, m.delivery(row))
			attempts := all(t, size, func(page history.Page) ([]*fanfarev1.Attempt, string, error) {
				return store.Attempts(ctx, row.Tenant, row.Key, page)
			})
			sameList(t, "attempts of "+history.DeliveryID(row.Key), attempts, m.listAttempts(row.Tenant, row.Key))
		}
	}
}

// checkLists compares all pages of two lists with a model's.
func checkLists(t *testing.T, store history.Store, m *model, events history.EventQuery, deliveries history.DeliveryQuery, size func() int) {
	t.Helper()
	gotEvents := all(t, size, func(page history.Page) ([]*fanfarev1.Event, string, error) {
		return store.Events(t.Context(), events, page)
	})
	sameList(t, fmt.Sprintf("%+v", events), gotEvents, m.listEvents(events))
	gotDeliveries := all(t, size, func(page history.Page) ([]*fanfarev1.Delivery, string, error) {
		return store.Deliveries(t.Context(), deliveries, page)
	})
	sameList(t, fmt.Sprintf("%+v", deliveries), gotDeliveries, m.listDeliveries(deliveries))
}

func testPagingWhileWriting(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(4)
	m := &model{}
	for range 20 {
		batch := w.next()
		write(t, store, batch)
		m.apply(batch)
	}
	for _, tenant := range tenants() {
		before := m.listDeliveries(history.DeliveryQuery{Tenant: tenant.name})
		beforeEvents := m.listEvents(history.EventQuery{Tenant: tenant.name})
		existed := make(map[string]bool)
		for _, delivery := range before {
			existed[delivery.Name] = true
		}
		// Rows change too while they are read, but stay where they are.
		var names []string
		for _, delivery := range all(t, sized(3), func(page history.Page) ([]*fanfarev1.Delivery, string, error) {
			batch := w.next()
			write(t, store, batch)
			m.apply(batch)
			return store.Deliveries(t.Context(), history.DeliveryQuery{Tenant: tenant.name}, page)
		}) {
			if existed[delivery.Name] {
				names = append(names, delivery.Name)
			}
		}
		var want []string
		for _, delivery := range before {
			want = append(want, delivery.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("deliveries of %s: got %v, want %v", tenant.name, names, want)
		}

		events := all(t, sized(2), func(page history.Page) ([]*fanfarev1.Event, string, error) {
			if page.Token != "" { // so that the first page still is
				batch := w.next()
				write(t, store, batch)
				m.apply(batch)
			}
			return store.Events(t.Context(), history.EventQuery{Tenant: tenant.name}, page)
		})
		sameList(t, "events of "+tenant.name, events[len(events)-len(beforeEvents):], beforeEvents)
	}
}

func testPageTokens(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(5)
	for range 20 {
		write(t, store, w.next())
	}
	ctx, tenant := t.Context(), tenants()[0].name
	query := history.DeliveryQuery{Tenant: tenant}
	_, token, err := store.Deliveries(ctx, query, history.Page{Size: 1})
	if err != nil || token == "" {
		t.Fatalf("token %q, %v", token, err)
	}
	if _, _, err := store.Deliveries(ctx, query, history.Page{Size: 5, Token: token}); err != nil {
		t.Errorf("another size: %v", err)
	}
	others := map[string]history.DeliveryQuery{
		"tenant":       {Tenant: tenants()[1].name},
		"subscription": {Tenant: tenant, SubscriptionID: "sub_1"},
		"event":        {Tenant: tenant, EventID: "sub_1"},
		"state":        {Tenant: tenant, State: fanfarev1.Delivery_DEAD},
		"type":         {Tenant: tenant, EventType: "order"},
		"trace":        {Tenant: tenant, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736"},
		"status":       {Tenant: tenant, StatusClass: 5},
		"error":        {Tenant: tenant, ErrorClass: "timeout"},
		"start":        {Tenant: tenant, Start: w.clock},
		"end":          {Tenant: tenant, End: w.clock},
	}
	tokens := map[string]string{token: "none"}
	for name, other := range others {
		if _, _, err := store.Deliveries(ctx, other, history.Page{Size: 1, Token: token}); !errors.Is(err, history.ErrPageToken) {
			t.Errorf("with another %s: got %v, want ErrPageToken", name, err)
		}
		if _, next, err := store.Deliveries(ctx, other, history.Page{Size: 1}); err != nil {
			t.Error(err)
		} else if next != "" && tokens[next] != "" {
			t.Errorf("the same token for %s and %s", name, tokens[next])
		} else if next != "" {
			tokens[next] = name
		}
	}
	page := history.Page{Size: 1, Token: token}
	if _, _, err := store.Events(ctx, history.EventQuery{Tenant: tenant}, page); !errors.Is(err, history.ErrPageToken) {
		t.Errorf("list of events: got %v, want ErrPageToken", err)
	}
	for _, page.Token = range []string{"x", "?", "AAAA", token[1:], token[:len(token)-1], token + "A", token + token} {
		if _, _, err := store.Deliveries(ctx, query, page); !errors.Is(err, history.ErrPageToken) {
			t.Errorf("token %q: got %v, want ErrPageToken", page.Token, err)
		}
	}
}

func testNotFound(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(6)
	batch := w.next()
	write(t, store, batch)
	ctx, row := t.Context(), batch.Deliveries[0]
	if _, err := store.Delivery(ctx, row.Tenant, row.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Delivery(ctx, "nobody", row.Key); !errors.Is(err, history.ErrNotFound) {
		t.Errorf("another tenant's delivery: got %v, want ErrNotFound", err)
	}
	if attempts, _, err := store.Attempts(ctx, "nobody", row.Key, history.Page{Size: 1}); err != nil || len(attempts) > 0 {
		t.Errorf("another tenant's attempts: got %v, %v", attempts, err)
	}
	for _, change := range []func(*history.DeliveryKey){
		func(k *history.DeliveryKey) { k.Partition++ },
		func(k *history.DeliveryKey) { k.Sequence += 1 << 63 },
		func(k *history.DeliveryKey) { k.Index = 1<<32 - 1 },
		func(k *history.DeliveryKey) { k.Subscription = 1<<64 - 1 },
	} {
		key := row.Key
		change(&key)
		if _, err := store.Delivery(ctx, row.Tenant, key); !errors.Is(err, history.ErrNotFound) {
			t.Errorf("delivery %+v: got %v, want ErrNotFound", key, err)
		}
	}
	for _, id := range []string{"", "evt_none"} {
		if _, err := store.Event(ctx, row.Tenant, id); !errors.Is(err, history.ErrNotFound) {
			t.Errorf("event %q: got %v, want ErrNotFound", id, err)
		}
	}
}

func testReopening(t *testing.T, open Open) {
	w := newWorld(8)
	m := &model{}
	for range 4 {
		store := open()
		for partition, sequence := range w.positions {
			wantPosition(t, store, partition, sequence)
		}
		check(t, store, m, w.rng)
		for range 5 {
			batch := w.next()
			write(t, store, batch)
			m.apply(batch)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	check(t, opened(t, open), m, w.rng)
}

// testTornWrites cuts writes at every place where they look at their context,
// then one at a row that cannot be, and shows that each has left everything or
// nothing.
func testTornWrites(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(9)
	m := &model{}
	cut := 0
	for written := false; !written; cut++ {
		batch := w.next()
		tenant := batch.Events[0].Tenant
		ctx, cancel := context.WithCancel(t.Context())
		written = store.Write(&cutContext{Context: ctx, cancel: cancel, looks: cut}, batch) == nil
		if !written {
			wantPosition(t, store, batch.Partition, batch.Prev)
			checkLists(t, store, m, history.EventQuery{Tenant: tenant}, history.DeliveryQuery{Tenant: tenant}, sized(1000))
			write(t, store, batch) // and it can be written again
		}
		cancel()
		wantPosition(t, store, batch.Partition, batch.Sequence)
		m.apply(batch)
	}
	broken := w.next()
	for range 50 {
		w.fill(&broken)
	}
	broken.Events[len(broken.Events)-1].Event.Source = "not UTF-8: \xff"
	if err := store.Write(t.Context(), broken); err == nil {
		t.Error("an event that cannot be encoded was written")
	}
	wantPosition(t, store, broken.Partition, broken.Prev)
	check(t, store, m, w.rng)
	if cut < 5 {
		t.Errorf("writes were cut at %d places, want more", cut)
	}
}

// cutContext is a context that is canceled when it is looked at for the
// (looks+1)th time.
type cutContext struct {
	context.Context //nolint:containedctx // it is one
	cancel          context.CancelFunc

	mu    sync.Mutex
	looks int // guarded by mu
}

// Done implements context.Context.
func (c *cutContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looks == 0 {
		c.cancel()
	}
	c.looks--
	return c.Context.Done()
}

// testReadingWhileWriting shows that a reader sees each batch whole.
func testReadingWhileWriting(t *testing.T, open Open) {
	store := opened(t, open)
	const batches, fanOut = 200, 7
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				deliveries, _, err := store.Deliveries(t.Context(), history.DeliveryQuery{Tenant: "acme"}, history.Page{Size: 1000 * fanOut})
				if err != nil || len(deliveries)%fanOut != 0 {
					t.Errorf("read %d deliveries, %v: want whole batches of %d", len(deliveries), err, fanOut)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	defer close(done)
	for i := range uint64(batches) {
		batch := history.Batch{Prev: i, Sequence: i + 1}
		for subscription := range uint64(fanOut) {
			batch.Deliveries = append(batch.Deliveries, history.DeliveryRow{
				Key:    history.DeliveryKey{EventKey: history.EventKey{Sequence: i + 1}, Subscription: subscription},
				Tenant: "acme", SubscriptionID: "sub_1", State: fanfarev1.Delivery_PENDING,
			})
		}
		write(t, store, batch)
	}
}

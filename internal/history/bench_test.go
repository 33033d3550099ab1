package history

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history/postgrestest"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// BenchmarkWrite measures what a delivery costs that takes one attempt: its
// row, then, in the next batch, the row as it ended and the attempt. With one
// event to ten deliveries.
func BenchmarkWrite(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) { benchmarkWrite(b, benchmarkSQLite) })
	b.Run("PostgreSQL", func(b *testing.B) {
		server := postgrestest.Start(b)
		benchmarkWrite(b, func(b *testing.B) Store {
			store, err := OpenPostgres(b.Context(), server.URL(), PostgresConfig{})
			if err != nil {
				b.Fatal(err)
			}
			return store
		})
	})
}

func benchmarkSQLite(b *testing.B) Store {
	store, err := OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "history"))
	if err != nil {
		b.Fatal(err)
	}
	return store
}

func benchmarkWrite(b *testing.B, open func(b *testing.B) Store) {
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			store := open(b)
			defer func() {
				if err := store.Close(); err != nil {
					b.Error(err)
				}
			}()
			sequence := uint64(0)
			for b.Loop() {
				for _, batch := range benchmarkBatches(sequence, size) {
					if err := store.Write(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
					sequence = batch.Sequence
				}
			}
			deliveries := float64(b.N * size)
			b.ReportMetric(b.Elapsed().Seconds()*1e6/deliveries, "µs/delivery")
			b.ReportMetric(3*deliveries/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkScan measures a replay's reading: all dead deliveries of a
// subscription, among ten times as many that were delivered.
func BenchmarkScan(b *testing.B) {
	const dead, batch, limit = 100_000, 10_000, 1000
	store, err := OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "history"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	}()
	query := ScanQuery{
		Tenant: "default", SubscriptionID: fmt.Sprintf("sub_%026d", 0),
		States: []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED},
		End:    time.UnixMilli(2_000_000_000_000),
	}
	for sequence := uint64(0); sequence < 2*dead*benchmarkFanOut/batch; sequence += 2 {
		for _, batch := range benchmarkBatches(sequence, batch) {
			for i := range batch.Deliveries {
				if batch.Deliveries[i].Key.Subscription == 0 {
					batch.Deliveries[i].State = query.States[i/benchmarkFanOut%2]
				}
			}
			batch.Attempts = nil
			if err := store.Write(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			if n, err := store.Count(b.Context(), query); err != nil || n != dead {
				b.Fatalf("counted %d, %v; want %d", n, err, dead)
			}
		}
	})
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			found, after := 0, DeliveryKey{}
			for more := true; more; {
				rows, err := store.Scan(b.Context(), query, after, limit)
				if err != nil {
					b.Fatal(err)
				}
				found += len(rows)
				if more = len(rows) == limit; more {
					after = rows[limit-1].Key
				}
			}
			if found != dead {
				b.Fatalf("found %d, want %d", found, dead)
			}
		}
		b.ReportMetric(float64(b.N)*dead/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkScanOfFew measures the same for a subscription with ten dead
// deliveries beside one with hundreds of thousands.
func BenchmarkScanOfFew(b *testing.B) {
	const others, few, batch = 300_000, 10, 10_000
	store, err := OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "history"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	}()
	for sequence := range uint64(others / batch) {
		rows := Batch{Prev: sequence, Sequence: sequence + 1}
		for i := range batch {
			row := DeliveryRow{
				Key:    DeliveryKey{EventKey: EventKey{Sequence: rows.Sequence, Index: uint32(i)}, Subscription: 1},
				Tenant: "default", SubscriptionID: "sub_many", State: fanfarev1.Delivery_DEAD,
				Created: time.UnixMilli(1_750_000_000_000), Ended: time.UnixMilli(1_750_000_000_000),
			}
			if i == 0 && sequence < few {
				row.Key.Subscription, row.SubscriptionID = 2, "sub_few"
			}
			rows.Deliveries = append(rows.Deliveries, row)
		}
		if err := store.Write(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
	}
	query := ScanQuery{Tenant: "default", SubscriptionID: "sub_few", States: []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD}}
	for b.Loop() {
		if rows, err := store.Scan(b.Context(), query, DeliveryKey{}, 500); err != nil || len(rows) != few {
			b.Fatalf("found %d, %v; want %d", len(rows), err, few)
		}
	}
}

const benchmarkFanOut = 10

// benchmarkBatches returns two: deliveries begin, and end.
func benchmarkBatches(sequence uint64, deliveries int) []Batch {
	now := time.UnixMilli(1_750_000_000_000 + int64(sequence))
	begin := Batch{Prev: sequence, Sequence: sequence + 1}
	end := Batch{Prev: sequence + 1, Sequence: sequence + 2}
	for i := range deliveries {
		event := EventKey{Sequence: begin.Sequence, Index: uint32(i / benchmarkFanOut)}
		if i%benchmarkFanOut == 0 {
			begin.Events = append(begin.Events, EventRow{Key: event, Tenant: "default", Event: &fanfarev1.Event{
				Id: fmt.Sprintf("evt_%026d", int(sequence)*deliveries+i), Type: "order.created", Source: "/tenants/default",
				Data: make([]byte, 1024), DataContentType: "application/json", PublishTime: timestamppb.New(now),
			}})
		}
		row := DeliveryRow{
			Key:    DeliveryKey{EventKey: event, Subscription: uint64(i % benchmarkFanOut)},
			Tenant: "default", SubscriptionID: fmt.Sprintf("sub_%026d", i%benchmarkFanOut),
			State: fanfarev1.Delivery_PENDING, Created: now, NextAttempt: now,
		}
		begin.Deliveries = append(begin.Deliveries, row)
		row.State, row.Attempts, row.Ended, row.NextAttempt = fanfarev1.Delivery_DELIVERED, 1, now, time.Time{}
		end.Deliveries = append(end.Deliveries, row)
		end.Attempts = append(end.Attempts, AttemptRow{Key: row.Key, Tenant: "default", SubscriptionID: row.SubscriptionID, Attempt: &fanfarev1.Attempt{
			Number: 1, Result: fanfarev1.Attempt_DELIVERED, StartTime: timestamppb.New(now),
			Latency: durationpb.New(12 * time.Millisecond), StatusCode: 200, ResponseBody: "ok", Worker: "worker-1",
		}})
	}
	return []Batch{begin, end}
}

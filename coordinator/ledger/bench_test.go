package ledger

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// many is how many subscriptions the ledgers of the benchmarks have.
const many = 100_000

// large returns a ledger with many subscriptions of a tenant, of which some
// want `order.created` and the others a type of their own.
func large(b *testing.B, wanting int) *Ledger {
	l := New()
	record := &linkv1.Record{Fence: fence(&linkv1.Limits{
		OutstandingHealthy: math.MaxUint32, OutstandingPartition: math.MaxUint32,
	})}
	for i := range many {
		pattern := fmt.Sprintf("type%d.*", i)
		if i < wanting {
			pattern = "order.created"
		}
		record.Subscriptions = append(record.Subscriptions,
			put(Number(i+1), "acme", fmt.Sprintf("sub_%026d", i), pattern))
	}
	foldNext(b, l, record)
	return l
}

// foldNext folds a record as the next one. Its hash is not a true one: to
// compute it is the log's work.
func foldNext(b *testing.B, l *Ledger, record *linkv1.Record) {
	record.PreviousHash, record.Epoch = l.hash, max(1, l.epoch)
	if _, err := l.Fold(l.sequence+1, bytes.Repeat([]byte{1}, HashSize), record); err != nil {
		b.Fatal(err)
	}
}

// forgive drops what is owed to the first few, without the way through the
// log.
func forgive(l *Ledger, count int) {
	for number := range Number(count) {
		s := l.subscriptions[number+1]
		l.outstanding -= len(s.owed)
		s.owed = s.owed[:0]
	}
}

// BenchmarkFoldEvent is an event that a few of many subscriptions want.
func BenchmarkFoldEvent(b *testing.B) {
	const most = 256 // events outstanding at a time
	for _, wanting := range []int{1, 1000} {
		b.Run(fmt.Sprintf("matching=%d", wanting), func(b *testing.B) {
			l := large(b, wanting)
			record := events(event("acme", "e1", "order.created"))
			b.ReportAllocs()
			for b.Loop() {
				foldNext(b, l, record)
				if l.outstanding >= most*wanting {
					forgive(l, wanting)
				}
			}
		})
	}
}

// BenchmarkFoldOutcomes is a record of 256 successes, of as many subscriptions.
func BenchmarkFoldOutcomes(b *testing.B) {
	const batch, rounds = 256, 256 // outcomes of a record, records until all is delivered
	l := large(b, batch)
	var records [rounds]*linkv1.Record
	for i := range records {
		records[i] = deliveries(batch, uint64(i+2))
	}
	publish := events(event("acme", "e1", "order.created"))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%rounds == 0 {
			b.StopTimer()
			refill(b, l, publish, rounds)
			b.StartTimer()
		}
		foldNext(b, l, records[i%rounds])
	}
}

// deliveries is a record of successes: one event's, to the first few.
func deliveries(count int, sequence uint64) *linkv1.Record {
	var reported []Reported
	for number := range Number(count) {
		reported = append(reported,
			outcome(linkv1.Outcome_DELIVERED, Delivery{number + 1, Position{sequence, 0}}, 1))
	}
	return &linkv1.Record{Outcomes: EncodeOutcomes(0, reported)}
}

// refill publishes again what records 2 and up held.
func refill(b *testing.B, l *Ledger, publish *linkv1.Record, records int) {
	if l.outstanding != 0 {
		b.Fatalf("%d outstanding, want 0", l.outstanding)
	}
	l.sequence = 1
	for range records {
		foldNext(b, l, publish)
	}
}

// BenchmarkSnapshot is a partition with 100,000 subscriptions, each of which
// is owed 2 events.
func BenchmarkSnapshot(b *testing.B) {
	l := large(b, many)
	foldNext(b, l, events(event("acme", "e1", "order.created"), event("acme", "e2", "order.created")))
	data, err := l.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("make", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := l.Snapshot(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("restore", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := Restore(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAllGoBehind is the worst record there is for the index: an event
// that 100,000 subscriptions want and none has room for. Then all come back.
func BenchmarkAllGoBehind(b *testing.B) {
	l := large(b, many)
	l.limits.OutstandingHealthy = 1
	foldNext(b, l, events(event("acme", "e1", "order.created")))
	b.ReportAllocs()
	for b.Loop() {
		foldNext(b, l, events(event("acme", "e2", "order.created")))
		if l.BehindCount() != many {
			b.Fatalf("%d are behind, want %d", l.BehindCount(), many)
		}
		record := &linkv1.Record{}
		for number := range Number(many) {
			record.Admits = append(record.Admits, admit(number+1, Position{l.sequence + 1, 0}))
		}
		foldNext(b, l, record)
		if l.BehindCount() != 0 {
			b.Fatalf("%d are behind, want 0", l.BehindCount())
		}
	}
}

// Package eventlogtest is the suite that every eventlog.Store passes. It
// tests what the comments of package eventlog promise.
package eventlogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
)

// Run tests the stores that open makes, an empty one for each test.
func Run(t *testing.T, open func(t *testing.T) eventlog.Store) {
	tests := []struct {
		name string
		test func(*suite)
	}{
		{"empty log", (*suite).emptyLog},
		{"append and read", (*suite).appendAndRead},
		{"empty record", (*suite).emptyRecord},
		{"chained appends", (*suite).chainedAppends},
		{"conflict in a chain", (*suite).conflictInChain},
		{"fenced chain", (*suite).fencedChain},
		{"two writers", (*suite).twoWriters},
		{"large records", (*suite).largeRecords},
		{"reads are bounded", (*suite).readsAreBounded},
		{"read while appending", (*suite).readWhileAppending},
		{"purge", (*suite).purge},
		{"purge everything", (*suite).purgeEverything},
		{"reopen", (*suite).reopen},
		{"partitions are apart", (*suite).partitionsAreApart},
		{"snapshots", (*suite).snapshots},
		{"two snapshots are kept", (*suite).twoSnapshotsAreKept},
		{"snapshots out of order", (*suite).snapshotsOutOfOrder},
		{"large snapshot", (*suite).largeSnapshot},
		{"context", (*suite).endedContext},
		{"closed", (*suite).closed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &suite{T: t, store: open(t)}
			s.log = s.open(0)
			tt.test(s)
		})
	}
}

// suite is one test: a store, and the log of its partition 0.
type suite struct {
	*testing.T
	store eventlog.Store
	log   eventlog.Log
}

func (s *suite) emptyLog() {
	s.wantState(s.log, 1, 0)
	s.wantRead(s.log, 1)
	s.wantReadError(s.log, 0, eventlog.ErrPurged)
	if err := s.log.Purge(s.Context(), 0); err != nil {
		s.Errorf("Purge(0) = %v", err)
	}
	s.wantNoSnapshot(s.log, math.MaxUint64)
}

func (s *suite) appendAndRead() {
	s.fill(s.log, 0, 3)
	s.wantState(s.log, 1, 3)
	s.wantRead(s.log, 1, "record 1", "record 2", "record 3")
	s.wantRead(s.log, 3, "record 3")
	s.wantRead(s.log, 4)
	s.wantRead(s.log, 400)
	state, err := s.log.State(s.Context())
	if err != nil || state.Bytes < 24 {
		s.Errorf("State = %+v, %v, want at least 24 bytes", state, err)
	}
}

func (s *suite) emptyRecord() {
	s.append(s.log, 0, nil)
	s.append(s.log, 1, []byte{})
	s.wantRead(s.log, 1, "", "")
	s.wantRead(s.log, 2, "")
}

func (s *suite) chainedAppends() {
	const n = 200
	results := make([]<-chan error, n)
	for i := range results {
		results[i] = s.log.Append(uint64(i), content(uint64(i+1)))
	}
	for i, result := range results {
		if err := <-result; err != nil {
			s.Fatalf("append %d = %v", i+1, err)
		}
	}
	s.wantState(s.log, 1, n)
}

func (s *suite) conflictInChain() {
	s.fill(s.log, 0, 2)
	chain := []struct {
		prev uint64
		want error
	}{
		{2, nil},
		{3, nil},
		{3, eventlog.ErrConflict}, // 4 is there by now
		{5, eventlog.ErrConflict}, // 5 is not
		{6, eventlog.ErrConflict},
		{0, eventlog.ErrConflict},
	}
	results := make([]<-chan error, len(chain))
	for i, c := range chain {
		results[i] = s.log.Append(c.prev, content(c.prev+1))
	}
	for i, c := range chain {
		if err := <-results[i]; !errors.Is(err, c.want) {
			s.Errorf("append %d after %d = %v, want %v", i, c.prev, err, c.want)
		}
	}
	s.wantState(s.log, 1, 4)
	s.fill(s.log, 4, 1) // the log goes on
	s.wantRead(s.log, 3, "record 3", "record 4", "record 5")
}

// fencedChain lets a new leader take the place of an append that others are
// chained behind. They must not follow the fence, although they find the last
// sequence that they expect.
func (s *suite) fencedChain() {
	older, newer := s.log, s.open(0)
	s.fill(older, 0, 2)
	s.append(newer, 2, []byte("fence"))
	chain := []<-chan error{older.Append(2, content(3)), older.Append(3, content(4)), older.Append(4, content(5))}
	s.wantState(newer, 1, 3)
	chain = append(chain, older.Append(3, content(4))) // the first may have failed by now, but nobody knows
	for i, result := range chain {
		if err := <-result; !errors.Is(err, eventlog.ErrConflict) {
			s.Errorf("append %d of the fenced writer = %v, want %v", i, err, eventlog.ErrConflict)
		}
	}
	s.wantRead(older, 1, "record 1", "record 2", "fence")
	s.fill(newer, 3, 1)
}

// twoWriters lets two writers race. Each record has one of them for author.
func (s *suite) twoWriters() {
	const n = 100
	var wins atomic.Uint64
	var racing sync.WaitGroup
	for _, log := range []eventlog.Log{s.log, s.open(0)} {
		racing.Go(func() {
			for prev := range uint64(n) {
				switch err := <-log.Append(prev, content(prev+1)); {
				case err == nil:
					wins.Add(1)
				case !errors.Is(err, eventlog.ErrConflict):
					s.Errorf("append %d = %v", prev+1, err)
				}
			}
		})
	}
	racing.Wait()
	s.wantState(s.log, 1, wins.Load())
	if wins.Load() == 0 {
		s.Error("nobody won")
	}
}

func (s *suite) largeRecords() {
	s.append(s.log, 0, bytes.Repeat([]byte{'a'}, eventlog.MaxRecordBytes))
	tooLarge := s.log.Append(1, bytes.Repeat([]byte{'b'}, eventlog.MaxRecordBytes+1))
	behind := s.log.Append(2, []byte("behind it"))
	if err := <-tooLarge; !errors.Is(err, eventlog.ErrTooLarge) {
		s.Errorf("append of a record over the limit = %v, want %v", err, eventlog.ErrTooLarge)
	}
	if err := <-behind; !errors.Is(err, eventlog.ErrConflict) {
		s.Errorf("append behind it = %v, want %v", err, eventlog.ErrConflict)
	}
	s.append(s.log, 1, bytes.Repeat([]byte{'c'}, eventlog.MaxRecordBytes))
	for seq, want := range map[uint64]byte{1: 'a', 2: 'c'} {
		records := s.read(s.log, seq)
		if len(records) != 1 || len(records[0].Data) != eventlog.MaxRecordBytes || records[0].Data[0] != want {
			s.Errorf("Read(%d) = %d records, want one of %q", seq, len(records), want)
		}
	}
}

func (s *suite) readsAreBounded() {
	const n, size = 30, 100 << 10
	for prev := range uint64(n) {
		s.append(s.log, prev, sized(prev+1, size))
	}
	var reads int
	for from := uint64(1); from <= n; reads++ {
		records := s.read(s.log, from)
		var total int
		for _, r := range records {
			if r.Seq != from || !bytes.Equal(r.Data, sized(from, size)) {
				s.Fatalf("read record %d of %d bytes, want %d of %d", r.Seq, len(r.Data), from, size)
			}
			total += len(r.Data)
			from++
		}
		if len(records) == 0 || total > eventlog.MaxReadBytes {
			s.Fatalf("one read has %d records, %d bytes", len(records), total)
		}
	}
	if reads > 5 {
		s.Errorf("%d reads for %d bytes", reads, n*size)
	}
	for _, most := range []int{1, 3, 9} {
		if records, err := s.log.Read(s.Context(), 7, most); err != nil || len(records) != most || records[0].Seq != 7 {
			s.Errorf("Read(7, at most %d) = %d records, %v", most, len(records), err)
		}
	}
}

func (s *suite) readWhileAppending() {
	const n = 300
	reader := s.open(0)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		for i := range uint64(n) {
			if err := <-s.log.Append(i, content(i+1)); err != nil {
				s.Errorf("append %d = %v", i+1, err)
				return
			}
		}
	})
	for from := uint64(1); from <= n && !s.Failed(); {
		for _, r := range s.read(reader, from) {
			if r.Seq != from || !bytes.Equal(r.Data, content(from)) {
				s.Fatalf("read record %d %q, want %d", r.Seq, r.Data, from)
			}
			from++
		}
	}
}

func (s *suite) purge() {
	s.fill(s.log, 0, 6)
	for range 2 {
		s.purgeTo(s.log, 3)
		s.wantState(s.log, 4, 6)
	}
	s.purgeTo(s.log, 2)
	s.wantState(s.log, 4, 6)
	for _, from := range []uint64{0, 1, 3} {
		s.wantReadError(s.log, from, eventlog.ErrPurged)
	}
	s.wantRead(s.log, 4, "record 4", "record 5", "record 6")
	s.fill(s.log, 6, 1)
	s.wantRead(s.log, 6, "record 6", "record 7")
}

func (s *suite) purgeEverything() {
	s.fill(s.log, 0, 3)
	s.purgeTo(s.log, 3)
	s.wantState(s.log, 4, 3)
	s.wantReadError(s.log, 3, eventlog.ErrPurged)
	s.wantRead(s.log, 4)
	s.fill(s.log, 3, 2)
	s.wantState(s.log, 4, 5)
	for _, beyond := range []uint64{1000, math.MaxUint64} {
		s.purgeTo(s.log, beyond)
		s.wantState(s.log, 6, 5)
	}
	s.fill(s.log, 5, 1)
	s.wantRead(s.log, 6, "record 6")
}

func (s *suite) reopen() {
	s.fill(s.log, 0, 4)
	s.purgeTo(s.log, 1)
	s.save(s.log, 3, []byte("state at 3"))
	if err := s.log.Close(); err != nil {
		s.Errorf("Close = %v", err)
	}
	log := s.open(0)
	s.wantState(log, 2, 4)
	s.wantRead(log, 2, "record 2", "record 3", "record 4")
	s.wantSnapshot(log, math.MaxUint64, 3, []byte("state at 3"))
	s.fill(log, 4, 1)
}

func (s *suite) partitionsAreApart() {
	other := s.open(11)
	s.fill(s.log, 0, 2)
	s.save(s.log, 2, []byte("mine"))
	s.wantState(other, 1, 0)
	s.wantNoSnapshot(other, math.MaxUint64)
	s.append(other, 0, []byte("theirs"))
	s.wantRead(other, 1, "theirs")
	s.wantRead(s.log, 1, "record 1", "record 2")
	if _, err := s.store.Open(s.Context(), -1); err == nil {
		s.Error("Open(-1) succeeded")
	}
}

func (s *suite) snapshots() {
	s.save(s.log, 0, nil) // of a log that has no records: the state is empty
	s.wantSnapshot(s.log, 0, 0, nil)
	s.fill(s.log, 0, 2)
	s.save(s.log, 2, []byte("state at 2"))
	s.wantSnapshot(s.log, math.MaxUint64, 2, []byte("state at 2"))
	s.wantSnapshot(s.log, 2, 2, []byte("state at 2"))
	s.wantSnapshot(s.log, 1, 0, nil)
	s.wantState(s.log, 1, 2) // snapshots are no records of the log
}

func (s *suite) twoSnapshotsAreKept() {
	for seq := uint64(1); seq <= 5; seq++ {
		s.save(s.log, seq*10, content(seq))
	}
	s.wantSnapshot(s.log, 49, 40, content(4))
	s.wantSnapshot(s.log, 50, 50, content(5))
	s.wantNoSnapshot(s.log, 39)
}

func (s *suite) snapshotsOutOfOrder() {
	s.save(s.log, 20, []byte("20"))
	s.save(s.log, 30, []byte("30"))
	s.save(s.log, 10, []byte("10"))
	s.wantNoSnapshot(s.log, 19)
	s.save(s.log, 25, []byte("25"))
	s.wantSnapshot(s.log, 29, 25, []byte("25"))
	s.wantSnapshot(s.log, math.MaxUint64, 30, []byte("30"))
	s.wantNoSnapshot(s.log, 24)
	s.save(s.log, 30, []byte("30 again"))
	s.wantSnapshot(s.log, math.MaxUint64, 30, []byte("30 again"))
	s.wantSnapshot(s.log, 29, 25, []byte("25"))
}

func (s *suite) largeSnapshot() {
	large := make([]byte, 5<<20+123)
	for i := range large {
		large[i] = byte(i % 251)
	}
	for seq := range uint64(4) {
		s.save(s.log, seq, large[seq:])
	}
	s.wantSnapshot(s.log, 2, 2, large[2:])
	s.wantSnapshot(s.log, 3, 3, large[3:])
	s.wantNoSnapshot(s.log, 1)
}

func (s *suite) endedContext() {
	s.fill(s.log, 0, 2)
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	if _, err := s.log.Read(ctx, 1, eventlog.MaxReadRecords); !errors.Is(err, context.Canceled) {
		s.Errorf("Read with an ended context = %v", err)
	}
	if err := s.log.SaveSnapshot(ctx, 1, []byte("x")); !errors.Is(err, context.Canceled) {
		s.Errorf("SaveSnapshot with an ended context = %v", err)
	}
	s.wantNoSnapshot(s.log, math.MaxUint64)
}

func (s *suite) closed() {
	s.fill(s.log, 0, 2)
	underWay := s.log.Append(2, content(3))
	for range 2 {
		if err := s.log.Close(); err != nil {
			s.Errorf("Close = %v", err)
		}
	}
	if err := <-underWay; err != nil && !errors.Is(err, eventlog.ErrClosed) {
		s.Errorf("append under way = %v, want nil or %v", err, eventlog.ErrClosed)
	}
	ctx := s.Context()
	_, readErr := s.log.Read(ctx, 1, eventlog.MaxReadRecords)
	_, stateErr := s.log.State(ctx)
	_, _, loadErr := s.log.LoadSnapshot(ctx, math.MaxUint64)
	for name, err := range map[string]error{
		"Append":       <-s.log.Append(2, content(3)),
		"Read":         readErr,
		"State":        stateErr,
		"Purge":        s.log.Purge(ctx, 1),
		"SaveSnapshot": s.log.SaveSnapshot(ctx, 1, []byte("x")),
		"LoadSnapshot": loadErr,
	} {
		if !errors.Is(err, eventlog.ErrClosed) {
			s.Errorf("%s after Close = %v, want %v", name, err, eventlog.ErrClosed)
		}
	}
	if records := s.read(s.open(0), 1); len(records) < 2 || len(records) > 3 {
		s.Errorf("%d records, want the 2, and perhaps the one that was under way", len(records))
	}
}

// content is what record seq holds, unless a test says otherwise.
func content(seq uint64) []byte { return fmt.Appendf(nil, "record %d", seq) }

// sized is content(seq) made up to a size.
func sized(seq uint64, size int) []byte {
	return append(content(seq), bytes.Repeat([]byte{'.'}, size-len(content(seq)))...)
}

func (s *suite) open(partition int) eventlog.Log {
	s.Helper()
	log, err := s.store.Open(s.Context(), partition)
	if err != nil {
		s.Fatalf("Open(%d) = %v", partition, err)
	}
	s.Cleanup(func() {
		if err := log.Close(); err != nil {
			s.Errorf("Close = %v", err)
		}
	})
	return log
}

func (s *suite) append(log eventlog.Log, prev uint64, data []byte) {
	s.Helper()
	if err := <-log.Append(prev, data); err != nil {
		s.Fatalf("append after %d = %v", prev, err)
	}
}

// fill appends n records after prev.
func (s *suite) fill(log eventlog.Log, prev, n uint64) {
	s.Helper()
	for seq := prev + 1; seq <= prev+n; seq++ {
		s.append(log, seq-1, content(seq))
	}
}

func (s *suite) read(log eventlog.Log, from uint64) []eventlog.Record {
	s.Helper()
	records, err := log.Read(s.Context(), from, eventlog.MaxReadRecords)
	if err != nil {
		s.Fatalf("Read(%d) = %v", from, err)
	}
	return records
}

func (s *suite) wantRead(log eventlog.Log, from uint64, want ...string) {
	s.Helper()
	got := []string{}
	for i, r := range s.read(log, from) {
		if r.Seq != from+uint64(i) {
			s.Errorf("Read(%d): record %d has seq %d", from, i, r.Seq)
		}
		got = append(got, string(r.Data))
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		s.Errorf("Read(%d), -want +got:\n%s", from, diff)
	}
}

func (s *suite) wantReadError(log eventlog.Log, from uint64, want error) {
	s.Helper()
	if records, err := log.Read(s.Context(), from, eventlog.MaxReadRecords); !errors.Is(err, want) {
		s.Errorf("Read(%d) = %d records, %v, want %v", from, len(records), err, want)
	}
}

func (s *suite) wantState(log eventlog.Log, first, last uint64) {
	s.Helper()
	state, err := log.State(s.Context())
	if err != nil || state.First != first || state.Last != last {
		s.Errorf("State = %+v, %v, want %d to %d", state, err, first, last)
	}
}

func (s *suite) purgeTo(log eventlog.Log, upTo uint64) {
	s.Helper()
	if err := log.Purge(s.Context(), upTo); err != nil {
		s.Fatalf("Purge(%d) = %v", upTo, err)
	}
}

func (s *suite) save(log eventlog.Log, seq uint64, data []byte) {
	s.Helper()
	if err := log.SaveSnapshot(s.Context(), seq, data); err != nil {
		s.Fatalf("SaveSnapshot(%d) = %v", seq, err)
	}
}

func (s *suite) wantSnapshot(log eventlog.Log, atMost, wantSeq uint64, want []byte) {
	s.Helper()
	seq, data, err := log.LoadSnapshot(s.Context(), atMost)
	if err != nil || seq != wantSeq || !bytes.Equal(data, want) {
		s.Errorf("LoadSnapshot(%d) = %d, %d bytes, %v, want %d, %d bytes", atMost, seq, len(data), err, wantSeq, len(want))
	}
}

func (s *suite) wantNoSnapshot(log eventlog.Log, atMost uint64) {
	s.Helper()
	if seq, _, err := log.LoadSnapshot(s.Context(), atMost); !errors.Is(err, eventlog.ErrNoSnapshot) {
		s.Errorf("LoadSnapshot(%d) = %d, %v, want %v", atMost, seq, err, eventlog.ErrNoSnapshot)
	}
}

package eventlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
	"github.com/fanfare-dev/fanfare/internal/eventlog/eventlogtest"
)

func TestJetStream(t *testing.T) {
	eventlogtest.Run(t, func(t *testing.T) eventlog.Store {
		return openStore(t, connect(t, start(t, t.TempDir())), eventlog.JetStreamConfig{})
	})
}

func TestJetStreamRestart(t *testing.T) {
	dir := t.TempDir()
	older := start(t, dir)
	log := openLog(t, openStore(t, connect(t, older), eventlog.JetStreamConfig{}))
	fill(t, log, 0, "a", "b", "c")
	if err := log.Purge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	saveSnapshot(t, log, 1, "state at 1")
	saveSnapshot(t, log, 2, "state at 2")
	older.Close()

	log = openLog(t, openStore(t, connect(t, start(t, dir)), eventlog.JetStreamConfig{}))
	state, err := log.State(t.Context())
	if err != nil || state.First != 2 || state.Last != 3 {
		t.Errorf("State = %+v, %v, want 2 to 3", state, err)
	}
	wantRecords(t, log, 2, "b", "c")
	wantSnapshot(t, log, 2, "state at 2")
	fill(t, log, 3, "d")
	wantRecords(t, log, 2, "b", "c", "d")
}

// A crash while the server makes a stream can leave its description without
// the checksum. The server then starts without the stream, and does so again
// each time; made again, the stream has the records that are in its directory.
func TestJetStreamHalfMadeStream(t *testing.T) {
	dir := t.TempDir()
	older := start(t, dir)
	log := openLog(t, openStore(t, connect(t, older), eventlog.JetStreamConfig{}))
	fill(t, log, 0, "a", "b")
	saveSnapshot(t, log, 1, "state at 1")
	older.Close()
	sums, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "FANFARE_*", "meta.sum"))
	if err != nil || len(sums) != 2 {
		t.Fatalf("checksums of the streams: %q, %v, want 2", sums, err)
	}
	for _, sum := range sums {
		if err := os.Remove(sum); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		again := start(t, dir)
		log = openLog(t, openStore(t, connect(t, again), eventlog.JetStreamConfig{}))
		wantRecords(t, log, 1, "a", "b")
		wantSnapshot(t, log, 1, "state at 1")
		again.Close()
	}
	log = openLog(t, openStore(t, connect(t, start(t, dir)), eventlog.JetStreamConfig{}))
	fill(t, log, 2, "c")
	saveSnapshot(t, log, 2, "state at 2")
	wantRecords(t, log, 1, "a", "b", "c")
	wantSnapshot(t, log, 2, "state at 2")
}

// A server that has written down, at its stop, how far a stream goes still says
// so when the records are gone. Reading them must not end with a timeout, which
// would be tried again for ever.
func TestJetStreamRecordsGoneAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	older := start(t, dir)
	log := openLog(t, openStore(t, connect(t, older), eventlog.JetStreamConfig{}))
	fill(t, log, 0, slices.Repeat([]string{strings.Repeat("x", 1000)}, 20)...)
	older.Close()
	block := filepath.Join(dir, "jetstream", "$G", "streams", "FANFARE_0", "msgs", "1.blk")
	info, err := os.Stat(block)
	if err == nil {
		err = os.Truncate(block, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	log = openLog(t, openStore(t, connect(t, start(t, dir)), eventlog.JetStreamConfig{}))
	if state, err := log.State(t.Context()); err != nil || state.Last != 20 {
		t.Errorf("State = %+v, %v, want it to end at 20", state, err)
	}
	for from := uint64(1); ; {
		records, err := log.Read(t.Context(), from, eventlog.MaxReadRecords)
		if from += uint64(len(records)); err == nil && len(records) > 0 {
			continue
		}
		if !errors.Is(err, eventlog.ErrDamaged) || from < 5 || from > 15 {
			t.Errorf("Read(%d) = %d records, %v, want %v about the tenth", from, len(records), err, eventlog.ErrDamaged)
		}
		return
	}
}

func TestJetStreamTornSnapshot(t *testing.T) {
	// The snapshots below are records 1 and 2, a chunk and the seal, then 3
	// to 5, two chunks and the seal.
	newer := strings.Repeat("state at 2", 80<<10)
	tests := []struct {
		name string
		tear func(*testing.T, jetstream.JetStream, jetstream.Stream)
		want uint64
	}{
		{"whole", func(*testing.T, jetstream.JetStream, jetstream.Stream) {}, 2},
		{"first chunk is lost", deleteRecord(3), 1},
		{"second chunk is lost", deleteRecord(4), 1},
		{"seal is lost", deleteRecord(5), 1},
		{"never sealed", publishLast("\x01\x00\x00\x00\x00\x00\x00\x00\x06half a state"), 2},
		{"sealed with the wrong digest", publishLast("\x02\x00\x00\x00\x00\x00\x00\x00\x06" + strings.Repeat("\x00", 7) + "\x09" + strings.Repeat("\x00", 40)), 2},
		{"not a part of a snapshot", publishLast("?"), 2},
		{"a run that begins after its end", publishLast("\x01\x00\x00\x00\x00\x00\x00\x00\x07"), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nc := connect(t, start(t, t.TempDir()))
			log := openLog(t, openStore(t, nc, eventlog.JetStreamConfig{}))
			saveSnapshot(t, log, 1, "state at 1")
			saveSnapshot(t, log, 2, newer)
			js, stream := rawStream(t, nc, "FANFARE_SNAPSHOTS_0")
			tt.tear(t, js, stream)
			wantSnapshot(t, log, tt.want, map[uint64]string{1: "state at 1", 2: newer}[tt.want])
			saveSnapshot(t, log, 3, "state at 3")
			wantSnapshot(t, log, 3, "state at 3")
		})
	}
}

func deleteRecord(seq uint64) func(*testing.T, jetstream.JetStream, jetstream.Stream) {
	return func(t *testing.T, _ jetstream.JetStream, stream jetstream.Stream) {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
}

func publishLast(data string) func(*testing.T, jetstream.JetStream, jetstream.Stream) {
	return func(t *testing.T, js jetstream.JetStream, _ jetstream.Stream) {
		if _, err := js.Publish(t.Context(), "fanfare.snapshots.0", []byte(data), jetstream.WithExpectLastSequence(5)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJetStreamGap(t *testing.T) {
	nc := connect(t, start(t, t.TempDir()))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FANFARE_0", Subjects: []string{"fanfare.log.0"}, Discard: jetstream.DiscardNew})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		if _, err := js.Publish(t.Context(), "fanfare.log.0", fmt.Append(nil, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	for _, seq := range []uint64{3, 4, 7} {
		deleteRecord(seq)(t, js, stream)
	}
	log := openLog(t, openStore(t, nc, eventlog.JetStreamConfig{}))
	wantRecords(t, log, 1, "1", "2")
	wantRecords(t, log, 5, "5", "6")
	for _, from := range []uint64{3, 4, 7} {
		if records, err := log.Read(t.Context(), from, eventlog.MaxReadRecords); !errors.Is(err, eventlog.ErrDamaged) {
			t.Errorf("Read(%d) = %d records, %v, want %v", from, len(records), err, eventlog.ErrDamaged)
		}
	}
	if err := stream.DeleteMsg(t.Context(), 5); err == nil {
		t.Error("a record of an open log can be deleted")
	}
}

func TestJetStreamVanished(t *testing.T) {
	nc := connect(t, start(t, t.TempDir()))
	log := openLog(t, openStore(t, nc, eventlog.JetStreamConfig{}))
	fill(t, log, 0, "a")
	js, _ := rawStream(t, nc, "FANFARE_0")
	if err := js.DeleteStream(t.Context(), "FANFARE_0"); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Read(t.Context(), 1, eventlog.MaxReadRecords); !errors.Is(err, eventlog.ErrDamaged) {
		t.Errorf("Read of a log that vanished = %v, want %v", err, eventlog.ErrDamaged)
	}
	if err := <-log.Append(1, []byte("b")); !errors.Is(err, eventlog.ErrUnknown) {
		t.Errorf("append to a log that vanished = %v, want %v", err, eventlog.ErrUnknown)
	}
}

func TestJetStreamNoSpace(t *testing.T) {
	log := openLog(t, openStore(t, connect(t, start(t, t.TempDir())), eventlog.JetStreamConfig{MaxBytes: 1 << 20}))
	large := bytes.Repeat([]byte{'x'}, 400<<10)
	var results []<-chan error
	for prev := range uint64(4) {
		results = append(results, log.Append(prev, large))
	}
	for i, want := range []error{nil, nil, eventlog.ErrNoSpace, eventlog.ErrConflict} {
		if err := <-results[i]; !errors.Is(err, want) {
			t.Errorf("append %d = %v, want %v", i+1, err, want)
		}
	}
	saveSnapshot(t, log, 2, string(bytes.Repeat(large, 4)))
	if err := log.Purge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	fill(t, log, 2, "there is space again")
	wantRecords(t, log, 3, "there is space again")
}

func TestJetStreamLostServer(t *testing.T) {
	server := start(t, t.TempDir())
	log := openLog(t, openStore(t, connect(t, server), eventlog.JetStreamConfig{AppendTimeout: 200 * time.Millisecond}))
	fill(t, log, 0, "a")
	server.Close()
	first, second := log.Append(1, []byte("b")), log.Append(2, []byte("c"))
	for _, result := range []<-chan error{first, second} {
		if err := <-result; !errors.Is(err, eventlog.ErrUnknown) {
			t.Errorf("append without a server = %v, want %v", err, eventlog.ErrUnknown)
		}
	}
	if _, err := log.State(t.Context()); err == nil || errors.Is(err, eventlog.ErrDamaged) {
		t.Errorf("State without a server = %v", err)
	}
}

func TestJetStreamReadsLeaveNoConsumers(t *testing.T) {
	nc := connect(t, start(t, t.TempDir()))
	log := openLog(t, openStore(t, nc, eventlog.JetStreamConfig{}))
	fill(t, log, 0, "a", "b", "c")
	for range 5 {
		wantRecords(t, log, 1, "a", "b", "c")
	}
	_, stream := rawStream(t, nc, "FANFARE_0")
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

func TestJetStreamConfig(t *testing.T) {
	nc := connect(t, start(t, t.TempDir()))
	for want, cfg := range map[string]eventlog.JetStreamConfig{
		"prefix":         {Prefix: "a.b"},
		"replicas":       {Replicas: -1},
		"append timeout": {AppendTimeout: -1},
		"max bytes":      {MaxBytes: -1},
	} {
		if _, err := eventlog.NewJetStream(nc, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewJetStream(%+v) = %v, want an error that names %s", cfg, err, want)
		}
	}
	openLog(t, openStore(t, nc, eventlog.JetStreamConfig{Prefix: "OTHER"}))
	if _, stream := rawStream(t, nc, "OTHER_0"); stream.CachedInfo().Config.Subjects[0] != "other.log.0" {
		t.Errorf("subjects of OTHER_0 = %q", stream.CachedInfo().Config.Subjects)
	}
}

// A log must not begin on a server that would refuse its larger records.
func TestJetStreamSmallPayload(t *testing.T) {
	ns, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 512 << 10})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	defer ns.WaitForShutdown()
	defer ns.Shutdown()
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := openStore(t, nc, eventlog.JetStreamConfig{}).Open(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("Open = %v, want an error that names max_payload", err)
	}
}

// BenchmarkAppend appends records of one size, depth at a time, to an
// embedded server that syncs each.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 128 << 10, 512 << 10} {
		for _, depth := range []int{1, 4} {
			b.Run(fmt.Sprintf("size=%dKiB/depth=%d", size>>10, depth), func(b *testing.B) {
				log := openLog(b, openStore(b, connect(b, start(b, b.TempDir())), eventlog.JetStreamConfig{}))
				data := bytes.Repeat([]byte{'x'}, size)
				var underWay []<-chan error
				var prev uint64
				b.SetBytes(int64(size))
				for b.Loop() {
					if len(underWay) == depth {
						if err := <-underWay[0]; err != nil {
							b.Fatal(err)
						}
						underWay = underWay[1:]
					}
					underWay = append(underWay, log.Append(prev, data))
					prev++
				}
				for _, result := range underWay {
					if err := <-result; err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}

// BenchmarkRead reads a log of 32 MiB from its beginning to its end.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{1 << 10, 128 << 10, 512 << 10} {
		b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) {
			log := openLog(b, openStore(b, connect(b, start(b, b.TempDir())), eventlog.JetStreamConfig{}))
			n := uint64(32<<20) / uint64(size)
			for prev := range n {
				fill(b, log, prev, strings.Repeat("x", size))
			}
			b.SetBytes(32 << 20)
			for b.Loop() {
				for from := uint64(1); from <= n; {
					records, err := log.Read(b.Context(), from, eventlog.MaxReadRecords)
					if err != nil {
						b.Fatal(err)
					}
					from += uint64(len(records))
				}
			}
		})
	}
}

// start runs a server until the test ends, unless it is closed before.
func start(t testing.TB, dir string) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func connect(t testing.TB, server *embedded.Server) *nats.Conn {
	t.Helper()
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func openStore(t testing.TB, nc *nats.Conn, cfg eventlog.JetStreamConfig) *eventlog.JetStream {
	t.Helper()
	store, err := eventlog.NewJetStream(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func rawStream(t testing.TB, nc *nats.Conn, name string) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return js, stream
}

func fill(t testing.TB, log eventlog.Log, prev uint64, data ...string) {
	t.Helper()
	for _, d := range data {
		if err := <-log.Append(prev, []byte(d)); err != nil {
			t.Fatalf("append after %d = %v", prev, err)
		}
		prev++
	}
}

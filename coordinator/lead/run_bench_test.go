package lead

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// forgetful is a history that keeps its position only: what it costs to write
// one is measured where it is written.
type forgetful struct {
	history.Store

	position atomic.Uint64
}

func (h *forgetful) Position(context.Context, int) (uint64, error) { return h.position.Load(), nil }

func (h *forgetful) Write(_ context.Context, batch history.Batch) error {
	h.position.Store(batch.Sequence)
	return nil
}

func (*forgetful) Sync(context.Context) error { return nil }

// openSecrets takes what is sealed for the secret itself.
type openSecrets struct{}

func (openSecrets) Open(sealed []byte) (string, error) { return string(sealed), nil }

// benchLeader runs a leader until the benchmark ends, or end is called.
func benchLeader(b *testing.B, log eventlog.Log, config Config) (l *Leader, end func()) {
	b.Helper()
	config.Coordinator, config.Log, config.Logger, config.Secrets = "c1", log, slog.New(slog.DiscardHandler), openSecrets{}
	config.SnapshotBytes, config.SnapshotInterval = 1<<40, time.Hour // none
	if config.History == nil {
		config.History = new(forgetful)
	}
	l, err := New(config)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	select {
	case <-l.Ready():
	case err := <-ended:
		cancel()
		b.Fatal(err)
	}
	return l, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
}

// subscribeMany makes subscriptions, all in one record.
func subscribeMany(b *testing.B, l *Leader, count int) {
	b.Helper()
	err := l.Change(b.Context(), "many", func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		for number := 1; number <= count; number++ {
			record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{
				Number: uint64(number), Put: typicalSubscription(number),
			})
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// controlMany pauses or resumes them.
func controlMany(b *testing.B, l *Leader, count int, action linkv1.Control_Action) {
	b.Helper()
	err := l.Change(b.Context(), "many", func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		for number := 1; number <= count; number++ {
			record.Controls = append(record.Controls, &linkv1.Control{Subscription: uint64(number), Action: action})
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// publishMany publishes events of 1 KiB, some of them at a time.
func publishMany(b *testing.B, l *Leader, count int) {
	b.Helper()
	encoded, err := proto.Marshal(&fanfarev1.Event{Id: "evt", Type: "order.created", Data: make([]byte, 1<<10)})
	if err != nil {
		b.Fatal(err)
	}
	for published := 0; published < count; {
		var events []*linkv1.LoggedEvent
		for ; published < count && len(events) < 500; published++ {
			events = append(events, &linkv1.LoggedEvent{
				Tenant: "acme", Id: fmt.Sprintf("evt_%d", published), Type: "order.created", Event: encoded, IdGenerated: true,
			})
		}
		publishing, err := l.Publish(b.Context(), events)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := publishing.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// swift is a worker's end of a session, whose deliveries all succeed at once.
type swift struct {
	ctx       context.Context //nolint:containedctx // a stream has one
	requests  chan *linkv1.AttachRequest
	delivered atomic.Int64
	number    uint64 // of the last batch; owned by Send
}

func newSwift(ctx context.Context) *swift {
	s := &swift{ctx: ctx, requests: make(chan *linkv1.AttachRequest, 1<<16)} // more than credit allows to be under way
	for slot := range int32(DefaultSlots) {
		s.requests <- &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Claim{Claim: &linkv1.Claim{Slot: slot, Epoch: 1}}}
	}
	return s
}

func (s *swift) Context() context.Context { return s.ctx }

func (s *swift) Send(response *linkv1.AttachResponse) error {
	dispatch := response.GetDispatch()
	if dispatch == nil {
		return nil
	}
	s.number++
	batch := &linkv1.OutcomeBatch{Number: s.number}
	for _, target := range dispatch.GetTargets() {
		batch.Outcomes = append(batch.Outcomes, &linkv1.Outcome{
			Kind: linkv1.Outcome_DELIVERED, Subscription: target.GetSubscription(), Sequence: dispatch.GetSequence(),
			Index: dispatch.GetIndex(), Attempt: target.GetAttempt(), StartTimeUnixMs: time.Now().UnixMilli(), StatusCode: 200,
		})
	}
	s.delivered.Add(int64(len(batch.GetOutcomes())))
	s.requests <- &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Outcomes{Outcomes: batch}}
	return nil
}

func (s *swift) Recv() (*linkv1.AttachRequest, error) {
	select {
	case request := <-s.requests:
		return request, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}

// BenchmarkCatchUp is what it takes until subscriptions that were paused have
// got all that was published meanwhile.
func BenchmarkCatchUp(b *testing.B) {
	for _, test := range []struct{ subscriptions, events int }{{1, 20_000}, {1000, 200}} {
		b.Run(fmt.Sprintf("subscriptions=%d", test.subscriptions), func(b *testing.B) {
			log := openBenchLog(b, eventlog.NewMemory())
			l, end := benchLeader(b, log, Config{})
			defer end()
			ctx, cancel := context.WithCancel(b.Context())
			worker := newSwift(ctx)
			var attached sync.WaitGroup
			attached.Go(func() {
				err := l.Attach(worker, &linkv1.Hello{Worker: "w1", CreditCount: 4096, CreditBytes: 1 << 30}) //nolint:contextcheck // it is the stream's
				if err != nil && ctx.Err() == nil {
					b.Error(err)
				}
			})
			defer attached.Wait()
			defer cancel()
			subscribeMany(b, l, test.subscriptions)
			deliveries := int64(test.subscriptions * test.events)
			for b.Loop() {
				b.StopTimer()
				controlMany(b, l, test.subscriptions, linkv1.Control_PAUSE)
				publishMany(b, l, test.events)
				want := worker.delivered.Load() + deliveries
				b.StartTimer()
				controlMany(b, l, test.subscriptions, linkv1.Control_RESUME)
				for worker.delivered.Load() < want {
					if err := l.Query(b.Context(), func(*ledger.Ledger) {}); err != nil {
						b.Fatal(err)
					}
					<-time.After(time.Millisecond)
				}
			}
			b.ReportMetric(float64(deliveries)*float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

func openBenchLog(b *testing.B, store eventlog.Store) eventlog.Log {
	b.Helper()
	log, err := store.Open(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := log.Close(); err != nil {
			b.Error(err)
		}
	})
	return log
}

// BenchmarkTakeOver is the start of a leader on a log of the embedded server,
// without a snapshot. Each event, of 1 KiB, was delivered to one subscription.
func BenchmarkTakeOver(b *testing.B) {
	const size = 128 << 20
	server, err := embedded.Start(embedded.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Close)
	conn, err := server.Connect()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	store, err := eventlog.NewJetStream(conn, eventlog.JetStreamConfig{})
	if err != nil {
		b.Fatal(err)
	}
	log := openBenchLog(b, store)
	events, last := fillLog(b, log, size)
	taken := new(forgetful)
	taken.position.Store(last) // the follower writes nothing
	for b.Loop() {
		_, end := benchLeader(b, log, Config{History: taken})
		b.StopTimer()
		end()
		b.StartTimer()
	}
	b.SetBytes(size)
	perRun := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(perRun*(1<<30)/size, "s/GiB")
	b.ReportMetric(float64(events)/perRun, "events/s")
}

// fillLog writes a log of about a size: of events, and of outcomes of those of
// the record before. It returns how many events that are, and the last record.
func fillLog(b *testing.B, log eventlog.Log, size int) (events int, sequence uint64) {
	b.Helper()
	var hash []byte
	write := func(record *linkv1.Record) int {
		record.Epoch, record.PreviousHash, record.TimeUnixMs = 1, hash, 1_700_000_000_000
		data, err := proto.Marshal(record)
		if err != nil {
			b.Fatal(err)
		}
		if err := <-log.Append(sequence, data); err != nil {
			b.Fatal(err)
		}
		sum := sha256.Sum256(data)
		sequence, hash = sequence+1, sum[:]
		return len(data)
	}
	written := write(&linkv1.Record{
		Fence:         &linkv1.Fence{FoldVersion: ledger.FoldVersion},
		Subscriptions: []*linkv1.SubscriptionChange{{Number: 1, Put: typicalSubscription(1)}},
	})
	const block = 200
	payload := []byte(strings.Repeat("x", 1<<10))
	for written < size {
		record := new(linkv1.Record)
		var reported []ledger.Reported
		for i := range uint32(block) {
			events++
			record.Events = append(record.Events, &linkv1.LoggedEvent{
				Tenant: "acme", Id: fmt.Sprintf("evt_%d", events), Type: "order.created", Event: payload,
			})
			if sequence > 1 {
				reported = append(reported, ledger.Reported{Worker: "w1", Outcome: &linkv1.Outcome{
					Kind: linkv1.Outcome_DELIVERED, Subscription: 1, Sequence: sequence, Index: i, Attempt: 1, StatusCode: 200,
				}})
			}
		}
		record.Outcomes = ledger.EncodeOutcomes(1_700_000_000_000, reported)
		written += write(record)
	}
	return events, sequence
}

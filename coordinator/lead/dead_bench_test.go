package lead

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	manyDead    = 100_000
	fewHealthy  = 10
	deadBacklog = 1_000_000 // events that each of the dead is owed
)

// graveyard is all that a partition holds in memory of its subscriptions, in a
// process that leads it: the ledger and dispatch of the leader, and the
// follower's ledger. A worker that takes everything at once stands for all of
// them. The first few subscriptions are healthy, and the others never answer.
type graveyard struct {
	tb       testing.TB
	loop     *loop
	follower *ledger.Ledger
	healthy  uint64
	now      int64
	events   int
}

func newGraveyard(tb testing.TB, dead int) *graveyard {
	g := &graveyard{
		tb:       tb,
		loop:     &loop{leader: &Leader{logger: slog.New(slog.DiscardHandler)}, ledger: ledger.New(), dispatch: dispatch.New(DefaultSlots)},
		follower: ledger.New(),
		healthy:  fewHealthy,
		now:      1_700_000_000_000,
	}
	g.loop.dispatch.Attach(1, dispatch.Worker{ID: "w1"}, dispatch.NewCredit(1<<30, 1<<50))
	for slot := range DefaultSlots {
		g.loop.dispatch.Claim(1, slot, 1, nil)
	}
	g.fold(&linkv1.Record{Fence: &linkv1.Fence{FoldVersion: ledger.FoldVersion}})
	for number := 1; number <= fewHealthy+dead; {
		record := new(linkv1.Record)
		for ; number <= fewHealthy+dead && len(record.GetSubscriptions()) < 1000; number++ {
			record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{
				Number: uint64(number), Put: typicalSubscription(number),
			})
		}
		g.fold(record)
	}
	return g
}

// typicalSubscription is one as an API call would store it.
func typicalSubscription(number int) *linkv1.StoredSubscription {
	return &linkv1.StoredSubscription{
		Tenant: "acme",
		Id:     fmt.Sprintf("sub_%026d", number),
		Subscription: &fanfarev1.Subscription{
			Url:         fmt.Sprintf("https://hooks-%d.customer.example/v1/webhooks/incoming/%d", number, number),
			EventTypes:  []string{"order.created"},
			PayloadMode: "standard",
			CreateTime:  timestamppb.New(time.UnixMilli(1_700_000_000_000)),
			UpdateTime:  timestamppb.New(time.UnixMilli(1_700_000_000_000)),
		},
		SealedSecrets: [][]byte{bytes.Repeat([]byte{byte(number)}, 76)},
	}
}

// fold folds a record twice, as leader and follower do, and returns what the
// follower's fold says.
func (g *graveyard) fold(record *linkv1.Record) ledger.Result {
	g.tb.Helper()
	record.Epoch = max(1, g.loop.ledger.Epoch())
	record.PreviousHash = g.loop.ledger.Hash()
	record.TimeUnixMs = g.now
	data, err := proto.Marshal(record)
	if err != nil {
		g.tb.Fatal(err)
	}
	hash := sha256.Sum256(data)
	written := new(linkv1.Record) // as who reads the log gets it, without what this benchmark shares
	if err := proto.Unmarshal(data, written); err != nil {
		g.tb.Fatal(err)
	}
	sequence := g.loop.ledger.Sequence() + 1
	result, err := g.loop.ledger.Fold(sequence, hash[:], written)
	if err != nil {
		g.tb.Fatal(err)
	}
	g.loop.apply(result)
	result, err = g.follower.Fold(sequence, hash[:], written)
	if err != nil {
		g.tb.Fatal(err)
	}
	return result
}

// publish writes events that everybody wants, in one record.
func (g *graveyard) publish(n int) {
	g.tb.Helper()
	record := new(linkv1.Record)
	for range n {
		g.events++
		record.Events = append(record.Events, &linkv1.LoggedEvent{
			Tenant: "acme", Id: fmt.Sprintf("evt_%d", g.events), Type: "order.created", Event: []byte("an event"),
		})
	}
	g.fold(record)
}

// deliver lets the worker make all the attempts that are due, and returns how
// many those were.
func (g *graveyard) deliver() (attempts int) {
	g.tb.Helper()
	for {
		var reported []ledger.Reported
		for len(reported) < 2000 {
			sends := g.loop.dispatch.Next(g.now, sendsPerTurn)
			if len(sends) == 0 {
				break
			}
			for _, send := range sends {
				reported = append(reported, ledger.Reported{Worker: "w1", Outcome: g.attempt(send)})
			}
		}
		if len(reported) == 0 {
			return attempts
		}
		attempts += len(reported)
		g.fold(&linkv1.Record{Outcomes: ledger.EncodeOutcomes(g.now, reported)})
	}
}

func (g *graveyard) attempt(send dispatch.Send) *linkv1.Outcome {
	outcome := &linkv1.Outcome{
		Kind: linkv1.Outcome_DELIVERED, Subscription: uint64(send.Subscription), Sequence: send.Position.Sequence,
		Index: send.Position.Index, Attempt: send.Attempt, StartTimeUnixMs: g.now, StatusCode: 200,
	}
	if uint64(send.Subscription) > g.healthy {
		outcome.Kind, outcome.StatusCode, outcome.ErrorClass = linkv1.Outcome_RETRY, 0, "connect"
		outcome.Error = "connection refused"
		outcome.NextTimeUnixMs = g.now + 5000
	}
	return outcome
}

// kill brings about that everybody who never answers is known to be dead, is
// owed all that one can be, and is far behind.
func (g *graveyard) kill(backlog int) {
	g.tb.Helper()
	for g.loop.ledger.BehindCount() < g.loop.ledger.SubscriptionCount()-int(g.healthy) {
		g.publish(1)
		g.deliver()
		g.now += 6000
	}
	for range 10 { // until every breaker is open
		g.deliver()
		g.now += 6000
	}
	for g.events < backlog {
		g.publish(min(500, backlog-g.events))
		g.deliver()
	}
}

// heap returns the bytes of what is in use.
func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// processMiB returns a size of this process in MiB, as Linux names it; 0 if
// there is no Linux to ask.
func processMiB(b *testing.B, name string) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, name+":"); ok {
			var kib float64
			if _, err := fmt.Sscan(text, &kib); err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	return 0
}

// BenchmarkDeadMemory is what 100,000 dead subscriptions cost that are owed
// 1,000,000 events each. Run it alone: it reports the size of the process.
func BenchmarkDeadMemory(b *testing.B) {
	for b.Loop() {
		empty := heap()
		g := newGraveyard(b, manyDead)
		g.kill(deadBacklog)
		b.ReportMetric(float64(g.loop.ledger.Outstanding())/manyDead, "owed/dead")
		snapshot, err := g.follower.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(snapshot))/(1<<20), "snapshot-MiB")
		b.ReportMetric(processMiB(b, "VmRSS"), "RSS-MiB")
		b.ReportMetric(processMiB(b, "VmHWM"), "peak-RSS-MiB")
		all := heap()
		g.loop.dispatch = nil
		ledgers := heap()
		g.follower = nil
		one := heap()
		b.ReportMetric(float64(all-empty)/(1<<20), "heap-MiB")
		b.ReportMetric(float64(all-ledgers)/manyDead, "dispatch-B/dead")
		b.ReportMetric(float64(ledgers-one)/manyDead, "ledger-B/dead")
		b.ReportMetric(float64(all-empty)/manyDead, "all-B/dead")
		runtime.KeepAlive(g)
	}
}

// BenchmarkDeadBesideHealthy is the life of an event that ten healthy
// subscriptions get, alone and beside 100,000 dead ones that want it too; and
// what else a leader does every now and then, with those.
func BenchmarkDeadBesideHealthy(b *testing.B) {
	alone, beside := newGraveyard(b, 0), newGraveyard(b, manyDead)
	beside.kill(10_000)
	event := func(g *graveyard) func(*testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				g.publish(1)
				if n := g.deliver(); n != fewHealthy {
					b.Fatalf("%d attempts, want %d", n, fewHealthy)
				}
			}
		}
	}
	for g := range slices.Values([]*graveyard{alone, beside}) {
		g.deliver()
	}
	b.Run("alone", event(alone))
	b.Run("beside", event(beside))
	b.Run("ratio", func(b *testing.B) { // in turns, since the machine may be busy with something else
		var took [2]time.Duration
		for b.Loop() {
			for i, g := range []*graveyard{alone, beside} {
				began := time.Now()
				g.publish(1)
				g.deliver()
				took[i] += time.Since(began)
			}
		}
		b.ReportMetric(float64(took[1])/float64(took[0]), "beside/alone")
	})
	b.Run("tick", func(b *testing.B) {
		for b.Loop() {
			for s := range beside.loop.ledger.Laggards() {
				b.Fatalf("subscription %d, which is dead, is caught up", s.Number)
			}
		}
	})
	b.Run("floor", func(b *testing.B) {
		for b.Loop() {
			beside.loop.ledger.Floor()
		}
	})
	b.Run("describe", func(b *testing.B) {
		beside.loop.leader.config.Slots = DefaultSlots
		for b.Loop() {
			beside.loop.describe()
		}
	})
	b.Run("probes", func(b *testing.B) {
		probes := 0
		for b.Loop() {
			beside.now += 5 * time.Minute.Milliseconds()
			probes += beside.deliver()
		}
		perProbe := float64(b.Elapsed().Nanoseconds()) / float64(probes)
		b.ReportMetric(perProbe, "ns/probe")
		b.ReportMetric(100*perProbe*manyDead/float64((5*time.Minute).Nanoseconds()), "%core-of-100000")
	})
	var snapshot []byte
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if snapshot, err = beside.follower.Snapshot(); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(snapshot)))
		b.ReportMetric(float64(len(snapshot))/(1<<20), "MiB")
	})
	b.Run("restore", func(b *testing.B) {
		b.SetBytes(int64(len(snapshot)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ledger.Restore(snapshot); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package coordinator_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// swapped is a store of logs that can be put in the place of another.
type swapped struct {
	store atomic.Pointer[eventlog.Memory]
}

func (s *swapped) Open(ctx context.Context, partition int) (eventlog.Log, error) {
	return s.store.Load().Open(ctx, partition)
}

// bubble is a place for coordinators in a synctest bubble.
type bubble struct {
	*testing.T
	members *cluster.Memory
	history history.Store
	secrets *sealed.Box
}

func newBubble(t *testing.T) *bubble {
	t.Helper()
	store, err := history.OpenSQLite(t.Context(), history.InMemory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	secrets, err := sealed.New(bytes.Repeat([]byte{7}, sealed.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return &bubble{t, cluster.NewMemory(), store, secrets}
}

// start runs a coordinator with one partition until stop is called.
func (b *bubble) start(id cluster.MemberID, logs eventlog.Store, logger *slog.Logger) (c *coordinator.Coordinator, stop func()) {
	c = coordinator.New(coordinator.Config{
		Member: cluster.MemberConfig{
			Info:  cluster.Info{ID: id, Role: cluster.Coordinator, Address: string(id)},
			Clock: cluster.MonotonicClock(), Logger: logger,
		},
		Cluster: b.members.Client(), Logs: logs, History: b.history, Secrets: b.secrets, URLs: anyURL{},
		Logger: logger, GRPC: bufconn.Listen(1 << 10), Partitions: 1, Slots: 1,
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	return c, func() {
		b.Helper()
		cancel()
		if err := <-ended; err != nil {
			b.Errorf("stopping %s: %v", id, err)
		}
	}
}

// errorLog is a slog.Handler that keeps the messages of errors.
type errorLog struct {
	mu       sync.Mutex
	messages []string // guarded by mu
}

func (l *errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *errorLog) WithGroup(string) slog.Handler                    { return l }

func (l *errorLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	return nil
}

// count returns how often a message was logged, and how many others.
func (l *errorLog) count(message string) (n, others int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range l.messages {
		if text == message {
			n++
		} else {
			others++
		}
	}
	return n, others
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func publishOne(t *testing.T, c *coordinator.Coordinator, id string) (duplicate bool) {
	t.Helper()
	leader, err := c.Leader(0)
	if err != nil {
		t.Fatal(err)
	}
	publishing, err := leader.Publish(t.Context(), []*linkv1.LoggedEvent{{Tenant: "default", Id: id, Type: "order.created"}})
	if err != nil {
		t.Fatal(err)
	}
	duplicates, err := publishing.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return duplicates[0]
}

// A halted partition says so once, is tried now and then without touching
// anything, and goes on by itself when the data is back.
func TestHaltedPartitionGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		intact, empty := eventlog.NewMemory(), eventlog.NewMemory()
		logs := new(swapped)
		logs.store.Store(intact)
		c, stop := b.start("c1", logs, quiet())
		<-c.Ready()
		publishOne(t, c, "e1")
		stop()

		logs.store.Store(empty)
		said := new(errorLog)
		c, stop = b.start("c1", logs, slog.New(said))
		defer stop()
		<-c.Ready()
		<-time.After(10 * time.Minute)
		if n, others := said.count("a partition is halted"); n != 1 || others != 0 {
			t.Errorf("%d errors say that it is halted, %d something else; want 1 and none", n, others)
		}
		_, err := c.Leader(0)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "partition 0 is halted: ") {
			t.Errorf("asking for the leader: %v, want UNAVAILABLE", err)
		}
		log, err := empty.Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if state, err := log.State(t.Context()); err != nil || state.Last != 0 {
			t.Errorf("a halted partition's log was written: %+v, %v", state, err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}

		logs.store.Store(intact)
		<-time.After(time.Minute)
		if err := c.Halted(0); err != nil {
			t.Errorf("a minute after its data is back: %v", err)
		}
		if !publishOne(t, c, "e1") {
			t.Error("what was acknowledged is new")
		}
	})
}

// A partition that is halted here but led elsewhere is not in trouble.
func TestHaltedHereLedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		intact, empty := new(swapped), new(swapped)
		intact.store.Store(eventlog.NewMemory())
		empty.store.Store(eventlog.NewMemory())
		c, stop := b.start("c1", intact, quiet())
		<-c.Ready()
		publishOne(t, c, "e1")
		stop()
		wrong, stopWrong := b.start("c1", empty, quiet())
		defer stopWrong()
		<-wrong.Ready()
		if wrong.Halted(0) == nil {
			t.Fatal("the partition is not halted")
		}
		right, stopRight := b.start("c2", intact, quiet())
		defer stopRight()
		<-right.Ready()
		<-time.After(time.Second)
		if err := wrong.Halted(0); err != nil {
			t.Errorf("the partition is led by another, and yet: %v", err)
		}
		if _, err := wrong.Leader(0); err == nil || !strings.Contains(err.Error(), "is led by c2") {
			t.Errorf("asking for the leader: %v, want the other one's address", err)
		}
		if described, err := wrong.Describe(t.Context()); err != nil || len(described.GetProblems()) > 0 {
			t.Errorf("problems %q, %v", described.GetProblems(), err)
		}
	})
}

//go:build unix

package lead

import (
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// hospital is what looks after the alerts of a partition, beside a ledger in
// which as many subscriptions fail as are watched.
type hospital struct {
	*graveyard
	lookout *lookout
	board   *alert.Board
}

func newHospital(b *testing.B) *hospital {
	b.Helper()
	g := newGraveyard(b, maxWatched)
	g.now = time.Now().Add(-time.Hour).UnixMilli()
	leader := &Leader{logger: slog.New(slog.DiscardHandler), alerting: alerting{inbox: newInbox(), alertWatchers: newAlertWatchers()}}
	leader.config.Retention = 7 * 24 * time.Hour
	h := &hospital{graveyard: g, lookout: newLookout(leader, 0), board: alert.NewBoard(0)}
	g.kill(0)
	for range 30 { // an hour of probes
		g.now += 2 * time.Minute.Milliseconds()
		h.probe()
	}
	g.now = time.Now().UnixMilli()
	return h
}

// probe makes the attempts that are due, shows them to the lookout, and returns
// how many they were, and how long the ledger and the lookout took for them.
func (h *hospital) probe() (attempts int, folding, seeing time.Duration) {
	for {
		sends := h.loop.dispatch.Next(h.now, sendsPerTurn)
		if len(sends) == 0 {
			return attempts, folding, seeing
		}
		attempts += len(sends)
		reported := make([]ledger.Reported, len(sends))
		for i, send := range sends {
			reported[i] = ledger.Reported{Worker: "w1", Outcome: h.attempt(send)}
		}
		began := time.Now()
		result := h.fold(&linkv1.Record{Outcomes: ledger.EncodeOutcomes(h.now, reported)})
		folded := time.Now()
		h.lookout.see(h.follower, result)
		folding, seeing = folding+folded.Sub(began), seeing+time.Since(folded)
	}
}

// look judges all that are watched.
func (h *hospital) look() {
	h.lookout.looked = time.Time{}
	h.lookout.judge(h.follower)
}

// take puts on the board what the lookout has said, and returns how much that
// was.
func (h *hospital) take(now time.Time) int {
	conditions := h.lookout.inbox.take()
	for _, c := range conditions {
		h.board.Take(now, c)
	}
	return len(conditions)
}

// fire lets the board fire, and returns what it has told, and what went into the
// log.
func (h *hospital) fire(now time.Time) (told []alert.Notification, kept []*linkv1.AlertChange) {
	keep := func(change alert.Change) {
		kept = append(kept, &linkv1.AlertChange{Id: change.ID, Put: &linkv1.StoredAlert{Tenant: change.Tenant, Alert: change.Alert, Told: change.Told}})
	}
	changes := h.board.Advance(now)
	for _, change := range changes {
		keep(change)
	}
	told = alert.Group(changes, "https://fanfare.example.com/v1")
	for _, change := range changes {
		keep(h.board.Told(now, change))
	}
	return told, kept
}

// BenchmarkAlerts is what it costs to look after 10,000 subscriptions that fail:
// as many as a partition watches.
func BenchmarkAlerts(b *testing.B) {
	h := newHospital(b)
	if n := len(h.lookout.watched); n != maxWatched {
		b.Fatalf("%d are watched, want %d", n, maxWatched)
	}
	b.Run("attempt", func(b *testing.B) {
		var attempts int
		var folding, seeing time.Duration
		for b.Loop() {
			h.now += 5 * time.Minute.Milliseconds()
			n, folded, seen := h.probe()
			attempts, folding, seeing = attempts+n, folding+folded, seeing+seen
		}
		b.ReportMetric(float64(seeing.Nanoseconds())/float64(attempts), "ns/attempt")
		b.ReportMetric(float64(seeing)/float64(folding), "lookout/fold")
	})
	b.Run("look", func(b *testing.B) {
		before := processor(b)
		for b.Loop() {
			h.look()
		}
		reportShare(b, processor(b)-before, lookInterval)
	})
	now := time.Now()
	b.Run("fire", func(b *testing.B) {
		bytes, before := 0, processor(b)
		for b.Loop() {
			h.board = alert.NewBoard(0)
			h.look()
			fired := h.take(now)
			told, kept := h.fire(now)
			if len(told) != 1 || len(told[0].Alerts) != alert.DefaultLimit || fired < maxWatched {
				b.Fatalf("of %d conditions %d notifications were told", fired, len(told))
			}
			bytes = proto.Size(&linkv1.Record{Alerts: kept})
		}
		b.ReportMetric(float64(bytes)/(1<<20), "log-MiB")
		b.ReportMetric(float64((processor(b)-before).Nanoseconds())/float64(b.N)/1e6, "cpu-ms")
	})
	b.Run("advance", func(b *testing.B) { // they fire, and nothing happens
		if h.board.Idle() {
			b.Skip("none fires: run it after fire")
		}
		before := processor(b)
		for b.Loop() {
			if changes := h.board.Advance(now.Add(time.Second)); len(changes) > 0 {
				b.Fatalf("%d things have happened, the first: %+v", len(changes), changes[0])
			}
		}
		reportShare(b, processor(b)-before, alertInterval)
	})
	for _, watchers := range []int{1, 10} {
		b.Run(fmt.Sprintf("watch/%d", watchers), func(b *testing.B) { benchmarkWatch(b, h.lookout.leader.alertWatchers, watchers) })
	}
}

// benchmarkWatch passes 10,000 alerts on to watchers that read them.
func benchmarkWatch(b *testing.B, all *alertWatchers, watchers int) {
	l := &Leader{alerting: alerting{alertWatchers: all}}
	a := &fanfarev1.Alert{Name: "tenants/acme/alerts/alr_1", Subscription: "tenants/acme/subscriptions/sub_1"}
	passed := make(chan struct{})
	for range watchers {
		w, err := l.WatchAlerts("acme", "")
		if err != nil {
			b.Fatal(err)
		}
		defer w.End()
		go func() {
			_ = w.Pass(b.Context(), func(*fanfarev1.Alert) error { passed <- struct{}{}; return nil })
		}()
	}
	before := processor(b)
	for b.Loop() {
		for range maxWatched / alertsPerRecord {
			for range alertsPerRecord {
				all.publish(a)
			}
			for range alertsPerRecord * watchers {
				<-passed
			}
		}
	}
	b.ReportMetric(float64((processor(b)-before).Nanoseconds())/float64(b.N*maxWatched*watchers), "cpu-ns/alert")
}

// reportShare reports what share of a core something takes that is done so often,
// of the processor's time that it took.
func reportShare(b *testing.B, took, every time.Duration) {
	b.Helper()
	each := float64(took.Nanoseconds()) / float64(b.N)
	b.ReportMetric(each/maxWatched, "cpu-ns/watched")
	b.ReportMetric(100*each/float64(every), "%core")
}

// processor returns how much of the processor's time this process has taken,
// which a busy machine changes less than it does the clock's.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

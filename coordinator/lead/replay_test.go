package lead

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// row is a delivery as the history lists it, after so many attempts.
func row(sequence uint64, index uint32, subscription uint64, eventType string, attempts int32) history.ScanRow {
	return history.ScanRow{
		Key: history.DeliveryKey{
			EventKey: history.EventKey{Sequence: sequence, Index: index}, Subscription: subscription,
		},
		EventType: eventType, Attempts: attempts,
	}
}

// roomy returns a ledger in which subscription 1 has room for 2 deliveries, 2
// for 3, 3 for none, and 4 was deleted. Records 1 and 2 were given up. The next
// record is the 10th.
func roomy(t *testing.T) *ledger.Ledger {
	t.Helper()
	state := ledger.New()
	put := func(number uint64, id string, patterns ...string) *linkv1.SubscriptionChange {
		return &linkv1.SubscriptionChange{Number: number, Put: &linkv1.StoredSubscription{
			Tenant: "acme", Id: id, Subscription: &fanfarev1.Subscription{EventTypes: patterns},
		}}
	}
	foldNext(t, state, &linkv1.Record{
		Fence: &linkv1.Fence{FoldVersion: ledger.FoldVersion, Limits: &linkv1.Limits{OutstandingHealthy: 3}},
		Subscriptions: []*linkv1.SubscriptionChange{
			put(1, "sub_1", "a"), put(2, "sub_2", "b"), put(3, "sub_3", "c"), put(4, "sub_4"), {Number: 4},
		},
	})
	for state.Sequence() < 8 {
		foldNext(t, state, &linkv1.Record{PurgeBefore: 3})
	}
	foldNext(t, state, &linkv1.Record{Events: []*linkv1.LoggedEvent{
		{Tenant: "acme", Type: "a"}, {Tenant: "acme", Type: "c"}, {Tenant: "acme", Type: "c"}, {Tenant: "acme", Type: "c"},
	}})
	return state
}

// foldNext folds a record of the first epoch that is in no log, and says what
// came of it.
func foldNext(t *testing.T, state *ledger.Ledger, record *linkv1.Record) ledger.Result {
	t.Helper()
	record.Epoch, record.PreviousHash = 1, state.Hash()
	result, err := state.Fold(state.Sequence()+1, make([]byte, ledger.HashSize), record)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestReadmit(t *testing.T) {
	// Records 1 and 2 were given up to be purged.
	readmits := func(subscription uint64, attempts uint32, positions ...ledger.Position) *linkv1.Readmit {
		r := &linkv1.Readmit{Subscription: subscription}
		for _, p := range positions {
			r.Sequences, r.Indexes = append(r.Sequences, p.Sequence), append(r.Indexes, p.Index)
			r.Attempts = append(r.Attempts, attempts)
		}
		return r
	}
	lag := func(subscription, sequence uint64, index uint32) *linkv1.ReplayLag {
		return &linkv1.ReplayLag{Subscription: subscription, NextSequence: sequence, NextIndex: index}
	}
	many := make([]*linkv1.ReplayLag, replayLagging)
	for i := range many {
		many[i] = lag(uint64(100+i), 1, 0)
	}
	for _, test := range []struct {
		name              string
		of                string   // the replay's subscription
		types             []string // and its types
		lagging           []*linkv1.ReplayLag
		found             replayRows
		taken             int // of found.next
		want              []*linkv1.Readmit
		replayed, skipped int64
		lags              []*linkv1.ReplayLag // afterwards
		still             bool                // it does not move
	}{
		{name: "no rows, and more to come", still: true},
		{name: "no rows", found: replayRows{last: true}},
		{
			name:  "one",
			found: replayRows{next: []history.ScanRow{row(3, 1, 1, "a", 7)}},
			taken: 1, want: []*linkv1.Readmit{readmits(1, 7, at(3, 1))}, replayed: 1,
		},
		{
			name: "of several subscriptions, in the order of the history",
			found: replayRows{last: true, next: []history.ScanRow{
				row(3, 0, 2, "b", 1), row(4, 0, 1, "a", 1), row(4, 0, 2, "b", 1), row(5, 2, 1, "a", 1),
			}},
			taken: 4, replayed: 4,
			want: []*linkv1.Readmit{readmits(2, 1, at(3, 0), at(4, 0)), readmits(1, 1, at(4, 0), at(5, 2))},
		},
		{
			name: "no room for a third: it lags, and the others do not",
			found: replayRows{last: true, next: []history.ScanRow{
				row(3, 0, 1, "a", 1), row(4, 0, 1, "a", 1), row(5, 0, 1, "a", 1), row(5, 1, 1, "a", 1), row(6, 0, 2, "b", 1), row(7, 0, 1, "a", 1),
			}},
			taken: 6, replayed: 3, want: []*linkv1.Readmit{readmits(1, 1, at(3, 0), at(4, 0)), readmits(2, 1, at(6, 0))},
			lags: []*linkv1.ReplayLag{lag(1, 5, 0)},
		},
		{
			name: "no room beside what another replay makes owed",
			found: replayRows{next: []history.ScanRow{
				row(3, 0, 2, "b", 1), row(4, 0, 2, "b", 1), row(6, 0, 2, "b", 1),
			}},
			taken: 3, replayed: 2, want: []*linkv1.Readmit{readmits(2, 1, at(3, 0), at(4, 0))},
			lags: []*linkv1.ReplayLag{lag(2, 6, 0)},
		},
		{
			name: "a replay of one subscription waits for it", of: "sub_3",
			found: replayRows{next: []history.ScanRow{row(3, 0, 3, "c", 1), row(4, 0, 3, "c", 1)}}, still: true,
		},
		{
			name: "too many lag", lagging: many, lags: many,
			found: replayRows{next: []history.ScanRow{row(3, 0, 100, "c", 1), row(3, 0, 3, "c", 1), row(4, 0, 1, "a", 1)}},
			taken: 1,
		},
		{
			name: "those that lag come back as far as they have room", lagging: []*linkv1.ReplayLag{lag(1, 3, 0), lag(3, 3, 0)},
			found: replayRows{lags: []replayLagRows{
				{subscription: 1, rows: []history.ScanRow{row(3, 0, 1, "a", 2), row(4, 0, 1, "b", 2), row(4, 1, 1, "a", 2), row(5, 0, 1, "a", 2)}, last: true},
				{subscription: 3, rows: []history.ScanRow{row(3, 0, 3, "a", 2)}, last: true},
			}},
			types: []string{"a"}, lags: []*linkv1.ReplayLag{lag(1, 4, 2), lag(3, 3, 0)},
			replayed: 2, want: []*linkv1.Readmit{readmits(1, 2, at(3, 0), at(4, 1))},
		},
		{
			name: "one that lags has come to where the replay is", lagging: []*linkv1.ReplayLag{lag(1, 5, 1)},
			found: replayRows{
				next: []history.ScanRow{row(6, 0, 1, "a", 3), row(7, 0, 1, "a", 3)}, last: true,
				lags: []replayLagRows{{subscription: 1, rows: []history.ScanRow{row(5, 1, 1, "a", 3), row(6, 0, 1, "a", 3)}}},
			},
			taken: 2, replayed: 2, want: []*linkv1.Readmit{readmits(1, 3, at(5, 1), at(6, 0))}, lags: []*linkv1.ReplayLag{lag(1, 7, 0)},
		},
		{
			name: "one that lags has not, so its rows are left to it", lagging: []*linkv1.ReplayLag{lag(3, 1, 0)},
			found: replayRows{
				next: []history.ScanRow{row(3, 0, 3, "c", 3), row(4, 0, 1, "a", 3)},
			},
			taken: 2, replayed: 1, want: []*linkv1.Readmit{readmits(1, 3, at(4, 0))}, lags: []*linkv1.ReplayLag{lag(3, 1, 0)},
		},
		{
			name: "one that lags and was deleted", lagging: []*linkv1.ReplayLag{lag(4, 1, 0)},
			found:   replayRows{lags: []replayLagRows{{subscription: 4, rows: []history.ScanRow{row(1, 0, 4, "a", 2)}, last: true}}},
			skipped: 1,
		},
		{
			name:  "deleted subscriptions, and such as never were",
			found: replayRows{next: []history.ScanRow{row(3, 0, 4, "a", 1), row(3, 0, 99, "a", 1), row(3, 1, 1, "a", 1)}},
			taken: 3, replayed: 1, skipped: 2, want: []*linkv1.Readmit{readmits(1, 1, at(3, 1))},
		},
		{
			name:  "what the log no longer holds",
			found: replayRows{next: []history.ScanRow{row(1, 0, 1, "a", 1), row(2, 9, 1, "a", 1), row(3, 0, 1, "a", 1)}},
			taken: 3, replayed: 1, skipped: 2, want: []*linkv1.Readmit{readmits(1, 1, at(3, 0))},
		},
		{
			name: "other types are passed over", types: []string{"order.*"},
			found: replayRows{next: []history.ScanRow{row(3, 0, 1, "order", 1), row(3, 1, 1, "order.a", 1), row(3, 2, 1, "a", 1), row(3, 3, 1, "", 1)}},
			taken: 4, replayed: 1, want: []*linkv1.Readmit{readmits(1, 1, at(3, 1))},
		},
		{
			name:  "what is skipped needs no room",
			found: replayRows{next: []history.ScanRow{row(1, 0, 3, "c", 1), row(2, 0, 3, "c", 1), row(3, 0, 3, "c", 1)}},
			taken: 3, skipped: 2, lags: []*linkv1.ReplayLag{lag(3, 3, 0)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, before := roomy(t), &linkv1.Readmit{Subscription: 2, Sequences: []uint64{9}, Indexes: []uint32{0}, Attempts: []uint32{0}}
			replay := &linkv1.StoredReplay{
				Tenant: "acme", AfterSequence: 5, AfterIndex: 2, AfterSubscription: 3, Lagging: test.lagging,
				Replay: &fanfarev1.Replay{Subscription: test.of, EventTypes: test.types},
			}
			want := &linkv1.StoredReplay{
				Tenant: "acme", AfterSequence: 5, AfterIndex: 2, AfterSubscription: 3, Lagging: test.lags,
				Scanned: test.found.last && test.taken == len(test.found.next),
				Replay: &fanfarev1.Replay{
					Subscription: test.of, EventTypes: test.types, ReplayedCount: test.replayed, SkippedCount: test.skipped,
				},
			}
			if test.taken > 0 {
				last := test.found.next[test.taken-1].Key
				want.AfterSequence, want.AfterIndex, want.AfterSubscription = last.Sequence, last.Index, last.Subscription
			}
			record := &linkv1.Record{Readmits: []*linkv1.Readmit{before}} // by another replay
			if moved := readmit(state, proto.CloneOf(replay), test.found, proto.CloneOf(record)); moved == test.still {
				t.Errorf("moved: %t, want %t", moved, !test.still)
			}
			readmit(state, replay, test.found, record)
			if diff := cmp.Diff(want, replay, protocmp.Transform()); diff != "" {
				t.Errorf("replay (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, record.GetReadmits()[1:], protocmp.Transform()); diff != "" && len(test.want) > 0 {
				t.Errorf("readmits (-want +got):\n%s", diff)
			}
			record.Readmits = record.GetReadmits()[1:]
			if got := len(foldNext(t, state, record).Deliveries); int64(got) != test.replayed {
				t.Errorf("%d deliveries are owed again, want %d", got, test.replayed)
			}
		})
	}
}

// pass lets time pass, in a bubble.
func (s *site) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// control pauses or resumes the first subscription.
func (s *site) control(l *Leader, action linkv1.Control_Action) {
	s.Helper()
	s.controlOf(l, 1, action)
}

// controlOf pauses or resumes a subscription.
func (s *site) controlOf(l *Leader, number ledger.Number, action linkv1.Control_Action) {
	s.Helper()
	err := l.Change(s.Context(), fmt.Sprint("sub_", number), func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		record.Controls = append(record.Controls, &linkv1.Control{Subscription: uint64(number), Action: action})
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}

// replay begins a replay of what was cancelled.
func (s *site) replay(l *Leader) {
	const id = "rpl_1"
	s.Helper()
	err := l.Change(s.Context(), id, func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		record.Replays = append(record.Replays, &linkv1.ReplayChange{Id: id, Put: &linkv1.StoredReplay{
			Tenant: "default", Replay: &fanfarev1.Replay{
				States:  []fanfarev1.Delivery_State{fanfarev1.Delivery_CANCELLED},
				EndTime: timestamppb.Now(), State: fanfarev1.Replay_RUNNING,
			},
		}})
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}

// checkReplay waits, and checks how far a replay is and how much is owed then.
func (s *site) checkReplay(l *Leader, want *fanfarev1.Replay, owed int) {
	s.Helper()
	s.pass(10 * replayPause)
	err := l.Query(s.Context(), func(state *ledger.Ledger) {
		got := state.Replay("rpl_1").GetReplay()
		if got.GetState() != want.GetState() || got.GetReplayedCount() != want.GetReplayedCount() ||
			got.GetSkippedCount() != want.GetSkippedCount() {
			s.Errorf("replay is %v, want %v", got, want)
		}
		if state.Outstanding() != owed {
			s.Errorf("%d are owed, want %d", state.Outstanding(), owed)
		}
	})
	if err != nil {
		s.Fatal(err)
	}
}

// TestReplayWaitsForRoom: it goes on as room comes, and across leaders, looks at
// each delivery once, and while it waits it writes nothing.
func TestReplayWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.config.Limits = &linkv1.Limits{OutstandingHealthy: 3}
		cancel := func(l *Leader) { s.control(l, linkv1.Control_RESUME_FROM_NOW) }
		running := func(replayed int64) *fanfarev1.Replay {
			return &fanfarev1.Replay{State: fanfarev1.Replay_RUNNING, ReplayedCount: replayed}
		}
		s.lead(func(l *Leader) {
			s.subscribe(l)
			s.publish(l, "a", "b", "c")
			cancel(l)
			s.publish(l, "d", "e", "f")
			cancel(l)
			s.publish(l, "g")
			s.pass(time.Second)
			s.replay(l)
			s.checkReplay(l, running(2), 3)
			before := len(s.records())
			s.pass(time.Minute)
			if grown := len(s.records()) - before; grown > 0 {
				t.Errorf("%d records were written while the replay waited", grown)
			}
			cancel(l)
			s.checkReplay(l, running(5), 3)
		})
		s.lead(func(l *Leader) {
			s.checkReplay(l, running(5), 3)
			cancel(l)
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_DONE, ReplayedCount: 6}, 1) // not g: it had not ended yet
		})
	})
}

// TestReplayPassesByWhoHasNoRoom: one subscription that takes nothing does not
// keep a replay from the others; it comes back to it when there is room, in
// another leadership, and no delivery is made owed twice.
func TestReplayPassesByWhoHasNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.config.Limits = &linkv1.Limits{OutstandingHealthy: 4}
		s.lead(func(l *Leader) {
			s.subscribe(l)
			s.subscribe(l)
			both := func(action linkv1.Control_Action) {
				s.controlOf(l, 1, action)
				s.controlOf(l, 2, action)
			}
			s.publish(l, "a", "b", "c")
			both(linkv1.Control_RESUME_FROM_NOW)
			s.publish(l, "d", "e")
			both(linkv1.Control_RESUME_FROM_NOW)
			s.publish(l, "f", "g", "h")
			s.controlOf(l, 2, linkv1.Control_RESUME_FROM_NOW) // the first is owed three still, and has room for one
			s.pass(time.Second)
			s.replay(l) // 5 of the first, 8 of the second
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_RUNNING, ReplayedCount: 1 + 4}, 8)
			s.controlOf(l, 2, linkv1.Control_RESUME_FROM_NOW)
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_RUNNING, ReplayedCount: 1 + 8}, 8)
		})
		s.lead(func(l *Leader) {
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_RUNNING, ReplayedCount: 1 + 8}, 8)
			before := len(s.records())
			s.pass(time.Minute)
			if grown := len(s.records()) - before; grown > 0 {
				t.Errorf("%d records were written while the replay waited", grown)
			}
			s.controlOf(l, 1, linkv1.Control_RESUME_FROM_NOW)
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_RUNNING, ReplayedCount: 5 + 8}, 8)
			s.controlOf(l, 1, linkv1.Control_RESUME_FROM_NOW) // among them what was cancelled before the replay came back
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_DONE, ReplayedCount: 8 + 8}, 3+4)
		})
	})
}

// stuckSync is a history of which one Sync, once wanted, takes until it is let go.
type stuckSync struct {
	history.Store
	began, letGo chan struct{}
}

func (h *stuckSync) Sync(ctx context.Context) error {
	close(h.began)
	<-h.letGo
	return h.Store.Sync(ctx)
}

// TestOvertakenLeaderPurges: a leader that has decided what to purge, is overtaken
// and purges then, takes nothing from its successor, which cannot make owed again
// what the log says is given up. Before the log said it, the successor's replay
// had events purged that it owed, and its partition halted.
func TestOvertakenLeaderPurges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.config.ReplayWindow = time.Hour
		stuck := &stuckSync{s.history, make(chan struct{}), make(chan struct{})}
		s.config.History = stuck
		old := s.leader(s.open(s.logs.Peer()))
		s.config.History = s.history
		endOld := s.run(old)
		s.subscribe(old)
		s.publish(old, "old")
		s.control(old, linkv1.Control_RESUME_FROM_NOW)
		for stopped := false; !stopped; {
			select {
			case <-stuck.began:
				stopped = true
			default:
				s.pass(5 * time.Minute)
				s.control(old, linkv1.Control_PAUSE)
				s.control(old, linkv1.Control_RESUME)
			}
		}
		s.lead(func(l *Leader) {
			s.replay(l)
			s.pass(10 * replayPause)
			close(stuck.letGo)
			s.pass(10 * replayPause)
			bounds, err := s.log.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = l.Query(t.Context(), func(state *ledger.Ledger) {
				if bounds.First < 2 {
					t.Error("the old leader purged nothing")
				}
				if state.Floor() < bounds.First {
					t.Errorf("the log begins at %d, but %d is owed", bounds.First, state.Floor())
				}
				if got := state.Replay("rpl_1").GetReplay(); got.GetState() != fanfarev1.Replay_DONE || got.GetSkippedCount() != 1 {
					t.Errorf("the replay is %v, want it done with one skipped", got)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		})
		_ = endOld() // fenced or told to end: it does not know yet
	})
}

// TestReplayOfWhatIsGone: what was purged is skipped, and the leader goes on.
func TestReplayOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.config.ReplayWindow = time.Hour
		s.lead(func(l *Leader) {
			s.subscribe(l)
			s.publish(l, "old")
			s.control(l, linkv1.Control_RESUME_FROM_NOW)
			for range 20 { // each in a snapshot of its own
				s.pass(5 * time.Minute)
				s.control(l, linkv1.Control_PAUSE)
			}
			s.control(l, linkv1.Control_RESUME)
			s.publish(l, "new")
			s.control(l, linkv1.Control_RESUME_FROM_NOW)
			s.pass(time.Second)
			bounds, err := s.log.State(t.Context())
			if err != nil || bounds.First < 4 {
				t.Fatalf("nothing was purged: %+v, %v", bounds, err)
			}
			s.replay(l)
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_DONE, ReplayedCount: 1, SkippedCount: 1}, 1)
			err = l.Query(t.Context(), func(state *ledger.Ledger) {
				if state.KeptFrom() < bounds.First {
					t.Errorf("kept from %d on, but the log begins at %d", state.KeptFrom(), bounds.First)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	})
}

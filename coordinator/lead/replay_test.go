package lead

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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
// for 3, 3 for none, and 4 was deleted. The next record is the 10th.
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
		foldNext(t, state, &linkv1.Record{})
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
	const first = 3 // record of the log
	readmits := func(subscription uint64, attempts uint32, positions ...ledger.Position) *linkv1.Readmit {
		r := &linkv1.Readmit{Subscription: subscription}
		for _, p := range positions {
			r.Sequences, r.Indexes = append(r.Sequences, p.Sequence), append(r.Indexes, p.Index)
			r.Attempts = append(r.Attempts, attempts)
		}
		return r
	}
	for _, test := range []struct {
		name              string
		types             []string // of the replay
		rows              []history.ScanRow
		taken             int
		want              []*linkv1.Readmit
		replayed, skipped int64
	}{
		{name: "no rows"},
		{
			name: "one", rows: []history.ScanRow{row(3, 1, 1, "a", 7)},
			taken: 1, want: []*linkv1.Readmit{readmits(1, 7, at(3, 1))}, replayed: 1,
		},
		{
			name: "of several subscriptions, in the order of the history",
			rows: []history.ScanRow{
				row(3, 0, 2, "b", 1), row(4, 0, 1, "a", 1), row(4, 0, 2, "b", 1), row(5, 2, 1, "a", 1), row(6, 0, 2, "b", 1),
			},
			taken: 5, replayed: 5,
			want: []*linkv1.Readmit{readmits(2, 1, at(3, 0), at(4, 0), at(6, 0)), readmits(1, 1, at(4, 0), at(5, 2))},
		},
		{
			name:  "no room for a third: what comes after it waits, too",
			rows:  []history.ScanRow{row(3, 0, 1, "a", 1), row(4, 0, 1, "a", 1), row(5, 0, 1, "a", 1), row(6, 0, 2, "b", 1)},
			taken: 2, replayed: 2, want: []*linkv1.Readmit{readmits(1, 1, at(3, 0), at(4, 0))},
		},
		{name: "no room at all", rows: []history.ScanRow{row(3, 0, 3, "c", 1), row(4, 0, 1, "a", 1)}},
		{
			name:  "deleted subscriptions, and such as never were",
			rows:  []history.ScanRow{row(3, 0, 4, "a", 1), row(3, 0, 99, "a", 1), row(3, 1, 1, "a", 1)},
			taken: 3, replayed: 1, skipped: 2, want: []*linkv1.Readmit{readmits(1, 1, at(3, 1))},
		},
		{
			name:  "what the log no longer holds",
			rows:  []history.ScanRow{row(1, 0, 1, "a", 1), row(2, 9, 1, "a", 1), row(3, 0, 1, "a", 1)},
			taken: 3, replayed: 1, skipped: 2, want: []*linkv1.Readmit{readmits(1, 1, at(3, 0))},
		},
		{
			name: "other types are passed over", types: []string{"order.*"},
			rows:  []history.ScanRow{row(3, 0, 1, "order", 1), row(3, 1, 1, "order.a", 1), row(3, 2, 1, "a", 1), row(3, 3, 1, "", 1)},
			taken: 4, replayed: 1, want: []*linkv1.Readmit{readmits(1, 1, at(3, 1))},
		},
		{
			name:  "what is skipped needs no room",
			rows:  []history.ScanRow{row(1, 0, 3, "c", 1), row(2, 0, 3, "c", 1), row(3, 0, 3, "c", 1)},
			taken: 2, skipped: 2,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, before := roomy(t), &linkv1.Readmit{Subscription: 2, Sequences: []uint64{9}, Indexes: []uint32{0}, Attempts: []uint32{0}}
			replay := &linkv1.StoredReplay{
				Tenant: "acme", AfterSequence: 1, AfterIndex: 2, AfterSubscription: 3,
				Replay: &fanfarev1.Replay{EventTypes: test.types},
			}
			want := &linkv1.StoredReplay{
				Tenant: "acme", AfterSequence: 1, AfterIndex: 2, AfterSubscription: 3,
				Replay: &fanfarev1.Replay{EventTypes: test.types, ReplayedCount: test.replayed, SkippedCount: test.skipped},
			}
			if test.taken > 0 {
				last := test.rows[test.taken-1].Key
				want.AfterSequence, want.AfterIndex, want.AfterSubscription = last.Sequence, last.Index, last.Subscription
			}
			record := &linkv1.Record{Readmits: []*linkv1.Readmit{before}} // by another replay
			if got := readmit(state, replay, test.rows, first, record); got != test.taken {
				t.Errorf("took %d rows, want %d", got, test.taken)
			}
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
	err := l.Change(s.Context(), "sub_1", func(_ *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		record.Controls = append(record.Controls, &linkv1.Control{Subscription: 1, Action: action})
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}

// replay begins a replay of what was cancelled.
func (s *site) replay(l *Leader, id string) {
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
			s.replay(l, "rpl_1")
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
			cancel(l) // among them g, which the replay has not come to yet
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_DONE, ReplayedCount: 7}, 2)
		})
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
			bounds, err := l.Bounds(t.Context())
			if err != nil || bounds.First < 4 {
				t.Fatalf("nothing was purged: %+v, %v", bounds, err)
			}
			s.replay(l, "rpl_1")
			s.checkReplay(l, &fanfarev1.Replay{State: fanfarev1.Replay_DONE, ReplayedCount: 1, SkippedCount: 1}, 1)
			err = l.Query(t.Context(), func(*ledger.Ledger) {
				if l.Kept() < bounds.First {
					t.Errorf("kept from %d on, but the log begins at %d", l.Kept(), bounds.First)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	})
}

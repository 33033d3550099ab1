package lead

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// site is where leaders of one partition come and go.
type site struct {
	*testing.T
	logs    *eventlog.Memory
	log     eventlog.Log // the site's own way to it
	history history.Store
	marks   *memoryMarks
	config  Config // of the leaders; Log is set for each
}

func newSite(t *testing.T) *site {
	t.Helper()
	store, err := history.OpenSQLite(t.Context(), history.InMemory)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	s := &site{T: t, logs: eventlog.NewMemory(), history: store, marks: new(memoryMarks)}
	s.config = Config{Coordinator: "c1", History: store, Marks: s.marks, Logger: logger, SnapshotInterval: time.Minute}
	s.log = s.open(s.logs)
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) open(store eventlog.Store) eventlog.Log {
	s.Helper()
	log, err := store.Open(s.Context(), 0)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := log.Close(); err != nil {
			s.Error(err)
		}
	})
	return log
}

// leader returns a leader that reaches the log in this way.
func (s *site) leader(log eventlog.Log) *Leader {
	s.Helper()
	config := s.config
	config.Log = log
	l, err := New(config)
	if err != nil {
		s.Fatal(err)
	}
	return l
}

// run runs a leader and returns, once it leads, what ends it and tells how it
// ended.
func (s *site) run(l *Leader) (end func() error) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	select {
	case <-l.Ready():
	case err := <-ended:
		cancel()
		s.Fatalf("taking over: %v", err)
	}
	return func() error {
		cancel()
		return <-ended
	}
}

// lead runs a leader while f does.
func (s *site) lead(f func(*Leader)) {
	s.Helper()
	l := s.leader(s.open(s.logs))
	end := s.run(l)
	f(l)
	if err := end(); err != nil {
		s.Errorf("leading: %v", err)
	}
}

// publish publishes one event for each type, each in a record of its own.
func (s *site) publish(l *Leader, types ...string) {
	s.Helper()
	for _, eventType := range types {
		if err := s.tryPublish(l, eventType); err != nil {
			s.Fatalf("publishing: %v", err)
		}
	}
}

func (s *site) tryPublish(l *Leader, eventType string) error {
	event := &linkv1.LoggedEvent{Tenant: "default", Id: eventType, Type: eventType}
	publishing, err := l.Publish(s.Context(), []*linkv1.LoggedEvent{event})
	if err != nil {
		return err
	}
	_, err = publishing.Wait(s.Context())
	return err
}

// records returns what the log holds.
func (s *site) records() (all []committed) {
	s.Helper()
	state, err := s.log.State(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	for next := state.First; next <= state.Last; {
		run, err := s.log.Read(s.Context(), next, eventlog.MaxReadRecords)
		if err != nil {
			s.Fatal(err)
		}
		for _, r := range run {
			c, err := decodeRecord(r)
			if err != nil {
				s.Fatal(err)
			}
			all = append(all, c)
			next++
		}
	}
	return all
}

// checkFences checks that the log has exactly these epochs' fences, and that
// no record is of an older epoch than the fence before it.
func (s *site) checkFences(epochs int) {
	s.Helper()
	var epoch, fences uint64
	for _, c := range s.records() {
		if c.record.GetFence() != nil {
			fences++
			epoch = c.record.GetEpoch()
		}
		if c.record.GetEpoch() != epoch {
			s.Errorf("record %d is of epoch %d, behind the fence of %d", c.sequence, c.record.GetEpoch(), epoch)
		}
	}
	if int(epoch) != epochs || int(fences) != epochs {
		s.Errorf("the log has %d fences up to epoch %d, want %d", fences, epoch, epochs)
	}
}

// append appends a record as the log's next: whatever changes makes of one that
// would be right.
func (s *site) append(change func(*linkv1.Record)) {
	s.Helper()
	all := s.records()
	last := all[len(all)-1]
	record := &linkv1.Record{Epoch: last.record.GetEpoch(), PreviousHash: last.hash, TimeUnixMs: last.record.GetTimeUnixMs()}
	change(record)
	data, err := proto.Marshal(record)
	if err != nil {
		s.Fatal(err)
	}
	s.appendBytes(last.sequence, data)
}

func (s *site) appendBytes(prev uint64, data []byte) {
	s.Helper()
	if err := <-s.log.Append(prev, data); err != nil {
		s.Fatal(err)
	}
}

// checkHalts checks that nobody can take the partition over, for this reason,
// and that trying leaves the log as it was.
func (s *site) checkHalts(want error) {
	s.Helper()
	before, err := s.log.State(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	l := s.leader(s.open(s.logs))
	trying, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	if err := l.Run(trying); !errors.Is(err, want) || !Halts(err) {
		s.Errorf("taking over: %v, want it to halt with %q", err, want)
	}
	if err := l.Query(s.Context(), func(*ledger.Ledger) {}); !errors.Is(err, ErrNotLeading) {
		s.Errorf("asking a halted leader: %v, want %v", err, ErrNotLeading)
	}
	if after, err := s.log.State(s.Context()); err != nil || after != before {
		s.Errorf("the log was %+v and is %+v, %v", before, after, err)
	}
}

// memoryMarks keeps one partition's mark.
type memoryMarks struct {
	mu   sync.Mutex
	mark Mark // guarded by mu
}

func (m *memoryMarks) Mark(context.Context, int) (Mark, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mark, nil
}

func (m *memoryMarks) SetMark(_ context.Context, _ int, mark Mark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mark.Sequence > m.mark.Sequence {
		m.mark = mark
	}
	return nil
}

func (m *memoryMarks) sequence() uint64 {
	mark, _ := m.Mark(context.Background(), 0)
	return mark.Sequence
}

func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for epoch := range uint64(3) {
			s.lead(func(l *Leader) {
				if l.Epoch() != epoch+1 {
					t.Errorf("epoch %d, want %d", l.Epoch(), epoch+1)
				}
				s.publish(l, fmt.Sprintf("order.%d", epoch))
			})
		}
		s.checkFences(3)
	})
}

// What a leader reads in advance is where it goes on from, whatever the old
// leader does meanwhile.
func TestPrepare(t *testing.T) {
	for name, meanwhile := range map[string]func(*site, *Leader){
		"nothing":                      func(*site, *Leader) {},
		"the old one goes on writing":  func(s *site, old *Leader) { s.publish(old, "order.c", "order.d") },
		"the old one saves a snapshot": func(s *site, _ *Leader) { s.saveSnapshot(func(*ledger.Ledger) {}) },
		"what comes next is purged": func(s *site, old *Leader) {
			s.publish(old, "order.c", "order.d")
			s.saveSnapshot(func(*ledger.Ledger) {})
			if err := s.log.Purge(s.Context(), 4); err != nil {
				s.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				old := s.leader(s.open(s.logs))
				endOld := s.run(old)
				s.publish(old, "order.a", "order.b")
				next := s.leader(s.open(s.logs))
				if err := next.Prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
				meanwhile(s, old)
				end := s.run(next)
				if err := s.tryPublish(old, "order.late"); !errors.Is(err, ErrNotLeading) {
					t.Errorf("publishing to the old leader: %v, want %v", err, ErrNotLeading)
				}
				s.publish(next, "order.e")
				if err := endOld(); !errors.Is(err, ErrFenced) {
					t.Errorf("the old leader ended with %v, want %v", err, ErrFenced)
				}
				if err := end(); err != nil {
					t.Error(err)
				}
				state, err := restore(t.Context(), s.log, math.MaxUint64)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range s.records() { // its chain is whole
					if c.sequence > state.Sequence() {
						if _, err := state.Fold(c.sequence, c.hash, c.record); err != nil {
							t.Fatal(err)
						}
					}
				}
				if state.Epoch() != 2 {
					t.Errorf("epoch %d, want 2", state.Epoch())
				}
			})
		})
	}
}

// A log that cannot be read in advance is what it is when it is taken over.
func TestPrepareInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.lead(func(l *Leader) { s.publish(l, "order.a", "order.b") })
		log := &tampered{Log: s.open(s.logs)}
		log.tell(flip(2))
		l := s.leader(log)
		if err := l.Prepare(t.Context()); !Halts(err) {
			t.Errorf("reading a record that is not what was written: %v", err)
		}
		log.tell(func(records []eventlog.Record) ([]eventlog.Record, error) { return records, nil })
		if err := s.run(l)(); err != nil {
			t.Error(err)
		}
		s.checkFences(2)
	})
}

// A leader that retires says who has something in hand, and the next one hears
// it.
func TestFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		l := s.leader(s.open(s.logs))
		end := s.run(l)
		s.publish(l, "order.a")
		l.Retire(t.Context())
		if err := end(); err != nil {
			t.Error(err)
		}
		all := s.records()
		if last := all[len(all)-1].record; last.GetFarewell() == nil || len(last.GetFarewell().GetWorkers()) > 0 {
			t.Errorf("the last record is %v, want a farewell that names nobody", last)
		}
		next := s.leader(s.open(s.logs))
		end = s.run(next)
		if next.farewell == nil {
			t.Error("the next leader has not heard it")
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		another := s.leader(s.open(s.logs)) // the one before it was ended, and has said nothing
		end = s.run(another)
		if another.farewell != nil {
			t.Errorf("the one after it has heard %v", another.farewell)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// A fence whose outcome is not said is found, or appended again as it was: one
// fence comes of it.
func TestFenceWithoutAnAnswer(t *testing.T) {
	for name, fault := range map[string]eventlog.Fault{
		"fails": eventlog.FailAppend, "fails but persists": eventlog.FailButPersist,
		"request lost": eventlog.LoseRequest, "reply lost": eventlog.LoseReply,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.lead(func(l *Leader) { s.publish(l, "order.a") })
				for range 3 {
					s.logs.FailNext(0, fault)
				}
				s.lead(func(l *Leader) {
					if l.Epoch() != 2 {
						t.Errorf("epoch %d, want 2", l.Epoch())
					}
				})
				s.checkFences(2)
			})
		})
	}
}

// intruder is a log on which something happens just before, or just after, an
// append.
type intruder struct {
	eventlog.Log
	before, after func()
}

func (i *intruder) Append(prev uint64, data []byte) <-chan error {
	if i.before != nil {
		i.before()
	}
	result := i.Log.Append(prev, data)
	if i.after != nil {
		err := <-result
		i.after()
		again := make(chan error, 1)
		again <- err
		return again
	}
	return result
}

// While the old leader still writes, the new one's fence conflicts, until it
// comes between two of its records. From then on the old one cannot write.
func TestTakeOverFromALeaderThatWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		old := s.leader(s.open(s.logs.Peer()))
		endOld := s.run(old)
		s.publish(old, "order.first")
		const conflicts = 5
		tries := 0
		log := &intruder{Log: s.open(s.logs)}
		log.before = func() {
			if tries++; tries <= conflicts {
				s.publish(old, fmt.Sprintf("order.%d", tries))
			}
		}
		l := s.leader(log)
		end := s.run(l)
		log.before = nil
		if tries != conflicts+1 || l.Epoch() != 2 {
			t.Errorf("it leads epoch %d after %d tries, want 2 after %d", l.Epoch(), tries, conflicts+1)
		}
		seen := 0
		err := l.Query(t.Context(), func(state *ledger.Ledger) {
			for i := range conflicts {
				if state.Seen("default", fmt.Sprintf("order.%d", i+1)) {
					seen++
				}
			}
		})
		if err != nil || seen != conflicts {
			t.Errorf("the new leader knows %d of %d events, %v", seen, conflicts, err)
		}
		if err := s.tryPublish(old, "order.late"); !errors.Is(err, ErrNotLeading) {
			t.Errorf("publishing to the old leader: %v, want %v", err, ErrNotLeading)
		}
		if err := endOld(); !errors.Is(err, ErrFenced) {
			t.Errorf("the old leader ended with %v, want %v", err, ErrFenced)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		s.checkFences(2)
	})
}

// A leader that is fenced before it has read its own fence back does not lead,
// and does not fence in return.
func TestFencedRightAfterTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		log := &intruder{Log: s.open(s.logs)}
		log.after = func() {
			s.append(func(r *linkv1.Record) {
				r.Epoch++
				r.Fence = &linkv1.Fence{FoldVersion: ledger.FoldVersion}
			})
		}
		if err := s.leader(log).Run(t.Context()); !errors.Is(err, ErrFenced) {
			t.Errorf("taking over: %v, want %v", err, ErrFenced)
		}
		s.checkFences(2)
	})
}

// What the log holds beyond the snapshot must follow from it.
func TestBrokenLogHalts(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*linkv1.Record)
		want   error
	}{
		"a record of an older epoch after a fence": {func(r *linkv1.Record) { r.Epoch-- }, ledger.ErrEpoch},
		"a fence that skips an epoch": {func(r *linkv1.Record) {
			r.Epoch += 2
			r.Fence = &linkv1.Fence{FoldVersion: ledger.FoldVersion}
		}, ledger.ErrEpoch},
		"another record before it":  {func(r *linkv1.Record) { r.PreviousHash[0] ^= 1 }, ledger.ErrChain},
		"no record before it":       {func(r *linkv1.Record) { r.PreviousHash = nil }, ledger.ErrChain},
		"a fence of a newer member": {func(r *linkv1.Record) { r.Epoch++; r.Fence = &linkv1.Fence{FoldVersion: ledger.FoldVersion + 1} }, ledger.ErrVersion},
		"a subscription that skips a number": {func(r *linkv1.Record) {
			r.Subscriptions = []*linkv1.SubscriptionChange{{Number: 7, Put: &linkv1.StoredSubscription{
				Tenant: "default", Id: "sub_7", Subscription: &fanfarev1.Subscription{},
			}}}
		}, ledger.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				for range 2 {
					s.lead(func(l *Leader) { s.publish(l, "order.a") })
				}
				s.append(test.change)
				s.checkHalts(test.want)
			})
		})
	}
	t.Run("bytes that are no record", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			s.lead(func(*Leader) {})
			s.appendBytes(1, []byte("not a record"))
			s.checkHalts(ledger.ErrInvalid)
		})
	})
}

// What is known of the log from elsewhere must be in it.
func TestRegressedLogHalts(t *testing.T) {
	for name, regress := range map[string]func(*site){
		"the history has more": func(s *site) {
			if err := s.history.Write(s.Context(), history.Batch{Prev: 4, Sequence: 5}); err != nil {
				s.Fatal(err)
			}
		},
		"a snapshot has more": func(s *site) {
			s.saveSnapshot(func(state *ledger.Ledger) {
				fold(s.T, state, &linkv1.Record{Epoch: state.Epoch(), PreviousHash: state.Hash()})
			})
		},
		"the mark has more": func(s *site) { s.marks.mark = Mark{5, s.marks.mark.Hash} },
		"the marked record is another one": func(s *site) {
			hash := sha256.Sum256([]byte("what was written"))
			s.marks.mark = Mark{3, hash[:]}
		},
		"the snapshot's record is another one": func(s *site) {
			s.marks.mark = Mark{}
			state := ledger.New()
			for range 4 {
				fold(s.T, state, &linkv1.Record{
					Epoch: state.Epoch() + 1, PreviousHash: state.Hash(), Fence: &linkv1.Fence{FoldVersion: ledger.FoldVersion},
				})
			}
			s.save(state)
		},
		"the beginning is gone": func(s *site) {
			if err := s.log.Purge(s.Context(), 2); err != nil {
				s.Fatal(err)
			}
		},
		"what is owed is gone": func(s *site) {
			s.saveSnapshot(func(*ledger.Ledger) {})
			if err := s.log.Purge(s.Context(), 4); err != nil {
				s.Fatal(err)
			}
		},
		"all of it is gone": func(s *site) { s.logs = eventlog.NewMemory(); s.log = s.open(s.logs) },
		"all of it and the history is gone": func(s *site) {
			s.logs = eventlog.NewMemory()
			s.log = s.open(s.logs)
			s.forgetHistory()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.lead(func(l *Leader) { // records 1 to 4
					s.subscribe(l)
					s.publish(l, "order.a", "order.b")
					if err := l.Followed(t.Context()); err != nil {
						t.Error(err)
					}
				})
				if n := len(s.records()); n != 4 {
					t.Fatalf("there are %d records, want 4", n)
				}
				regress(s)
				s.checkHalts(ErrRegressed)
			})
		})
	}
}

// What was purged since is not missed.
func TestPurgedLogIsNoRegress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.lead(func(l *Leader) { s.publish(l, "order.a", "order.b") })
		s.saveSnapshot(func(*ledger.Ledger) {})
		if err := s.log.Purge(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		s.lead(func(l *Leader) {
			if l.Epoch() != 2 {
				t.Errorf("epoch %d, want 2", l.Epoch())
			}
		})
	})
}

// The mark rises with the fence, with each snapshot and at the end, and never
// says more than the log holds.
func TestMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		check := func(when string, want uint64) {
			t.Helper()
			synctest.Wait()
			if got := s.marks.sequence(); got != want {
				t.Errorf("%s the mark is of record %d, want %d", when, got, want)
			}
		}
		s.lead(func(l *Leader) {
			check("after the fence", 1)
			s.publish(l, "order.a", "order.b")
			check("after publishing", 1)
			<-time.After(s.config.SnapshotInterval)
			s.publish(l, "order.c")
			if err := l.Followed(t.Context()); err != nil {
				t.Error(err)
			}
			check("after a snapshot", 4)
			s.publish(l, "order.d")
		})
		check("after the end", 5)
		s.marks.mark = Mark{}
		old := s.leader(s.open(s.logs))
		endOld := s.run(old)
		s.publish(old, "order.e")
		s.lead(func(*Leader) {
			check("after the next fence", 8)
			if err := s.tryPublish(old, "order.late"); !errors.Is(err, ErrNotLeading) {
				t.Errorf("publishing to a fenced leader: %v, want %v", err, ErrNotLeading)
			}
			if err := endOld(); !errors.Is(err, ErrFenced) {
				t.Errorf("the fenced leader ended with %v, want %v", err, ErrFenced)
			}
			check("after the end of a fenced leader", 8)
		})
	})
}

// subscribe adds a subscription to everything, which nobody delivers to.
func (s *site) subscribe(l *Leader) {
	s.Helper()
	err := l.Change(s.Context(), "sub_1", func(_ *ledger.Ledger, next ledger.Number, record *linkv1.Record) error {
		record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{Number: uint64(next), Put: &linkv1.StoredSubscription{
			Tenant: "default", Id: fmt.Sprint("sub_", next), Subscription: &fanfarev1.Subscription{},
		}})
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}

// saveSnapshot saves a snapshot of the log, after a change.
func (s *site) saveSnapshot(change func(*ledger.Ledger)) {
	s.Helper()
	state := ledger.New()
	for _, c := range s.records() {
		if _, err := state.Fold(c.sequence, c.hash, c.record); err != nil {
			s.Fatal(err)
		}
	}
	change(state)
	s.save(state)
}

func (s *site) save(state *ledger.Ledger) {
	s.Helper()
	data, err := state.Snapshot()
	if err == nil {
		err = s.log.SaveSnapshot(s.Context(), state.Sequence(), data)
	}
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) forgetHistory() {
	s.Helper()
	store, err := history.OpenSQLite(s.Context(), history.InMemory)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := store.Close(); err != nil {
			s.Error(err)
		}
	})
	s.history, s.config.History = store, store
}

// fold folds a record that is in no log.
func fold(t *testing.T, state *ledger.Ledger, record *linkv1.Record) {
	t.Helper()
	hash := bytes.Repeat([]byte{byte(state.Sequence() + 1)}, ledger.HashSize)
	if _, err := state.Fold(state.Sequence()+1, hash, record); err != nil {
		t.Fatal(err)
	}
}

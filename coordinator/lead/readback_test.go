package lead

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
)

// tampered is a log that gives other records than it was given, once told how.
type tampered struct {
	eventlog.Log
	how atomic.Pointer[func([]eventlog.Record) ([]eventlog.Record, error)]
}

func (l *tampered) Read(ctx context.Context, from uint64, most int) ([]eventlog.Record, error) {
	records, err := l.Log.Read(ctx, from, most)
	if how := l.how.Load(); how != nil && err == nil {
		return (*how)(records)
	}
	return records, err
}

func (l *tampered) tell(how func([]eventlog.Record) ([]eventlog.Record, error)) { l.how.Store(&how) }

// flip changes one bit of a record, wherever it is read.
func flip(sequence uint64) func([]eventlog.Record) ([]eventlog.Record, error) {
	return func(records []eventlog.Record) ([]eventlog.Record, error) {
		changed := slices.Clone(records)
		for i, r := range changed {
			if r.Seq == sequence {
				changed[i].Data = bytes.Clone(r.Data)
				changed[i].Data[len(r.Data)-1] ^= 1 // in the event's type
			}
		}
		return changed, nil
	}
}

func lose(records []eventlog.Record) ([]eventlog.Record, error) {
	return nil, eventlog.ErrDamaged
}

func end(records []eventlog.Record) ([]eventlog.Record, error) { return nil, nil }

// What is read back is compared with its neighbours, read or in memory.
func TestReadBack(t *testing.T) {
	for name, test := range map[string]struct {
		how    func([]eventlog.Record) ([]eventlog.Record, error)
		from   uint64
		most   int
		inHand []uint64 // sequences of records in memory
		want   error    // nil: it is found
	}{
		"intact":                           {nil, 2, eventlog.MaxReadRecords, nil, nil},
		"intact, one":                      {nil, 2, 1, nil, nil},
		"intact, between others":           {nil, 3, 1, []uint64{2, 4}, nil},
		"the next one gives it away":       {flip(2), 2, 1, nil, ledger.ErrChain},
		"one in the middle":                {flip(3), 1, eventlog.MaxReadRecords, nil, ledger.ErrChain},
		"the last one, memory knows":       {flip(4), 2, eventlog.MaxReadRecords, []uint64{5}, ledger.ErrChain},
		"the first one, memory knows less": {flip(1), 2, eventlog.MaxReadRecords, []uint64{1}, nil}, // it was not read
		"memory has another before it":     {flip(2), 2, 1, []uint64{3}, ledger.ErrChain},
		"gone":                             {end, 2, eventlog.MaxReadRecords, nil, ErrRegressed},
		"damaged":                          {lose, 2, eventlog.MaxReadRecords, nil, eventlog.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.lead(func(l *Leader) { s.publish(l, "order.a", "order.b", "order.c", "order.d") })
				log := &tampered{Log: s.open(s.logs)}
				l := s.leader(log)
				for _, c := range s.records() {
					if slices.Contains(test.inHand, c.sequence) {
						l.recent.putOlder(c)
					}
				}
				if test.how != nil {
					log.tell(test.how)
				}
				run, err := l.readBack(t.Context(), test.from, test.most)
				if !errors.Is(err, test.want) || Halts(err) != (test.want != nil) {
					t.Fatalf("reading back: %v, want %v", err, test.want)
				}
				if err == nil && (len(run) != min(test.most, 6-int(test.from)) || run[0].sequence != test.from) {
					t.Errorf("it gives %d records from %d on", len(run), run[0].sequence)
				}
			})
		})
	}
}

// held is a history that takes nothing until it is let go.
type held struct {
	history.Store
	let  chan struct{}
	held chan struct{} // capacity 1: somebody waits
}

func hold(store history.Store) *held {
	return &held{store, make(chan struct{}), make(chan struct{}, 1)}
}

func (h *held) Write(ctx context.Context, batch history.Batch) error {
	select {
	case h.held <- struct{}{}:
	default:
	}
	select {
	case <-h.let:
		return h.Store.Write(ctx, batch)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A leader that reads back something else than it has written does not go on.
func TestDamageUnderALeaderHalts(t *testing.T) {
	for name, test := range map[string]struct {
		how  func([]eventlog.Record) ([]eventlog.Record, error)
		want error
	}{
		"a flipped bit": {flip(4), ledger.ErrChain},
		"lost records":  {lose, eventlog.ErrDamaged},
		"an early end":  {end, ErrRegressed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				gate := hold(s.history)
				s.config.History, s.config.RecentBytes = gate, 1 // so that the follower must read
				log := &tampered{Log: s.open(s.logs)}
				l := s.leader(log)
				stop := s.run(l)
				s.publish(l, "order.a")
				<-gate.held
				s.publish(l, "order.b", "order.c", "order.d", "order.e")
				log.tell(test.how)
				close(gate.let)
				select {
				case <-l.Ended():
				case <-time.After(time.Minute):
					t.Error("it leads on")
				}
				if err := stop(); !errors.Is(err, test.want) || !Halts(err) {
					t.Errorf("it ended with %v, want %v", err, test.want)
				}
				if got := s.marks.sequence(); got != 6 {
					t.Errorf("the mark is of record %d, want 6, the last one acknowledged", got)
				}
			})
		})
	}
}

// What a leader that was overtaken finds wrong is not the log's fault.
func TestOvertakenLeaderDoesNotHalt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		shared := s.history
		s.forgetHistory()
		gate := hold(s.history)
		s.config.History, s.config.RecentBytes = gate, 1 // so that the follower must read
		old := s.leader(s.open(s.logs))
		stop := s.run(old)
		s.publish(old, "order.a")
		<-gate.held // from here on the follower has to read what it missed
		s.publish(old, "order.b", "order.c")
		s.config.History = shared
		s.lead(func(l *Leader) {
			s.saveSnapshot(func(*ledger.Ledger) {})
			if err := l.Followed(t.Context()); err != nil { // else it would miss what is purged
				t.Error(err)
			}
			if err := s.log.Purge(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
			close(gate.let)
			<-old.Ended()
			if err := stop(); !errors.Is(err, ErrFenced) || !errors.Is(err, ErrRegressed) {
				t.Errorf("the old leader ended with %v, want %v because of %v", err, ErrFenced, ErrRegressed)
			}
		})
	})
}

// The loop ends for what was purged only if it is owed.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.lead(func(l *Leader) {
			s.publish(l, "order.a") // record 2
			s.subscribe(l)
			s.publish(l, "order.b") // record 4, owed
		})
		for name, test := range map[string]struct {
			sequence uint64
			err      error
			want     error
		}{
			"read":                 {4, nil, nil},
			"not reached":          {4, errors.New("no connection"), nil},
			"purged, owed to none": {2, eventlog.ErrPurged, nil},
			"purged, owed":         {4, eventlog.ErrPurged, ErrRegressed},
			"damaged":              {2, eventlog.ErrDamaged, eventlog.ErrDamaged},
		} {
			state := ledger.New()
			for _, c := range s.records() {
				if _, err := state.Fold(c.sequence, c.hash, c.record); err != nil {
					t.Fatal(err)
				}
			}
			loop := newLoop(s.leader(s.log), state)
			loop.unreadable(test.sequence, test.err)
			if !errors.Is(loop.broken, test.want) || Halts(loop.broken) != (test.want != nil) {
				t.Errorf("%s: %v, want %v", name, loop.broken, test.want)
			}
		}
	})
}

// An append without an answer is settled, whatever has become of the log.
func TestResolve(t *testing.T) {
	own, other := []byte("own"), []byte("other")
	for name, test := range map[string]struct {
		then func(*site) eventlog.Log // what becomes of a log of 2 records
		want error
	}{
		"not there":        {func(s *site) eventlog.Log { return s.log }, nil},
		"there":            {func(s *site) eventlog.Log { s.appendBytes(2, own); return s.log }, nil},
		"somebody else's":  {func(s *site) eventlog.Log { s.appendBytes(2, other); return s.log }, eventlog.ErrConflict},
		"no space":         {func(s *site) eventlog.Log { s.logs.RefuseForSpace(true); return s.log }, eventlog.ErrNoSpace},
		"become too short": {func(s *site) eventlog.Log { return s.open(eventlog.NewMemory()) }, ErrRegressed},
		"damaged": {func(s *site) eventlog.Log {
			log := &tampered{Log: s.log}
			log.tell(lose)
			return log
		}, eventlog.ErrDamaged},
		"somebody else's, and purged": {func(s *site) eventlog.Log {
			s.appendBytes(2, other)
			if err := s.log.Purge(s.Context(), 3); err != nil {
				s.Fatal(err)
			}
			return s.log
		}, eventlog.ErrConflict},
		"unanswered again, and there": {func(s *site) eventlog.Log {
			s.logs.FailNext(0, eventlog.FailAppend)
			s.logs.FailNext(0, eventlog.LoseReply)
			return s.log
		}, nil},
		"out of reach for a while": {func(s *site) eventlog.Log {
			s.logs.CutOff(true)
			time.AfterFunc(time.Minute, func() { s.logs.CutOff(false) })
			return s.log
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.appendBytes(0, []byte("1"))
				s.appendBytes(1, []byte("2"))
				l := s.leader(test.then(s))
				if err := l.resolve(t.Context(), 3, own); !errors.Is(err, test.want) {
					t.Errorf("resolving: %v, want %v", err, test.want)
				}
				if test.want != nil {
					return
				}
				if got, err := s.log.Read(t.Context(), 3, 1); err != nil || len(got) != 1 || !bytes.Equal(got[0].Data, own) {
					t.Errorf("record 3 and after are %v, %v, want one", got, err)
				}
			})
		})
	}
}

// A history that was thrown away is made anew from the oldest snapshot.
func TestHistoryFromTheOldestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.config.SnapshotInterval = time.Hour // these are made here
		s.lead(func(l *Leader) {
			s.publish(l, "order.a", "order.b")
			s.saveSnapshot(func(*ledger.Ledger) {}) // at 3
			s.publish(l, "order.c", "order.d")
			s.saveSnapshot(func(*ledger.Ledger) {}) // at 5
			s.publish(l, "order.e")
		})
		if err := s.log.Purge(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		s.forgetHistory()
		s.lead(func(l *Leader) {
			if err := l.Followed(t.Context()); err != nil {
				t.Error(err)
			}
		})
		events, _, err := s.history.Events(t.Context(), history.EventQuery{Tenant: "default"}, history.Page{Size: 10})
		if err != nil || len(events) != 3 {
			t.Errorf("the history has %d events, %v, want the 3 since the oldest snapshot", len(events), err)
		}
	})
}

package eventlog_test

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/eventlog/eventlogtest"
)

func TestMemory(t *testing.T) {
	eventlogtest.Run(t, func(*testing.T) eventlog.Store { return eventlog.NewMemory() })
}

func TestMemoryFaults(t *testing.T) {
	// In a bubble no time passes until all wait, so that with any delay both
	// appends are under way before the first has failed.
	const travel, timeout = time.Millisecond, eventlog.DefaultAppendTimeout
	tests := []struct {
		name          string
		fault         func(*eventlog.Memory)
		took          time.Duration // by the first append
		first, second error         // results of the first and of the one chained behind it
		stored        []string
	}{
		{"none", func(*eventlog.Memory) {}, travel, nil, nil, []string{"a", "b"}},
		{"fail", next(eventlog.FailAppend), travel, eventlog.ErrUnknown, eventlog.ErrUnknown, nil},
		{"fail, but persist", next(eventlog.FailButPersist), travel, eventlog.ErrUnknown, eventlog.ErrUnknown, []string{"a", "b"}},
		{"lose the request", next(eventlog.LoseRequest), timeout, eventlog.ErrUnknown, eventlog.ErrUnknown, nil},
		{"lose the reply", next(eventlog.LoseReply), timeout, eventlog.ErrUnknown, eventlog.ErrUnknown, []string{"a", "b"}},
		{"fault of the second", next(eventlog.NoFault, eventlog.FailAppend), travel, nil, eventlog.ErrUnknown, []string{"a"}},
		{"fault of another partition", func(m *eventlog.Memory) { m.FailNext(1, eventlog.FailAppend) }, travel, nil, nil, []string{"a", "b"}},
		{"fault of a peer", func(m *eventlog.Memory) { m.Peer().FailNext(0, eventlog.FailAppend) }, travel, nil, nil, []string{"a", "b"}},
		{"delay", func(m *eventlog.Memory) { m.DelayAppends(time.Second) }, time.Second, nil, nil, []string{"a", "b"}},
		{"no space", func(m *eventlog.Memory) { m.RefuseForSpace(true) }, travel, eventlog.ErrNoSpace, eventlog.ErrConflict, nil},
		{"cut off", func(m *eventlog.Memory) { m.CutOff(true) }, timeout, eventlog.ErrUnknown, eventlog.ErrUnknown, nil},
		{"mended", breakAndMend, 0, nil, nil, []string{"a", "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := eventlog.NewMemory()
				log := openLog(t, memory)
				memory.DelayAppends(travel)
				tt.fault(memory)
				begun := time.Now()
				first, second := log.Append(0, []byte("a")), log.Append(1, []byte("b"))
				if err := <-first; !errors.Is(err, tt.first) {
					t.Errorf("first append = %v, want %v", err, tt.first)
				}
				if took := time.Since(begun); took != tt.took {
					t.Errorf("first append took %v, want %v", took, tt.took)
				}
				if err := <-second; !errors.Is(err, tt.second) {
					t.Errorf("second append = %v, want %v", err, tt.second)
				}
				wantRecords(t, openLog(t, memory.Peer()), 1, tt.stored...)
			})
		})
	}
}

// next gives the next appends these faults.
func next(faults ...eventlog.Fault) func(*eventlog.Memory) {
	return func(m *eventlog.Memory) {
		for _, fault := range faults {
			m.FailNext(0, fault)
		}
	}
}

func breakAndMend(m *eventlog.Memory) {
	m.DelayAppends(time.Second)
	m.RefuseForSpace(true)
	m.CutOff(true)
	m.DelayAppends(0)
	m.RefuseForSpace(false)
	m.CutOff(false)
}

// An append that arrives after its caller has given it up is stored, if its
// place is still free.
func TestMemoryLateArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := eventlog.NewMemory()
		log := openLog(t, memory)
		memory.DelayAppends(eventlog.DefaultAppendTimeout + time.Second)
		late := log.Append(0, []byte("late"))
		if err := <-late; !errors.Is(err, eventlog.ErrUnknown) {
			t.Errorf("late append = %v, want %v", err, eventlog.ErrUnknown)
		}
		wantRecords(t, log, 1)
		<-time.After(time.Second)
		synctest.Wait()
		wantRecords(t, log, 1, "late")
		if err := <-log.Append(0, []byte("again")); !errors.Is(err, eventlog.ErrUnknown) {
			t.Errorf("append under delay = %v, want %v", err, eventlog.ErrUnknown)
		}
		memory.DelayAppends(0)
		again := log.Append(0, []byte("again")) // behind one that is under way
		synctest.Wait()
		select {
		case err := <-again:
			t.Errorf("append overtook the one ahead of it: %v", err)
		default:
		}
		if err := <-again; !errors.Is(err, eventlog.ErrConflict) {
			t.Errorf("append in the place of the late one = %v, want %v", err, eventlog.ErrConflict)
		}
	})
}

func TestMemoryCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := eventlog.NewMemory()
		log, other := openLog(t, memory), openLog(t, memory.Peer())
		memory.CutOff(true)
		_, readErr := log.Read(t.Context(), 1, eventlog.MaxReadRecords)
		_, stateErr := log.State(t.Context())
		_, _, loadErr := log.LoadSnapshot(t.Context(), math.MaxUint64)
		_, openErr := memory.Open(t.Context(), 0)
		for name, err := range map[string]error{
			"Read":         readErr,
			"State":        stateErr,
			"Purge":        log.Purge(t.Context(), 1),
			"SaveSnapshot": log.SaveSnapshot(t.Context(), 1, []byte("x")),
			"LoadSnapshot": loadErr,
			"Open":         openErr,
		} {
			if err == nil || errors.Is(err, eventlog.ErrNoSnapshot) || errors.Is(err, eventlog.ErrDamaged) {
				t.Errorf("%s while cut off = %v", name, err)
			}
		}
		if err := <-other.Append(0, []byte("a")); err != nil {
			t.Errorf("append of a peer = %v", err)
		}
		memory.CutOff(false)
		wantRecords(t, log, 1, "a")
	})
}

func TestMemoryTornSnapshot(t *testing.T) {
	for name, data := range map[string][]byte{"with chunks": []byte("state at 2"), "empty": nil} {
		t.Run(name, func(t *testing.T) {
			memory := eventlog.NewMemory()
			log := openLog(t, memory)
			memory.TearSnapshot(0) // there is none
			saveSnapshot(t, log, 1, "state at 1")
			saveSnapshot(t, log, 2, string(data))
			memory.TearSnapshot(0)
			wantSnapshot(t, log, 1, "state at 1")
			saveSnapshot(t, log, 3, "state at 3")
			wantSnapshot(t, log, 3, "state at 3")
		})
	}
}

// Closing a log ends the appends that are on their way, and leaves nothing
// behind in the bubble.
func TestMemoryCloseWithAppendsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := eventlog.NewMemory()
		log := openLog(t, memory)
		memory.DelayAppends(time.Second)
		memory.FailNext(0, eventlog.LoseReply)
		results := []<-chan error{log.Append(0, []byte("a")), log.Append(1, []byte("b"))}
		if err := log.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		for _, result := range results {
			if err := <-result; !errors.Is(err, eventlog.ErrClosed) {
				t.Errorf("append under way = %v, want %v", err, eventlog.ErrClosed)
			}
		}
		<-time.After(time.Hour)
		wantRecords(t, openLog(t, memory), 1)
	})
}

func openLog(t testing.TB, store eventlog.Store) eventlog.Log {
	t.Helper()
	log, err := store.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

func wantRecords(t testing.TB, log eventlog.Log, from uint64, want ...string) {
	t.Helper()
	records, err := log.Read(t.Context(), from, eventlog.MaxReadRecords)
	if err != nil {
		t.Fatalf("Read(%d) = %v", from, err)
	}
	var got []string
	for _, r := range records {
		got = append(got, string(r.Data))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read(%d), -want +got:\n%s", from, diff)
	}
}

func saveSnapshot(t testing.TB, log eventlog.Log, seq uint64, data string) {
	t.Helper()
	if err := log.SaveSnapshot(t.Context(), seq, []byte(data)); err != nil {
		t.Fatalf("SaveSnapshot(%d) = %v", seq, err)
	}
}

func wantSnapshot(t testing.TB, log eventlog.Log, wantSeq uint64, want string) {
	t.Helper()
	seq, data, err := log.LoadSnapshot(t.Context(), math.MaxUint64)
	if err != nil || seq != wantSeq || string(data) != want {
		t.Errorf("LoadSnapshot = %d, %q, %v, want %d, %q", seq, data, err, wantSeq, want)
	}
}

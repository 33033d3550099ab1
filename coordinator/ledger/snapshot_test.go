package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// TestReplay folds logs again: all of it, and the rest after a snapshot of
// every k-th record. The same state must come of it, byte for byte.
func TestReplay(t *testing.T) {
	const every = 7
	met := map[string]int{} // in how many snapshots there was what is hard to keep
	has := func(l *Ledger, what string, is func(*Subscription) bool) {
		if slices.ContainsFunc(l.Subscriptions(), is) {
			met[what]++
		}
	}
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := newSimulation(seed)
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			log, want := s.book.log, snapshotOf(t, s.book.ledger)
			replayed := New()
			var snapshots [][]byte
			for i, data := range log {
				if i%every == 0 {
					snapshots = append(snapshots, snapshotOf(t, replayed))
				}
				replay(t, replayed, data)
			}
			compareLedgers(t, "replayed", replayed, s.book.ledger, want)
			for i, snapshot := range snapshots {
				l := restored(t, snapshot)
				has(l, "eras", func(s *Subscription) bool { return len(s.eras) > 0 })
				has(l, "a closed breaker", func(s *Subscription) bool { return s.breaker.failures > 0 && !s.breaker.open })
				has(l, "an open breaker", func(s *Subscription) bool { return s.breaker.probes > 0 })
				has(l, "one paused", func(s *Subscription) bool { return s.mode == Paused })
				has(l, "one disabled", func(s *Subscription) bool { return s.mode == Disabled })
				has(l, "replays", func(*Subscription) bool { return len(l.replays) > 0 })
				has(l, "marks", func(*Subscription) bool { return len(l.timeline.marks) > 1 })
				if again := snapshotOf(t, l); !bytes.Equal(again, snapshot) {
					t.Fatalf("record %d: the restored ledger gives another snapshot", i*every)
				}
				replay(t, l, log[i*every:]...)
				compareLedgers(t, fmt.Sprintf("restored at %d", i*every), l, s.book.ledger, want)
			}
		})
	}
	for what, snapshots := range met {
		if snapshots < 10 {
			t.Errorf("%s: in %d snapshots, want at least 10", what, snapshots)
		}
	}
	if len(met) < 7 {
		t.Errorf("met only %v", met)
	}
}

func replay(t testing.TB, l *Ledger, log ...[]byte) {
	t.Helper()
	for _, data := range log {
		if _, err := foldBytes(l, data); err != nil {
			t.Fatal(err)
		}
	}
}

// compareLedgers compares all that there is: the hash, the snapshot, what
// readers see, and what is derived from the state.
func compareLedgers(t *testing.T, how string, got, live *Ledger, want []byte) {
	t.Helper()
	if diff := cmp.Diff(describe(live), describe(got)); diff != "" {
		t.Errorf("%s: state (-live +%s):\n%s", how, how, diff)
	}
	if stateHash(t, got) != stateHash(t, live) {
		t.Errorf("%s: the state has another hash", how)
	}
	if !bytes.Equal(snapshotOf(t, got), want) {
		t.Errorf("%s: the state has another snapshot", how)
	}
	if err := got.consistent(); err != nil {
		t.Errorf("%s: %v", how, err)
	}
}

// TestSnapshotIsWhole wants every field of a ledger in its snapshot: a change
// of any must change the hash, and survive.
func TestSnapshotIsWhole(t *testing.T) {
	for name, change := range map[string]func(*Ledger){
		"sequence":        func(l *Ledger) { l.sequence++ },
		"hash":            func(l *Ledger) { l.hash[5]++ },
		"epoch":           func(l *Ledger) { l.epoch++ },
		"time":            func(l *Ledger) { l.time++ },
		"version":         func(l *Ledger) { l.version = 0 },
		"limits":          func(l *Ledger) { l.limits.OutstandingFailing++ },
		"next number":     func(l *Ledger) { l.nextNumber++ },
		"last events":     func(l *Ledger) { l.lastEvents++ },
		"tenant":          func(l *Ledger) { l.foldTenant(putTenant("wonka")) },
		"window":          func(l *Ledger) { l.window.add(numberedKey(1), 9) },
		"patterns":        func(l *Ledger) { l.foldSubscription(put(2, "acme", "sub_2", "z"), &Result{}) },
		"deleted":         func(l *Ledger) { l.foldSubscription(remove(4), &Result{}) },
		"owed":            func(l *Ledger) { l.owe(l.subscriptions[4], l.fresh(Position{3, 0}), &Result{}) },
		"owed: attempts":  func(l *Ledger) { l.subscriptions[2].owed[0].attempts++ },
		"owed: next":      func(l *Ledger) { l.subscriptions[2].owed[0].next++ },
		"owed: since":     func(l *Ledger) { l.subscriptions[2].owed[0].since++ },
		"owed: charged":   func(l *Ledger) { l.subscriptions[2].owed[0].charged++ },
		"cursor sequence": func(l *Ledger) { l.subscriptions[1].cursor.Sequence-- },
		"cursor index":    func(l *Ledger) { l.subscriptions[1].cursor.Index++ },
		"era":             func(l *Ledger) { l.subscriptions[1].eras = nil },
		"era: until":      func(l *Ledger) { l.subscriptions[1].eras[0].until++ },
		"era: patterns":   func(l *Ledger) { l.subscriptions[1].eras[0].patterns = []string{"z"} },
		"era: everything": func(l *Ledger) { l.subscriptions[1].eras[0].patterns = nil },
		"second era": func(l *Ledger) {
			l.sequence++
			l.foldSubscription(put(1, "acme", "sub_1", "z"), &Result{})
		},
		"failures":          func(l *Ledger) { l.subscriptions[2].failures++ },
		"failing since":     func(l *Ledger) { l.subscriptions[2].failingSince++ },
		"breaker: failures": func(l *Ledger) { l.subscriptions[2].breaker.failures++ },
		"breaker: events": func(l *Ledger) {
			l.subscriptions[2].breaker.events = append(l.subscriptions[2].breaker.events, Position{2, 1})
		},
		"breaker: event":  func(l *Ledger) { l.subscriptions[2].breaker.events[0].Index++ },
		"breaker: open":   func(l *Ledger) { l.subscriptions[2].breaker.open = true },
		"breaker: probes": func(l *Ledger) { l.subscriptions[2].breaker.probes++ },
		"breaker: next":   func(l *Ledger) { l.subscriptions[2].breaker.next++ },
		"mode":            func(l *Ledger) { l.subscriptions[4].mode = Disabled; l.refile(l.subscriptions[4]) },
		"mode: active":    func(l *Ledger) { l.subscriptions[4].mode = Active; l.refile(l.subscriptions[4]) },
		"mode: reason":    func(l *Ledger) { l.subscriptions[4].modeReason += "?" },
		"mode: since":     func(l *Ledger) { l.subscriptions[4].modeSince++ },
		"replay":          func(l *Ledger) { l.foldReplay(putReplay("rpl_2", fanfarev1.Replay_RUNNING)) },
		"replay: ended":   func(l *Ledger) { l.foldReplay(putReplay("rpl_1", fanfarev1.Replay_DONE)) },
		"replay: deleted": func(l *Ledger) { l.foldReplay(&linkv1.ReplayChange{Id: "rpl_1"}) },
		"mark":            func(l *Ledger) { l.timeline.marks = append(l.timeline.marks, mark{3, 2000}) },
		"mark: sequence":  func(l *Ledger) { l.timeline.marks[0].sequence++ },
		"mark: time":      func(l *Ledger) { l.timeline.marks[0].time++ },
		"behind": func(l *Ledger) {
			l.foldAdmit(admit(1, Position{l.lastEvents + 1, 0}), &Result{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := busy(t).ledger
			before := stateHash(t, l)
			change(l)
			if stateHash(t, l) == before {
				t.Error("the change does not show in the hash")
			}
			compareLedgers(t, "restored", restored(t, snapshotOf(t, l)), l, snapshotOf(t, l))
		})
	}
}

// TestAdopt: what two ledgers have alike is one in memory, and what they do not
// stays what it was.
func TestAdopt(t *testing.T) {
	b := busy(t)
	restored := restored(t, snapshotOf(t, b.ledger))
	stored := b.ledger.Stored()
	b.must(t, &linkv1.Record{Subscriptions: []*linkv1.SubscriptionChange{put(2, "acme", "sub_2", "new")}})
	stored[2] = b.ledger.Subscription(2).Stored
	before := describe(restored)
	restored.Adopt(stored)
	if diff := cmp.Diff(before, describe(restored)); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
	for number, of := range stored {
		if got, want := restored.Subscription(number).Stored == of, number != 2; got != want {
			t.Errorf("subscription %d: it has the other's copy: %t, want %t", number, got, want)
		}
	}
}

func TestSnapshotOfNothing(t *testing.T) {
	l := restored(t, snapshotOf(t, New()))
	compareLedgers(t, "restored", l, New(), snapshotOf(t, New()))
	if l.Sequence() != 0 || l.NextNumber() != 1 {
		t.Errorf("sequence %d and next number %d, want 0 and 1", l.Sequence(), l.NextNumber())
	}
}

// TestRestoreFindsDamage flips every bit of a snapshot, cuts it everywhere,
// and adds to it. What comes of it is an error, or, where the encoding has
// two ways to say the same, the same ledger; never another.
func TestRestoreFindsDamage(t *testing.T) {
	l := busy(t).ledger
	intact, want := snapshotOf(t, l), stateHash(t, l)
	check := func(what string, damaged []byte) {
		t.Helper()
		got, err := Restore(damaged)
		switch {
		case err == nil && stateHash(t, got) != want:
			t.Errorf("%s: another ledger was restored", what)
		case err != nil && !errors.Is(err, ErrSnapshot):
			t.Errorf("%s: error %v, want %v", what, err, ErrSnapshot)
		}
	}
	refused := 0
	for bit := range 8 * len(intact) {
		damaged := bytes.Clone(intact)
		damaged[bit/8] ^= 1 << (bit % 8)
		check(fmt.Sprintf("bit %d", bit), damaged)
		if _, err := Restore(damaged); err != nil {
			refused++
		}
	}
	if few := 8 * len(intact) * 9 / 10; refused < few {
		t.Errorf("%d of %d damaged snapshots were refused, want at least %d", refused, 8*len(intact), few)
	}
	for length := range intact {
		check(fmt.Sprintf("cut to %d bytes", length), intact[:length])
		if _, err := Restore(intact[:length]); err == nil {
			t.Errorf("cut to %d bytes: no error", length)
		}
	}
	check("twice", append(bytes.Clone(intact), intact...))
	check("zeroes behind", append(bytes.Clone(intact), 0, 0, 0))
	check("an unknown field behind", append(bytes.Clone(intact), 0xf8, 0x01, 0x01))
}

func TestRestoreRefusesNewerFold(t *testing.T) {
	l := busy(t).ledger
	l.version = FoldVersion + 1
	data := snapshotOf(t, l)
	if _, err := Restore(data); !errors.Is(err, ErrVersion) {
		t.Errorf("error is %v, want %v", err, ErrVersion)
	}
}

// TestSnapshotIsDetached: a ledger goes on, its snapshot does not.
func TestSnapshotIsDetached(t *testing.T) {
	b := busy(t)
	before := describe(b.ledger)
	snapshot := snapshotOf(t, b.ledger)
	b.must(t, &linkv1.Record{
		Subscriptions: []*linkv1.SubscriptionChange{remove(1), put(2, "acme", "sub_2", "x")},
		Events:        []*linkv1.LoggedEvent{event("acme", "e9", "x")},
	})
	if diff := cmp.Diff(before, describe(restored(t, snapshot))); diff != "" {
		t.Errorf("restored (-before +restored):\n%s", diff)
	}
}

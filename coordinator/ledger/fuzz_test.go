package ledger

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// FuzzPatterns wants Matches and the index to agree on any strings, and with
// regular expressions on patterns that are allowed.
func FuzzPatterns(f *testing.F) {
	for _, seed := range [][3]string{
		{"order.*", "order.**", "order.created"},
		{"*", "a.b", "a.b"},
		{"*.*.c", "a.**", "a.b.c"},
		{"a..b", "a.**.c", "a..b"},
		{"", ".", ""},
		{"**.a", "a*", "ä.\xff"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, one, other, eventType string) {
		patterns := []string{one, other}
		want := Matches(patterns, eventType)
		if CheckPattern(one) == nil && CheckPattern(other) == nil && CheckType(eventType) == nil {
			if slow := slowMatch(patterns, eventType); slow != want {
				t.Errorf("Matches(%q, %q) = %t, by regular expression %t", patterns, eventType, want, slow)
			}
		}
		if CheckType(eventType) == nil && CheckPattern(eventType) != nil {
			t.Errorf("the type %q is not a pattern: %v", eventType, CheckPattern(eventType))
		}
		var x index
		x.add(1, []string{other})
		x.add(2, patterns)
		if got := slices.Contains(x.match(eventType), 2); got != want {
			t.Errorf("Matches(%q, %q) = %t, by the index %t", patterns, eventType, want, got)
		}
		x.remove(2, patterns)
		if slices.Contains(x.match(eventType), 2) {
			t.Errorf("%q: removed, but still found by %q", patterns, eventType)
		}
		x.remove(1, []string{other})
		if !x.root.empty() || len(x.all) > 0 {
			t.Errorf("%q: index of nothing still has %v", patterns, x.contents())
		}
	})
}

// FuzzRestore wants an error or a ledger that is the snapshot's.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(snapshotOf(f, New()))
	f.Add(snapshotOf(f, busy(f).ledger))
	s := newSimulation(1)
	if err := s.run(); err != nil {
		f.Fatal(err)
	}
	f.Add(snapshotOf(f, s.book.ledger))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Restore(data)
		if err != nil {
			return
		}
		if err := l.consistent(); err != nil {
			t.Fatal(err)
		}
		if again := snapshotOf(t, l); !bytes.Equal(again, snapshotOf(t, restored(t, again))) {
			t.Error("the restored ledger does not survive a snapshot")
		}
	})
}

// FuzzFold folds any record that can be decoded into a busy ledger, chained
// so that its content decides. It must not panic, change nothing if it
// refuses, leave a state that a snapshot keeps, and go on.
func FuzzFold(f *testing.F) {
	seeds := busy(f)
	for sequence := range len(seeds.log) {
		f.Add(seeds.log[sequence])
	}
	s := newSimulation(3)
	if err := s.run(); err != nil {
		f.Fatal(err)
	}
	for _, data := range s.book.log[:40] {
		f.Add(data)
	}
	f.Add(encoded(f, &linkv1.Record{
		Subscriptions: []*linkv1.SubscriptionChange{
			put(2, "acme", "sub_2", "a.**.b", "", "*"), remove(4), put(5, "acme", "sub_4"), put(5, "", ""),
		},
		Admits: []*linkv1.Admit{admit(1, Position{9, 9}, Position{2, 1}, Position{3, 0})},
	}))
	f.Add(encoded(f, &linkv1.Record{
		Controls: []*linkv1.Control{
			control(1, linkv1.Control_PAUSE), control(2, linkv1.Control_RESUME_FROM_NOW), control(4, linkv1.Control_RESUME),
		},
		ExpireBefore: 2,
		Readmits:     []*linkv1.Readmit{readmit(2, 3, Position{1, 0}, Position{9, 9}), readmit(4, 0, Position{2, 0})},
		Replays:      []*linkv1.ReplayChange{putReplay("rpl_0", fanfarev1.Replay_DONE), {Id: "rpl_1"}},
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		record := new(linkv1.Record)
		if proto.Unmarshal(data, record) != nil {
			return
		}
		b := busy(t)
		before := stateHash(t, b.ledger)
		if _, err := b.append(record); err != nil {
			if stateHash(t, b.ledger) != before {
				t.Fatalf("refused, but the state has changed: %v", err)
			}
		}
		sound(t, b.ledger)
		b.must(t, events(event("acme", "e8", "order.created"), event("umbrella", "e9", "z")))
		var all []*linkv1.SubscriptionChange
		for _, s := range b.ledger.Subscriptions() {
			all = append(all, remove(s.Number))
		}
		b.must(t, subscriptions(all...))
		sound(t, b.ledger)
		if b.ledger.Outstanding() != 0 || b.ledger.BehindCount() != 0 {
			t.Error("no subscriptions, but something is owed")
		}
	})
}

// sound checks a ledger by itself and against its restored twin.
func sound(t *testing.T, l *Ledger) {
	t.Helper()
	if err := l.consistent(); err != nil {
		t.Fatal(err)
	}
	compareLedgers(t, "restored", restored(t, snapshotOf(t, l)), l, snapshotOf(t, l))
}

func encoded(t testing.TB, record *linkv1.Record) []byte {
	t.Helper()
	data, err := proto.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

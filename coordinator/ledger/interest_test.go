package ledger

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// compareInterests has cmp compare what two interests are made of. A list of no
// eras is no list.
func compareInterests() cmp.Option {
	return cmp.Options{cmp.AllowUnexported(Interest{}, era{}), cmpopts.EquateEmpty()}
}

func TestInterestWants(t *testing.T) {
	interest := Interest{
		patterns: []string{"now"},
		eras:     []era{{5, []string{"first"}}, {7, nil}, {8, []string{"third", "now"}}},
	}
	for _, test := range []struct {
		sequence uint64
		want     []string // of first, third, now
	}{
		{0, []string{"first"}},
		{4, []string{"first"}},
		{5, []string{"first", "third", "now"}},
		{6, []string{"first", "third", "now"}},
		{7, []string{"third", "now"}},
		{8, []string{"now"}},
		{1000, []string{"now"}},
	} {
		var got []string
		for _, eventType := range []string{"first", "third", "now"} {
			if interest.Wants(test.sequence, eventType) {
				got = append(got, eventType)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("wanted in record %d (-want +got):\n%s", test.sequence, diff)
		}
	}
	if everything := (Interest{}); !everything.Wants(1, "a.b") {
		t.Error("an interest without patterns does not want everything")
	}
}

func TestInterestChanged(t *testing.T) {
	a, b, c := []string{"a"}, []string{"b", "b.*"}, []string{"c"}
	for _, test := range []struct {
		name     string
		before   Interest
		sequence uint64
		patterns []string
		want     Interest
	}{
		{"first time", Interest{patterns: a}, 5, b, Interest{b, []era{{5, a}}}},
		{"second time", Interest{b, []era{{5, a}}}, 9, c, Interest{c, []era{{5, a}, {9, b}}}},
		{"and back", Interest{b, []era{{5, a}}}, 9, a, Interest{a, []era{{5, a}, {9, b}}}},
		{"to the same", Interest{b, []era{{5, a}}}, 9, slices.Clone(b), Interest{b, []era{{5, a}}}},
		{"from everything", Interest{}, 5, a, Interest{a, []era{{5, nil}}}},
		{"to everything", Interest{patterns: a}, 5, nil, Interest{nil, []era{{5, a}}}},
		{"again by the same record", Interest{b, []era{{5, a}}}, 5, c, Interest{c, []era{{5, a}}}},
		{"back by the same record", Interest{b, []era{{5, a}}}, 5, a, Interest{a, []era{{5, a}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.before.changed(test.sequence, test.patterns)
			if diff := cmp.Diff(test.want, got, compareInterests()); diff != "" {
				t.Errorf("interest (-want +got):\n%s", diff)
			}
		})
	}
}

// TestInterestChangedTooOften wants more rather than less of what is too old,
// and nothing else of the rest, at the bound and well beyond it.
func TestInterestChangedTooOften(t *testing.T) {
	var interests []Interest
	interest := Interest{patterns: []string{"t0"}}
	for n := range 2 * maxEras {
		interests = append(interests, interest)
		interest = interest.changed(uint64(10*(n+1)), []string{fmt.Sprintf("t%d", n+1)})
	}
	interests = append(interests, interest)
	for changes, got := range interests {
		if want := min(changes, maxEras); len(got.eras) != want {
			t.Fatalf("%d changes: %d eras, want %d", changes, len(got.eras), want)
		}
		merged := max(0, changes-maxEras) // the last era that lost its end
		for published := range changes + 1 {
			sequence := uint64(10*published + 9)
			for n := range changes + 1 {
				want := n == published || n <= merged && published <= merged
				if got := got.Wants(sequence, fmt.Sprintf("t%d", n)); got != want {
					t.Errorf("%d changes: t%d wanted in record %d: %t, want %t", changes, n, sequence, got, want)
				}
			}
		}
	}
}

// TestInterestIsNotChangedInPlace: what was handed out stays as it was, also
// when two go on from it.
func TestInterestIsNotChangedInPlace(t *testing.T) {
	for _, eras := range []int{0, 1, 3, maxEras - 1, maxEras} {
		interest := Interest{patterns: []string{"b", "a"}}
		for n := range eras {
			interest = interest.changed(uint64(n+1), []string{"z", fmt.Sprintf("t%d", n)})
		}
		kept := Interest{slices.Clone(interest.patterns), slices.Clone(interest.eras)}
		for i := range kept.eras {
			kept.eras[i].patterns = slices.Clone(kept.eras[i].patterns)
		}
		one := interest.changed(100, []string{"one"}).changed(110, []string{"three"})
		two := interest.after(1).changed(105, []string{"two"}).changed(106, nil)
		if diff := cmp.Diff(kept, interest, compareInterests()); diff != "" {
			t.Errorf("%d eras: interest after others were made of it (-before +after):\n%s", eras, diff)
		}
		if !one.Wants(104, "one") || two.Wants(104, "one") || !two.Wants(105, "two") || one.Wants(105, "two") {
			t.Errorf("%d eras: two interests made of one share what came later", eras)
		}
	}
}

func TestInterestAfter(t *testing.T) {
	a, b, now := []string{"a"}, []string{"b"}, []string{"now"}
	interest := Interest{now, []era{{5, a}, {9, b}}}
	for _, test := range []struct {
		sequence uint64
		want     []era
	}{
		{0, []era{{5, a}, {9, b}}},
		{4, []era{{5, a}, {9, b}}},
		{5, []era{{9, b}}},
		{8, []era{{9, b}}},
		{9, nil},
		{1000, nil},
	} {
		want := Interest{now, test.want}
		if diff := cmp.Diff(want, interest.after(test.sequence), compareInterests()); diff != "" {
			t.Errorf("after %d (-want +got):\n%s", test.sequence, diff)
		}
	}
	if diff := cmp.Diff(Interest{patterns: now}, Interest{patterns: now}.after(3), compareInterests()); diff != "" {
		t.Errorf("without eras (-want +got):\n%s", diff)
	}
}

func TestUnion(t *testing.T) {
	numbered := func(from, to int) []string {
		var patterns []string
		for n := from; n < to; n++ {
			patterns = append(patterns, fmt.Sprintf("t%04d", n))
		}
		return patterns
	}
	for _, test := range []struct {
		name       string
		a, b, want []string
	}{
		{"disjoint", []string{"c", "a"}, []string{"b.*"}, []string{"a", "b.*", "c"}},
		{"the same", []string{"b", "a"}, []string{"a", "b"}, []string{"a", "b"}},
		{"one within the other", []string{"a"}, []string{"a", "b"}, []string{"a", "b"}},
		{"nothing is everything", nil, []string{"a"}, []string{"*"}},
		{"everything on the other side", []string{"a"}, nil, []string{"*"}},
		{"both everything", nil, nil, []string{"*"}},
		{"star among others", []string{"a", "*"}, []string{"b"}, []string{"*"}},
		{"two stars", []string{"a"}, []string{"**"}, []string{"*"}},
		{"stars of a segment are not all", []string{"*.*"}, []string{"a.**"}, []string{"*.*", "a.**"}},
		{"as many as may be", numbered(0, 900), numbered(800, maxUnion), numbered(0, maxUnion)},
		{"too many", numbered(0, 900), numbered(800, maxUnion+1), []string{"*"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := slices.Clone(test.a), slices.Clone(test.b)
			if diff := cmp.Diff(test.want, union(a, b)); diff != "" {
				t.Errorf("union (-want +got):\n%s", diff)
			}
			if !slices.Equal(a, test.a) || !slices.Equal(b, test.b) {
				t.Error("the lists have changed")
			}
		})
	}
}

// TestInterestOfManyChangesIsBounded: one that is behind for ever and changed
// for ever does not grow.
func TestInterestOfManyChangesIsBounded(t *testing.T) {
	b := lagging(t)
	for n := range 3 * maxUnion {
		b.must(t, subscriptions(put(1, "acme", "sub_1", fmt.Sprintf("t%d", n))))
	}
	s := b.ledger.Subscription(1)
	patterns := 0
	for _, e := range s.eras {
		patterns += len(e.patterns)
	}
	if len(s.eras) != maxEras || patterns != maxEras {
		t.Errorf("%d eras with %d patterns, want %d with one each", len(s.eras), patterns, maxEras)
	}
	if !s.Interest().Wants(4, "order.created") {
		t.Error("what it wanted first is not wanted any more")
	}
	sound(t, b.ledger)
}

// lagging returns a book whose subscription 1 wants order.* and is behind from
// 4/0.
func lagging(t *testing.T) *book {
	b := begin(t, &linkv1.Limits{OutstandingHealthy: 1})
	b.must(t, subscriptions(put(1, "acme", "sub_1", "order.*")))
	b.must(t, events(event("acme", "e1", "order.created")))
	b.must(t, events(event("acme", "e2", "order.created")))
	return b
}

// TestInterestIsKept: an interest that was handed out says what was wanted up
// to then, whatever becomes of its subscription.
func TestInterestIsKept(t *testing.T) {
	b := lagging(t)
	interest := b.ledger.Subscription(1).Interest()
	b.must(t, subscriptions(put(1, "acme", "sub_1", "invoice.*")))
	b.must(t, subscriptions(put(1, "acme", "sub_1", "z")))
	b.must(t, &linkv1.Record{
		Outcomes: EncodeOutcomes(0, []Reported{outcome(linkv1.Outcome_DELIVERED, Delivery{1, Position{3, 0}}, 1)}),
		Admits:   []*linkv1.Admit{admit(1, Position{b.ledger.Sequence(), 0}, Position{4, 0})},
	})
	b.must(t, subscriptions(remove(1)))
	for eventType, want := range map[string]bool{"order.created": true, "invoice.sent": false, "z": false} {
		if got := interest.Wants(4, eventType); got != want {
			t.Errorf("%s wanted in record 4: %t, want %t", eventType, got, want)
		}
	}
}

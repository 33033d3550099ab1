package ledger

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckType(t *testing.T) {
	for _, test := range []struct{ eventType, want string }{
		{"order", ""},
		{"order.created", ""},
		{"Order-2.line_item.CREATED", ""},
		{strings.Repeat("a", MaxTypeLength), ""},
		{"", "is empty"},
		{strings.Repeat("a", MaxTypeLength+1), "is longer than 256 bytes"},
		{".", "has an empty segment"},
		{".order", "has an empty segment"},
		{"order.", "has an empty segment"},
		{"order..created", "has an empty segment"},
		{"*", "has a * that is not a whole segment"},
		{"order.*", "has a * that is not a whole segment"},
		{"order created", `has the character ' '; letters, digits, '_', '-' and '.' are allowed`},
		{"order/created", `has the character '/'; letters, digits, '_', '-' and '.' are allowed`},
		{"ordér", `has the character 'Ã'; letters, digits, '_', '-' and '.' are allowed`},
		{"order\x00", `has the character '\x00'; letters, digits, '_', '-' and '.' are allowed`},
	} {
		if got := message(CheckType(test.eventType)); got != test.want {
			t.Errorf("CheckType(%q) = %q, want %q", test.eventType, got, test.want)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	for _, test := range []struct{ pattern, want string }{
		{"order", ""},
		{"order.created", ""},
		{"*", ""},
		{"**", ""},
		{"order.*", ""},
		{"order.**", ""},
		{"*.created", ""},
		{"*.*.**", ""},
		{"order.*.created", ""},
		{strings.Repeat("a", MaxTypeLength-3) + ".**", ""},
		{"", "is empty"},
		{strings.Repeat("a", MaxTypeLength-2) + ".**", "is longer than 256 bytes"},
		{"order..*", "has an empty segment"},
		{"order.", "has an empty segment"},
		{"**.created", "has ** before its last segment"},
		{"order.**.created", "has ** before its last segment"},
		{"order.cre*", "has a * that is not a whole segment"},
		{"order.***", "has a * that is not a whole segment"},
		{"order.?", `has the character '?'; letters, digits, '_', '-' and '.' are allowed`},
	} {
		if got := message(CheckPattern(test.pattern)); got != test.want {
			t.Errorf("CheckPattern(%q) = %q, want %q", test.pattern, got, test.want)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		patterns  string // separated by spaces
		eventType string
		want      bool
	}{
		{"", "order.created", true},
		{"*", "order", true},
		{"*", "order.created", true}, // alone it stands for every type
		{"**", "order.created.again", true},
		{"order", "order", true},
		{"order", "orders", false},
		{"order", "Order", false},
		{"order", "order.created", false},
		{"order.created", "order", false},
		{"order.*", "order.created", true},
		{"order.*", "order", false},
		{"order.*", "order.created.again", false},
		{"order.**", "order", false},
		{"order.**", "order.created", true},
		{"order.**", "order.created.again", true},
		{"order.**", "orders.created", false},
		{"*.created", "order.created", true},
		{"*.created", "created", false},
		{"*.*", "order", false},
		{"*.*", "order.created", true},
		{"*.**", "order", false},
		{"*.**", "order.created.again", true},
		{"a.*.c", "a.b.c", true},
		{"a.*.c", "a.b.b.c", false},
		{"order.paid invoice.*", "invoice.sent", true},
		{"order.paid invoice.*", "order.sent", false},
		{"order.paid *", "anything.else", true},
	} {
		patterns := strings.Fields(test.patterns)
		if got := Matches(patterns, test.eventType); got != test.want {
			t.Errorf("Matches(%q, %q) = %t, want %t", patterns, test.eventType, got, test.want)
		}
		if got := slowMatch(patterns, test.eventType); got != test.want {
			t.Errorf("slowMatch(%q, %q) = %t, want %t", patterns, test.eventType, got, test.want)
		}
	}
}

// TestIndexAgreesWithMatches adds and removes subscriptions at random, and asks
// index, Matches and regular expressions the same question.
func TestIndexAgreesWithMatches(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			var x index
			present := map[Number][]string{}
			for range 300 {
				number := Number(1 + rng.IntN(20))
				if patterns, ok := present[number]; ok {
					x.remove(number, patterns)
					delete(present, number)
				} else {
					present[number] = somePatterns(rng)
					x.add(number, present[number])
				}
				compareMatches(t, &x, present, someType(rng))
			}
			for number, patterns := range present {
				x.remove(number, patterns)
			}
			if !x.root.empty() || len(x.all) > 0 {
				t.Errorf("index of nothing still has %v", x.contents())
			}
		})
	}
}

func compareMatches(t *testing.T, x *index, present map[Number][]string, eventType string) {
	t.Helper()
	var want []Number
	for _, number := range slices.Sorted(maps.Keys(present)) {
		wants := Matches(present[number], eventType)
		if slow := slowMatch(present[number], eventType); wants != slow {
			t.Fatalf("Matches(%q, %q) = %t, by regular expression %t", present[number], eventType, wants, slow)
		}
		if wants {
			want = append(want, number)
		}
	}
	if diff := cmp.Diff(want, slices.Clone(x.match(eventType))); diff != "" {
		t.Fatalf("match(%q) (-want +got):\n%s\nsubscriptions: %v", eventType, diff, present)
	}
	matching := 0
	for _, patterns := range present {
		for i, pattern := range patterns {
			if !everything(patterns) && !slices.Contains(patterns[:i], pattern) && Matches([]string{pattern}, eventType) {
				matching++
			}
		}
		if everything(patterns) {
			matching++
		}
	}
	if got := x.atMost(eventType); got != matching {
		t.Fatalf("atMost(%q) = %d, want %d\nsubscriptions: %v", eventType, got, matching, present)
	}
}

// someType returns one of few types, so that patterns often match.
func someType(rng *rand.Rand) string {
	return join(rng, "a", "b", "c")
}

// somePatterns returns a list of patterns as a subscription may have it.
func somePatterns(rng *rand.Rand) []string {
	var patterns []string
	for range rng.IntN(4) {
		p := join(rng, "a", "b", "c", "*", "*")
		if rng.IntN(4) == 0 {
			p += ".**"
		}
		patterns = append(patterns, p)
	}
	return patterns
}

func join(rng *rand.Rand, segments ...string) string {
	var path []string
	for range 1 + rng.IntN(3) {
		path = append(path, segments[rng.IntN(len(segments))])
	}
	return strings.Join(path, ".")
}

func TestIndexDropsEmptyNodes(t *testing.T) {
	var x index
	x.add(1, []string{"a.b.c", "a.*.**"})
	x.add(2, []string{"a.b.c", "a.b"})
	x.remove(1, []string{"a.b.c", "a.*.**"})
	want := map[string][]Number{"a.b.c.(here)": {2}, "a.b.(here)": {2}}
	if diff := cmp.Diff(want, x.contents()); diff != "" {
		t.Errorf("after removing 1 (-want +got):\n%s", diff)
	}
	if x.root.exact["a"].star != nil {
		t.Error("the node of a.* is kept for nothing")
	}
	x.remove(3, []string{"a.b", "z.z"}) // was never there
	x.remove(2, []string{"a.b.c"})
	if len(x.root.exact["a"].exact["b"].exact) > 0 {
		t.Error("the node of a.b.c is kept for nothing")
	}
	x.remove(2, []string{"a.b"})
	if !x.root.empty() {
		t.Errorf("index of nothing still has %v", x.contents())
	}
}

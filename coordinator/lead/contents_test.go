package lead

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// Whoever skips finds what who reads everything finds, and reads less.
func TestSkipFindsTheSame(t *testing.T) {
	interest := changedInterest(t, 12)
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var stretch []committed
		var known contents
		for sequence := uint64(5); sequence < 30; sequence++ {
			var events []string
			for range rng.IntN(3) {
				events = append(events, fmt.Sprintf("%s %s", []string{"acme", "umbrella"}[rng.IntN(2)], []string{"order.a", "invoice.b", "x"}[rng.IntN(3)]))
			}
			c := wrote(sequence, events...)
			stretch = append(stretch, c)
			if sequence >= 8 { // older ones are not known
				known.add(sequence, c.record)
			}
		}
		lag := laggard{
			subscription: 7, tenant: "acme", interest: interest, tail: 25 + rng.Uint64N(4), room: 1 + rng.IntN(8),
			cursor: at(5+rng.Uint64N(20), uint32(rng.IntN(2))),
		}
		whole, skipping, checks := lag, lag, 1+rng.IntN(40)
		whole.scan(stretch)
		skipping.skip(new(known.view()), &checks)
		passed := skipping.cursor.Sequence - lag.cursor.Sequence
		skipping.scan(stretch)
		if diff := cmp.Diff(whole.admit, skipping.admit, protocmp.Transform()); diff != "" {
			t.Fatalf("seed %d, %d records skipped (-whole +skipping):\n%s", seed, passed, diff)
		}
	}
}

func TestContents(t *testing.T) {
	var known contents
	for sequence, events := range [][]string{{"acme a", "acme a", "acme b"}, {}, {"umbrella a"}} {
		known.add(uint64(10+sequence), wrote(0, events...).record)
	}
	wants := func(wanted string) func(string) bool {
		return func(eventType string) bool { return eventType == wanted }
	}
	for _, tt := range []struct {
		sequence uint64
		tenant   ledger.TenantID
		wants    string
		none     bool
	}{
		{9, "acme", "a", false}, // not known
		{10, "acme", "a", false},
		{10, "acme", "b", false},
		{10, "acme", "c", true},
		{10, "umbrella", "a", true},
		{11, "acme", "a", true}, // it holds no events
		{12, "acme", "a", true},
		{12, "umbrella", "a", false},
		{13, "acme", "a", false}, // not known
	} {
		if got := known.none(tt.sequence, tt.tenant, wants(tt.wants)); got != tt.none {
			t.Errorf("record %d holds none of %s's %s: %v, want %v", tt.sequence, tt.tenant, tt.wants, got, tt.none)
		}
	}
}

// With more kinds than it numbers it says less, and nothing wrong.
func TestContentsOfTooManyKinds(t *testing.T) {
	var known contents
	for i := range uint64(maxKinds + 1) {
		known.add(i, &linkv1.Record{Events: []*linkv1.LoggedEvent{{Tenant: "acme", Type: fmt.Sprint("t", i)}}})
	}
	all := func(string) bool { return true }
	if known.none(maxKinds, "acme", all) || !known.none(maxKinds-1, "umbrella", all) {
		t.Error("a record is thought empty whose kinds have no number, or one that has")
	}
	before := known.view()
	for i := range uint64(maxContents) {
		known.add(maxKinds+1+i, new(linkv1.Record))
	}
	if len(known.records) != maxContents || known.first != maxKinds+1 || len(before.records) != maxKinds+1 {
		t.Errorf("it remembers %d records from %d on; the view has %d", len(known.records), known.first, len(before.records))
	}
	if !known.none(maxKinds+1, "acme", all) || known.none(maxKinds, "acme", all) {
		t.Error("it forgets the wrong records")
	}
}

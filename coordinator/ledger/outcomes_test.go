package ledger

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

func TestOutcomesRoundTrip(t *testing.T) {
	const now = 1_700_000_000_000
	reported := []Reported{
		{"w1", &linkv1.Outcome{
			Kind: linkv1.Outcome_DELIVERED, Subscription: 7, Sequence: 100, Index: 3, Attempt: 1,
			StartTimeUnixMs: now - 80, LatencyUs: 75_000, StatusCode: 200,
		}},
		{"w2", &linkv1.Outcome{ // an older record, an error without an answer
			Kind: linkv1.Outcome_RETRY, Subscription: 1 << 40, Sequence: 2, Index: 511, Attempt: 4,
			StartTimeUnixMs: now - 15_000, LatencyUs: 15_000_000, ErrorClass: "timeout",
			Error: "no answer within 15s", NextTimeUnixMs: now + 300_000,
		}},
		{"w1", &linkv1.Outcome{ // begun after the record by another clock
			Kind: linkv1.Outcome_DEAD, Subscription: 7, Sequence: math.MaxUint64, Attempt: 10,
			StartTimeUnixMs: now + 5, StatusCode: 410, ErrorClass: "status", ResponseBody: []byte("gone\xff"),
		}},
		{"", &linkv1.Outcome{
			Kind: linkv1.Outcome_DELIVERED, Subscription: 1, Sequence: 1, Attempt: 1,
			StartTimeUnixMs: now, StatusCode: 201, ResponseBody: []byte("ok"),
		}},
		{"w3", &linkv1.Outcome{Kind: linkv1.Outcome_RETURNED, Subscription: 9, Sequence: 1, StartTimeUnixMs: now}},
		{"w3", &linkv1.Outcome{ // due before the record was written
			Kind: linkv1.Outcome_RETRY, Subscription: 9, Sequence: 1, Attempt: 1,
			StartTimeUnixMs: now, NextTimeUnixMs: now - 1000,
		}},
	}
	data, err := proto.Marshal(EncodeOutcomes(now, reported))
	if err != nil {
		t.Fatal(err)
	}
	columns := new(linkv1.Outcomes)
	if err := proto.Unmarshal(data, columns); err != nil {
		t.Fatal(err)
	}
	if err := checkOutcomes(columns); err != nil {
		t.Fatal(err)
	}
	got := slices.Collect(DecodeOutcomes(now, columns))
	if diff := cmp.Diff(reported, got, protocmp.Transform()); diff != "" {
		t.Errorf("decoded outcomes (-want +got):\n%s", diff)
	}
}

func TestOutcomesOfNothing(t *testing.T) {
	if got := EncodeOutcomes(1, nil); got != nil {
		t.Errorf("EncodeOutcomes of nothing = %v, want nil", got)
	}
	if got := slices.Collect(DecodeOutcomes(1, nil)); len(got) > 0 {
		t.Errorf("DecodeOutcomes of nothing = %v", got)
	}
}

func TestDecodeOutcomesStopsWhenAsked(t *testing.T) {
	d := Delivery{1, Position{2, 0}}
	columns := EncodeOutcomes(0, []Reported{
		outcome(linkv1.Outcome_DELIVERED, d, 1), outcome(linkv1.Outcome_DELIVERED, d, 2),
	})
	seen := 0
	for range DecodeOutcomes(0, columns) {
		seen++
		break
	}
	if seen != 1 {
		t.Errorf("saw %d outcomes, want 1", seen)
	}
}

// TestOutcomeSize holds the log to what the columns promise: a plain success
// of one among 1,000 of a batch takes at most 16 bytes. The numbers are those
// of a large partition: 1,000,000 subscriptions, blocks of 500 events, answers
// within 2 s, reported within 4 s.
func TestOutcomeSize(t *testing.T) {
	const batch, most = 1000, 16
	rng := rand.New(rand.NewPCG(1, 2))
	now := int64(1_700_000_000_000)
	var reported []Reported
	for range batch {
		latency := rng.Int64N(2000)
		reported = append(reported, Reported{fmt.Sprintf("worker-%d", rng.IntN(16)), &linkv1.Outcome{
			Kind:            linkv1.Outcome_DELIVERED,
			Subscription:    1 + rng.Uint64N(1_000_000),
			Sequence:        80_000_000 + rng.Uint64N(30),
			Index:           rng.Uint32N(500),
			Attempt:         1,
			StartTimeUnixMs: now - latency - rng.Int64N(2000),
			LatencyUs:       uint64(latency*1000 + rng.Int64N(1000)),
			StatusCode:      200,
		}})
	}
	slices.SortFunc(reported, func(a, b Reported) int { return cmpStart(a.Outcome, b.Outcome) })
	one := proto.Size(&linkv1.Record{Outcomes: EncodeOutcomes(now, reported[:1])})
	all := proto.Size(&linkv1.Record{Outcomes: EncodeOutcomes(now, reported)})
	each := float64(all-one) / (batch - 1)
	t.Logf("%.2f bytes each", each)
	if each > most {
		t.Errorf("a success takes %.2f bytes, want at most %d", each, most)
	}
}

// cmpStart puts outcomes in the order in which they arrive, more or less.
func cmpStart(a, b *linkv1.Outcome) int {
	return int(a.GetStartTimeUnixMs()-b.GetStartTimeUnixMs()) + int(a.GetLatencyUs()/1000) - int(b.GetLatencyUs()/1000)
}

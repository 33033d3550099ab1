package lead

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// answer is what came of an attempt of an event of record 1.
type answer struct {
	index, attempt, status uint32
	next                   int64
}

// TestApplyBreaker: what waits behind a breaker is due when the ledger says so,
// in the order of what happened. The event whose answer closed the breaker kept
// its own time in the ledger, but was sent again at once; and of a breaker that
// one record opened and closed the machine was not told.
func TestApplyBreaker(t *testing.T) {
	state := ledger.New()
	l := &loop{ledger: state, dispatch: dispatch.New(1)}
	l.dispatch.Attach(1, dispatch.Worker{ID: "w1"}, dispatch.NewCredit(100, 1000))
	l.dispatch.Claim(1, 0, 1, nil)
	report := func(now int64, answers ...answer) {
		t.Helper()
		var reported []ledger.Reported
		for _, a := range answers {
			reported = append(reported, ledger.Reported{Worker: "w1", Outcome: &linkv1.Outcome{
				Kind: linkv1.Outcome_RETRY, Subscription: 1, Sequence: 1, Index: a.index,
				Attempt: a.attempt, StatusCode: a.status, NextTimeUnixMs: a.next,
			}})
		}
		l.apply(foldNext(t, state, &linkv1.Record{TimeUnixMs: now, Outcomes: ledger.EncodeOutcomes(now, reported)}))
		for range 10 { // the window is another matter
			l.dispatch.Succeeded(1)
		}
	}
	sends := func(now int64, want ...uint32) {
		t.Helper()
		var got []uint32
		for all := l.dispatch.Next(now, 10); len(all) > 0; all = l.dispatch.Next(now, 10) {
			got = append(got, all[0].Position.Index)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sent at %d (-want +got):\n%s", now, diff)
		}
	}

	event := &linkv1.LoggedEvent{Tenant: "acme", Type: "a"}
	l.apply(foldNext(t, state, &linkv1.Record{
		TimeUnixMs: 1000,
		Fence:      &linkv1.Fence{FoldVersion: ledger.FoldVersion, Limits: &linkv1.Limits{BreakerFailures: 3, ProbeFirstMs: 5000}},
		Subscriptions: []*linkv1.SubscriptionChange{{Number: 1, Put: &linkv1.StoredSubscription{
			Tenant: "acme", Id: "sub_1", Subscription: &fanfarev1.Subscription{},
		}}},
		Events: []*linkv1.LoggedEvent{event, event, event},
	}))
	sends(1000, 0, 1, 2)

	report(2000, answer{0, 1, 503, 3000}, answer{1, 1, 503, 90_000}, answer{2, 1, 503, 90_000})
	sends(6999)
	sends(7000, 0) // the probe
	report(7100, answer{0, 2, 404, 20_000})
	sends(7100, 1, 2)
	sends(19_999)
	sends(20_000, 0)

	report(30_000, answer{0, 3, 503, 90_000}, answer{1, 2, 503, 90_000}, answer{2, 2, 503, 90_000})
	l.apply(foldNext(t, state, &linkv1.Record{TimeUnixMs: 30_100, Controls: []*linkv1.Control{
		{Subscription: 1, Action: linkv1.Control_PAUSE},
	}}))
	sends(80_000)
	l.apply(foldNext(t, state, &linkv1.Record{TimeUnixMs: 80_000, Controls: []*linkv1.Control{
		{Subscription: 1, Action: linkv1.Control_RESUME},
	}}))
	sends(80_000, 0, 1, 2)

	report(81_000, answer{0, 4, 503, 90_000}, answer{1, 3, 503, 90_000}, answer{2, 3, 503, 90_000}, answer{1, 4, 404, 95_000})
	sends(81_000, 0, 2) // opened and closed by one record
	sends(94_999)
	sends(95_000, 1)
}

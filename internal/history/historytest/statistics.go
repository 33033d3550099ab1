package historytest

import (
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// tally is what a model knows of the statistics of a subscription: how many of
// what happened in each minute.
type tally map[time.Time]map[string]uint64

// addTally adds a batch to the tallies of all subscriptions.
func addTally(tallies map[string]tally, batch history.Batch) {
	add := func(tenant, subscription string, at time.Time, what string) {
		name, minute := tenant+"/"+subscription, at.Truncate(time.Minute).UTC()
		if tallies[name] == nil {
			tallies[name] = make(tally)
		}
		if tallies[name][minute] == nil {
			tallies[name][minute] = make(map[string]uint64)
		}
		tallies[name][minute][what]++
	}
	for _, row := range batch.Deliveries {
		if row.State != fanfarev1.Delivery_PENDING {
			add(row.Tenant, row.SubscriptionID, row.Ended, row.State.String())
		}
	}
	for _, row := range batch.Attempts {
		at := row.Attempt.StartTime.AsTime()
		add(row.Tenant, row.SubscriptionID, at, "attempts")
		class := strconv.Itoa(int(row.Attempt.StatusCode)/100) + "xx"
		if row.Attempt.StatusCode == 0 {
			if class = row.Attempt.ErrorClass; class == "" {
				class = "other"
			}
		}
		add(row.Tenant, row.SubscriptionID, at, class)
		if row.Attempt.Result != fanfarev1.Attempt_DELIVERED {
			add(row.Tenant, row.SubscriptionID, at, "failed")
		}
	}
}

// flat returns counts as a tally has them.
func flat(c *history.Counts) map[string]uint64 {
	all := map[string]uint64{
		"DELIVERED": c.Delivered, "DEAD": c.Dead, "EXPIRED": c.Expired, "CANCELLED": c.Cancelled, "attempts": c.Attempts, "failed": c.Failed,
	}
	maps.Copy(all, c.Classes)
	for what, n := range all {
		if n == 0 {
			delete(all, what)
		}
	}
	return all
}

// testStatistics compares the statistics with a model's, by the minute, then,
// once they are old, by the hour, whatever was written in between.
func testStatistics(t *testing.T, open Open) {
	store := opened(t, open)
	w := newWorld(11)
	tallies := make(map[string]tally)
	batches := func() {
		for range 30 {
			batch := w.next()
			write(t, store, batch)
			addTally(tallies, batch)
			w.clock = w.clock.Add(time.Duration(w.rng.IntN(10)) * time.Minute)
		}
	}
	batches()
	checkStatistics(t, store, w, tallies, time.Minute)
	now := w.clock.Add(49 * time.Hour).Truncate(time.Hour)
	if expired := expire(t, store, history.Retention{}, now); expired.Rows == 0 {
		t.Error("no minutes became hours")
	}
	checkStatistics(t, store, w, tallies, time.Hour)
	w.clock = w.clock.Truncate(time.Hour) // some more of the last hour
	batches()
	checkStatistics(t, store, w, tallies, time.Hour)
	expire(t, store, history.Retention{}, now)
	checkStatistics(t, store, w, tallies, time.Hour)
	expire(t, store, history.Retention{Statistics: 24 * time.Hour}, w.clock.AddDate(1, 0, 0))
	checkStatistics(t, store, w, nil, time.Hour)
}

// checkStatistics compares all statistics, added up in steps.
func checkStatistics(t *testing.T, store history.Store, w *world, tallies map[string]tally, step time.Duration) {
	t.Helper()
	for _, tenant := range tenants() {
		for _, subscription := range tenant.subscriptions {
			rows, err := store.Statistics(t.Context(), history.StatisticsQuery{
				Tenant: tenant.name, SubscriptionID: subscription, Start: time.Unix(0, 0), End: w.clock.AddDate(1, 0, 0),
			})
			if err != nil {
				t.Fatal(err)
			}
			sums := make(map[time.Time]*history.Counts)
			for _, row := range rows {
				at := row.Start.Truncate(step)
				if sums[at] == nil {
					sums[at] = &history.Counts{}
				}
				sums[at].Add(row.Counts)
			}
			got := make(map[time.Time]map[string]uint64)
			for at, counts := range sums {
				got[at] = flat(counts)
				var latencies uint64
				for _, n := range counts.Latency {
					latencies += n
				}
				if latencies != counts.Attempts {
					t.Errorf("%d attempts have %d latencies", counts.Attempts, latencies)
				}
			}
			want := make(map[time.Time]map[string]uint64)
			for minute, counts := range tallies[tenant.name+"/"+subscription] {
				at := minute.Truncate(step)
				if want[at] == nil {
					want[at] = make(map[string]uint64)
				}
				for what, n := range counts {
					want[at][what] += n
				}
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("%s/%s by %v (-want +got):\n%s", tenant.name, subscription, step, diff)
			}
		}
	}
}

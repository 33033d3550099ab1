package sim_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestPublishReachesBothSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Workers: 2})
		first, second := c.Endpoint("first"), c.Endpoint("second")
		second.Behave(sim.Slow(40 * time.Millisecond))
		a := c.Client.Subscribe(first, []string{"order.*"})
		b := c.Client.Subscribe(second, []string{"order.created"})
		changes, stop := c.Client.Watch()
		defer stop()

		c.Client.Publish(sim.Event("e1", "order.created"))

		var watched []string
		for range 4 {
			change := <-changes
			watched = append(watched, fmt.Sprintf("%s %s %d", change.GetDelivery().GetSubscription(),
				change.GetDelivery().GetState(), change.GetAttempt().GetNumber()))
		}
		slices.Sort(watched)
		want := []string{
			a.GetName() + " DELIVERED 1", a.GetName() + " PENDING 0",
			b.GetName() + " DELIVERED 1", b.GetName() + " PENDING 0",
		}
		slices.Sort(want)
		if !slices.Equal(watched, want) {
			t.Errorf("watched %q, want %q", watched, want)
		}
		sim.Pass(time.Hour)
		for _, e := range []*sim.Endpoint{first, second} {
			requests := e.Requests()
			if len(requests) != 1 || requests[0].EventID != "e1" || requests[0].Signed != nil {
				t.Errorf("%s received %+v, want e1 once, signed", e.Name, requests)
			}
		}
		workers := make(map[string]bool)
		for _, subscription := range []*fanfarev1.Subscription{a, b} {
			deliveries := c.Client.Deliveries(subscription)
			if len(deliveries) != 1 || deliveries[0].GetState() != fanfarev1.Delivery_DELIVERED {
				t.Fatalf("deliveries are %v, want one that is delivered", deliveries)
			}
			attempts := c.Client.Attempts(deliveries[0])
			if len(attempts) != 1 || attempts[0].GetStatusCode() != 200 {
				t.Fatalf("attempts are %v, want one with 200", attempts)
			}
			workers[attempts[0].GetWorker()] = true
			if subscription == b && attempts[0].GetLatency().AsDuration() != 40*time.Millisecond {
				t.Errorf("latency is %v, want 40ms", attempts[0].GetLatency().AsDuration())
			}
		}
		if len(workers) != 2 {
			t.Errorf("workers are %v, want one for each subscription", slices.Collect(maps.Keys(workers)))
		}
	})
}

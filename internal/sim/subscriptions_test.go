package sim_test

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// received returns the ids of the events that an endpoint got, in order.
func received(e *sim.Endpoint) []string {
	var ids []string
	for _, r := range e.Requests() {
		ids = append(ids, r.EventID)
	}
	return ids
}

func checkReceived(t *testing.T, e *sim.Endpoint, want ...string) {
	t.Helper()
	got := received(e)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s received %q, want %q", e.Name, got, want)
	}
}

func TestSubscriptionsAndPublishesAreOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		before, after := c.Endpoint("before"), c.Endpoint("after")
		c.Client.Subscribe(before, nil)
		c.Client.Publish(sim.Event("e1", "order.created"))
		c.Client.Subscribe(after, nil)
		c.Client.Publish(sim.Event("e2", "order.created"))
		sim.Pass(time.Minute)
		checkReceived(t, before, "e1", "e2")
		checkReceived(t, after, "e2")
	})
}

func TestUpdateChangesPatterns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("one")
		s := c.Client.Subscribe(e, []string{"order.created"})
		c.Client.Publish(sim.Event("e1", "order.created"), sim.Event("e2", "order.paid"))
		c.Client.Update(s, "order.paid")
		c.Client.Publish(sim.Event("e3", "order.created"), sim.Event("e4", "order.paid"))
		sim.Pass(time.Minute)
		checkReceived(t, e, "e1", "e4")

		c.Coordinators[0].Restart() // the change is in the log
		c.AwaitOwners()
		c.Client.Publish(sim.Event("e5", "order.created"), sim.Event("e6", "order.paid"))
		sim.Pass(time.Minute)
		checkReceived(t, e, "e1", "e4", "e6")
	})
}

func TestDeleteCancelsWhatIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		failing, hanging, fine := c.Endpoint("failing"), c.Endpoint("hanging"), c.Endpoint("fine")
		failing.Behave(sim.Status(http.StatusInternalServerError))
		hanging.Behave(sim.Hang())
		a, b, f := c.Client.Subscribe(failing, nil), c.Client.Subscribe(hanging, nil), c.Client.Subscribe(fine, nil)
		c.Client.PublishMany(30, "e", "order.created")
		sim.Pass(time.Second)
		c.Client.Delete(a)
		c.Client.Delete(b)
		requests := len(failing.Requests()) + len(hanging.Requests())
		c.AwaitSettled(time.Second)
		c.Client.Publish(sim.Event("e30", "order.created"))
		sim.Pass(time.Hour)
		if got := len(failing.Requests()) + len(hanging.Requests()); got != requests {
			t.Errorf("%d requests were made for deleted subscriptions", got-requests)
		}
		for _, s := range []*fanfarev1.Subscription{a, b} {
			deliveries := c.Client.Deliveries(s)
			if got := states(deliveries)[fanfarev1.Delivery_CANCELLED]; len(deliveries) != 30 || got != 30 {
				t.Errorf("%d of %d deliveries are cancelled, want 30", got, len(deliveries))
			}
		}
		checkDelivered(t, c, fine, f, 31)
		checkOnce(t, fine)
	})
}

package sim_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
)

// unreported is how old an outcome may be that is not durable yet: it gathers
// for 20 ms, and is then on its way.
const unreported = 50 * time.Millisecond

func TestKilledWorkerLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events, slow = 400, 150 * time.Millisecond
		c := sim.New(t, sim.Config{Workers: 2})
		e, f := c.Endpoint("one"), c.Endpoint("two")
		e.Behave(sim.Slow(slow))
		f.Behave(sim.Slow(slow))
		a, b := c.Client.Subscribe(e, nil), c.Client.Subscribe(f, nil)
		c.Client.PublishMany(events, "e", "order.created")
		sim.Pass(time.Second)

		killed := time.Now()
		c.Workers[0].Kill()
		c.AwaitSettled(sim.Patience)

		checkDelivered(t, c, e, a, events)
		checkDelivered(t, c, f, b, events)
		if len(e.Requests())+len(f.Requests()) == 2*events {
			t.Error("nothing was in flight when the worker was killed: the test is blind")
		}
		for _, endpoint := range []*sim.Endpoint{e, f} {
			seen := make(map[string]time.Time)
			for _, r := range endpoint.Requests() {
				first, again := seen[r.EventID]
				if !again {
					seen[r.EventID] = r.Time
					continue
				}
				if first.Add(slow).Before(killed.Add(-unreported)) || first.After(killed) {
					t.Errorf("%s got %s again that had ended %v before the kill", endpoint.Name, r.EventID, killed.Sub(first.Add(slow)))
				}
			}
		}
	})
}

func TestStoppedWorkerDuplicatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 400
		c := sim.New(t, sim.Config{Workers: 2})
		e, f := c.Endpoint("one"), c.Endpoint("two")
		e.Behave(sim.Slow(150 * time.Millisecond))
		f.Behave(sim.Slow(2 * time.Second))
		a, b := c.Client.Subscribe(e, nil), c.Client.Subscribe(f, nil)
		c.Client.PublishMany(events, "e", "order.created")
		for range 3 {
			for _, w := range c.Workers {
				sim.Pass(time.Second)
				if err := w.Stop(); err != nil {
					t.Error(err)
				}
				w.Start()
				c.AwaitOwners()
			}
		}
		c.AwaitSettled(sim.Patience)
		for _, endpoint := range []*sim.Endpoint{e, f} {
			if n := len(endpoint.Requests()); n != events {
				t.Errorf("%s got %d requests, want %d", endpoint.Name, n, events)
			}
		}
		checkDelivered(t, c, e, a, events)
		checkDelivered(t, c, f, b, events)
	})
}

func TestCutLinkDuplicatesNothing(t *testing.T) {
	for _, cut := range []time.Duration{time.Millisecond, time.Second, 5 * time.Minute} {
		t.Run(cut.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const events = 400
				c := sim.New(t, sim.Config{Workers: 2})
				e := c.Endpoint("one")
				e.Behave(sim.Slow(150 * time.Millisecond))
				a := c.Client.Subscribe(e, nil)
				c.Client.PublishMany(events, "e", "order.created")
				sim.Pass(time.Second)
				for _, w := range c.Workers {
					w.CutFrom(c.Coordinators[0])
				}
				sim.Pass(cut)
				for _, w := range c.Workers {
					w.MendTo(c.Coordinators[0])
				}
				c.AwaitSettled(sim.Patience)
				checkDelivered(t, c, e, a, events)
				if n := len(e.Requests()); n != events {
					t.Errorf("the endpoint got %d requests, want %d", n, events)
				}
			})
		})
	}
}

// While the store of members is away nothing moves, and everything goes on.
func TestClusterServesWithoutItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 300
		c := sim.New(t, sim.Config{Workers: 2})
		e := c.Endpoint("one")
		a := c.Client.Subscribe(e, nil)
		c.Coordinators[0].LoseStore()
		for _, w := range c.Workers {
			w.LoseStore()
		}
		sim.Pass(time.Minute)
		c.Client.PublishMany(events, "e", "order.created")
		c.AwaitSettled(time.Minute)
		c.Coordinators[0].FindStore()
		for _, w := range c.Workers {
			w.FindStore()
		}
		c.AwaitOwners()
		c.AwaitSettled(time.Minute)
		checkDelivered(t, c, e, a, events)
		checkOnce(t, e)
	})
}

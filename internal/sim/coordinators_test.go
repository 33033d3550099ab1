package sim_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestFailover(t *testing.T) {
	ends := map[string]func(*testing.T, *sim.Coordinator){
		"killed":            func(_ *testing.T, leads *sim.Coordinator) { leads.Kill() },
		"paused":            func(_ *testing.T, leads *sim.Coordinator) { leads.Pause() },
		"without its store": func(_ *testing.T, leads *sim.Coordinator) { leads.LoseStore() },
		"stopped": func(t *testing.T, leads *sim.Coordinator) {
			if err := leads.Stop(); err != nil {
				t.Error(err)
			}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const events = 300
				c := sim.New(t, sim.Config{Coordinators: 2, Workers: 2})
				e, slow := c.Endpoint("one"), c.Endpoint("slow")
				e.Behave(sim.Slow(150 * time.Millisecond))
				slow.Behave(sim.Slow(14 * time.Second)) // on the wire before and after
				a, b := c.Client.Subscribe(e, nil), c.Client.Subscribe(slow, nil)
				c.Client.PublishMany(events, "e", "order.created")
				sim.Pass(time.Second)
				leads, other := leader(t, c)

				end(t, leads)
				if name == "killed" {
					if _, err := c.Client.TryPublish(sim.Event("during", "order.created")); status.Code(err) != codes.Unavailable {
						t.Errorf("publishing while nobody leads: %v, want UNAVAILABLE", err)
					}
				}
				awaitLeads(t, c, other)
				for i := range events {
					results, err := c.Client.TryPublishTo(other, sim.Event(fmt.Sprintf("e%d", i), "order.created"))
					if err != nil || !results[0].GetDuplicate() {
						t.Fatalf("publishing e%d again: %v, %v, want a duplicate", i, results, err)
					}
				}
				c.Client.PublishMany(events+50, "e", "order.created")
				if name == "paused" {
					leads.Resume()
				}
				c.AwaitSettled(sim.Patience)
				checkEvents(t, c, events+50)
				checkDelivered(t, c, e, a, events+50)
				checkDelivered(t, c, slow, b, events+50)
				checkOnce(t, e)
				checkOnce(t, slow)
			})
		})
	}
}

// A leader that has lost its lease without knowing is kept from writing by
// the fence: what is published to it is not acknowledged.
func TestFencedLeaderCannotAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 2})
		e := c.Endpoint("one")
		a := c.Client.Subscribe(e, nil)
		c.Client.Publish(sim.Event("e0", "order.created"))
		leads, other := leader(t, c)
		before, err := c.Client.Describe()
		if err != nil {
			t.Fatal(err)
		}
		leads.LoseStore()
		awaitLeads(t, c, other)
		c.Client.Publish(sim.Event("e1", "order.created"))
		if _, err := c.Client.TryPublishTo(leads, sim.Event("lost", "order.created")); status.Code(err) != codes.Unavailable {
			t.Errorf("publishing to the fenced leader: %v, want UNAVAILABLE", err)
		}
		leads.FindStore()
		sim.Pass(time.Minute)
		now, err := c.Client.Describe()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := now.GetPartitions()[0].GetEpoch(), before.GetPartitions()[0].GetEpoch()+1; got != want {
			t.Errorf("the epoch is %d, want %d: one takeover", got, want)
		}
		c.Client.Publish(sim.Event("e2", "order.created"))
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, 3)
		checkDelivered(t, c, e, a, 3)
		checkOnce(t, e)
	})
}

// An append that was not answered is settled by reading it back: the event is
// there once, and its publisher is told so.
func TestAppendsWithoutAnAnswer(t *testing.T) {
	faults := map[string]eventlog.Fault{
		"fails":              eventlog.FailAppend,
		"fails but persists": eventlog.FailButPersist,
		"request lost":       eventlog.LoseRequest,
		"reply lost":         eventlog.LoseReply,
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sim.New(t, sim.Config{})
				e := c.Endpoint("one")
				a := c.Client.Subscribe(e, nil)
				for i := range 5 {
					c.Coordinators[0].Log().FailNext(0, fault)
					results, err := c.Client.TryPublish(sim.Event(fmt.Sprintf("e%d", i), "order.created"))
					if err != nil || results[0].GetDuplicate() {
						t.Fatalf("publishing e%d: %v, %v, want it acknowledged as new", i, results, err)
					}
					c.Coordinators[0].Log().FailNext(0, fault) // for the outcome
					sim.Pass(30 * time.Second)
				}
				c.AwaitSettled(time.Minute)
				checkEvents(t, c, 5)
				checkDelivered(t, c, e, a, 5)
				checkOnce(t, e)
			})
		})
	}
}

// With what is left outcomes and snapshots are still written; events are
// refused, and taken again as soon as there is space.
func TestNoSpaceForEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("one")
		e.Behave(sim.Slow(2 * time.Second))
		a := c.Client.Subscribe(e, nil)
		c.Client.PublishMany(20, "e", "order.created")
		c.Coordinators[0].RefuseEvents(true)
		for range 3 {
			if _, err := c.Client.TryPublish(sim.Event("refused", "order.created")); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("publishing without space: %v, want RESOURCE_EXHAUSTED", err)
			}
			sim.Pass(700 * time.Millisecond)
		}
		c.AwaitSettled(time.Minute) // so outcomes are written
		c.Coordinators[0].RefuseEvents(false)
		sim.Pass(2 * time.Second)
		if _, err := c.Client.TryPublish(sim.Event("e20", "order.created")); err != nil {
			t.Errorf("publishing with space again: %v", err)
		}
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, 21)
		checkDelivered(t, c, e, a, 21)
		checkOnce(t, e)
	})
}

// Without any space at all nothing moves, nothing spins, and nothing is lost.
func TestNoSpaceAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("one")
		e.Behave(sim.Slow(2 * time.Second))
		a := c.Client.Subscribe(e, nil)
		c.Client.PublishMany(20, "e", "order.created")
		c.Coordinators[0].Log().RefuseForSpace(true)
		for range 3 {
			if _, err := c.Client.TryPublish(sim.Event("refused", "order.created")); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("publishing without space: %v, want RESOURCE_EXHAUSTED", err)
			}
			sim.Pass(10 * time.Second)
		}
		c.Coordinators[0].Log().RefuseForSpace(false)
		sim.Pass(2 * time.Second)
		if _, err := c.Client.TryPublish(sim.Event("e20", "order.created")); err != nil {
			t.Errorf("publishing with space again: %v", err)
		}
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, 21)
		checkDelivered(t, c, e, a, 21)
		checkOnce(t, e)
	})
}

// The history goes on exactly where it stood, wherever a coordinator dies.
func TestHistoryOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds, each = 10, 30
		c := sim.New(t, sim.Config{Workers: 2})
		e := c.Endpoint("one")
		e.Behave(sim.FailFirst(1, http.StatusNotFound))
		a := c.Client.Subscribe(e, nil, 2*time.Second, 2*time.Second, 2*time.Second)
		for round := range rounds {
			c.Client.PublishMany((round+1)*each, "e", "order.created")
			sim.Pass(time.Duration(round*37) * time.Millisecond)
			c.Coordinators[0].Restart()
		}
		c.AwaitSettled(sim.Patience)
		checkEvents(t, c, rounds*each)
		checkDelivered(t, c, e, a, rounds*each)
		for _, d := range c.Client.Deliveries(a) {
			attempts := c.Client.Attempts(d)
			if len(attempts) != 2 || attempts[0].GetStatusCode() != http.StatusNotFound ||
				attempts[1].GetStatusCode() != http.StatusOK || d.GetAttemptCount() != 2 {
				t.Errorf("attempts of %s are %v, want 404 and 200", d.GetName(), attempts)
			}
		}
	})
}

// A history that was behind when its coordinator died is caught up by the
// next one, also when a snapshot lies between.
func TestHistoryCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("one")
		a := c.Client.Subscribe(e, nil)
		for i := range 5 {
			c.Client.PublishMany((i+1)*50, "e", "order.created")
			sim.Pass(2 * time.Minute) // snapshots lie a minute apart
		}
		c.Coordinators[0].LoseHistory()
		c.Client.PublishMany(400, "e", "order.created")
		sim.Pass(5 * time.Minute)
		c.Coordinators[0].Restart()
		c.AwaitSettled(sim.Patience)
		checkEvents(t, c, 400)
		checkDelivered(t, c, e, a, 400)
		checkOnce(t, e)
		if n := states(c.Client.Deliveries(nil))[fanfarev1.Delivery_PENDING]; n > 0 {
			t.Errorf("%d deliveries are pending", n)
		}
	})
}

// When all leases have expired, the first to hear of it may be who takes what
// has become free. That ends the member's life, not the process.
func TestLeaseLostWhileCampaigning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 3})
		e := c.Endpoint("one")
		a := c.Client.Subscribe(e, nil)
		for i := range 5 {
			for _, coordinator := range c.Coordinators {
				coordinator.LoseStore()
			}
			sim.Pass(30 * time.Second)
			for _, coordinator := range c.Coordinators {
				coordinator.FindStore()
			}
			c.AwaitOwners()
			c.Client.Publish(sim.Event(fmt.Sprintf("e%d", i), "order.created"))
		}
		c.AwaitSettled(time.Minute)
		checkDelivered(t, c, e, a, 5)
		checkOnce(t, e)
		for _, coordinator := range c.Coordinators {
			if err := coordinator.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A coordinator that is stopped before it has begun ends without an error.
func TestStoppedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		for range 50 {
			if err := c.Coordinators[0].Stop(); err != nil {
				t.Fatal(err)
			}
			c.Coordinators[0].Start()
		}
	})
}

// A leader that workers cannot reach, though etcd sees everybody alive, lets
// another one lead.
func TestLeaderThatWorkersDoNotReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 50
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 3, Partitions: 1})
		c.AwaitOwners()
		leader, other := c.Coordinators[0], c.Coordinators[1]
		if leads(t, c)[string(leader.ID)] == 0 {
			leader, other = other, leader
		}
		e := c.Endpoint("hook")
		s := c.Client.Subscribe(e, nil)
		for _, w := range c.Workers {
			w.CutFrom(leader)
		}
		c.Client.PublishMany(events, "e", "order.created")
		awaitLeads(t, c, other)
		c.AwaitSettled(time.Minute)
		checkDelivered(t, c, e, s, events)
		for _, w := range c.Workers {
			w.MendTo(leader)
		}
		c.AwaitOwners()
	})
}

// A worker that alone does not reach a leader has its shards taken over, and is
// given some again when it does.
func TestWorkerThatDoesNotReachTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 50
		c := sim.New(t, sim.Config{Coordinators: 1, Workers: 3, Partitions: 1})
		var subscriptions []*fanfarev1.Subscription
		var endpoints []*sim.Endpoint
		for i := range 12 { // over all shards
			e := c.Endpoint(fmt.Sprint("hook-", i))
			endpoints, subscriptions = append(endpoints, e), append(subscriptions, c.Client.Subscribe(e, nil))
		}
		lonely := c.Workers[1]
		lonely.CutFrom(c.Coordinators[0])
		c.Client.PublishMany(events, "e", "order.created")
		c.AwaitSettled(time.Minute)
		for i, e := range endpoints {
			checkDelivered(t, c, e, subscriptions[i], events)
		}
		lonely.MendTo(c.Coordinators[0])
		c.Await("it has shards again", 10*time.Minute, func() bool {
			described, err := c.Client.Describe()
			if err != nil {
				return false
			}
			for _, member := range described.GetMembers() {
				if member.GetId() == string(lonely.ID) {
					return member.GetShards() > 0
				}
			}
			return false
		})
	})
}

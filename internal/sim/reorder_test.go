package sim_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// phase is what is published while a subscription has an ordering.
type phase struct {
	ordering string
	ids      []string
	keys     map[string]string // :: id -> ordering key
}

// publishPhase publishes events with keys and without, a few at a time.
func publishPhase(c *sim.Cluster, ordering string, first, n int) phase {
	p := phase{ordering: ordering, keys: make(map[string]string)}
	const together = 5
	for from := first; from < first+n; from += together {
		var events []*fanfarev1.Event
		for i := from; i < from+together; i++ {
			event := sim.Event(fmt.Sprintf("e%d", i), "order.created")
			event.OrderingKey = []string{"", "a", "b", "c"}[i%4]
			events = append(events, event)
			p.ids, p.keys[event.GetId()] = append(p.ids, event.GetId()), event.GetOrderingKey()
		}
		c.Client.Publish(events...)
		sim.Pass(100 * time.Millisecond)
	}
	return p
}

// lanes returns the ids of the phase by the lane that each is in, oldest first.
func (p phase) lanes() map[string][]string {
	lanes := make(map[string][]string)
	for _, id := range p.ids {
		switch key := p.keys[id]; {
		case p.ordering == "subscription":
			lanes["all"] = append(lanes["all"], id)
		case p.ordering == "key" && key != "":
			lanes[key] = append(lanes[key], id)
		}
	}
	return lanes
}

// A live subscription's ordering changes under load, while its endpoint fails,
// a worker dies and a leader moves: what is published under an ordering keeps
// it, and comes after all that was published before, if it has an order.
func TestOrderingChangesUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 3})
		e := c.Endpoint("hook")
		// So that something is owed at each change, and no breaker opens.
		e.Behave(sim.FailFirst(1, http.StatusUnprocessableEntity))
		s := c.Client.SubscribeAs(e, &fanfarev1.Subscription{
			RetrySchedule: slices.Repeat([]*durationpb.Duration{durationpb.New(time.Second)}, 50),
		})
		const each = 40
		disturb := []func(){
			func() {},
			c.Workers[0].Restart,
			func() { e.Behave(sim.Slow(200 * time.Millisecond)) },
			c.Coordinators[0].Restart,
			func() { e.Behave(sim.Flapping(2 * time.Second)) },
			c.Workers[1].Restart,
		}
		var phases []phase
		for i, ordering := range []string{"none", "key", "subscription", "key", "subscription", "key"} {
			c.Client.SetOrdering(s, ordering)
			phases = append(phases, publishPhase(c, ordering, i*each, each))
			if c.Client.Subscription(s.GetName()).GetHealth().GetOutstandingCount() == 0 {
				t.Errorf("nothing is owed at the end of phase %d: the test is blind", i)
			}
			disturb[i]()
		}
		e.Behave(sim.OK())
		c.AwaitOwners()
		c.AwaitSettled(time.Hour)
		checkDelivered(t, c, e, s, each*len(phases))
		checkPhases(t, e, phases)
	})
}

// checkPhases checks the order within each phase and between them.
func checkPhases(t *testing.T, e *sim.Endpoint, phases []phase) {
	t.Helper()
	requests := e.Requests()
	accepted := make(map[string]time.Time) // :: id -> when it was for the first time
	for _, r := range requests {
		if at, has := accepted[r.EventID]; r.Status/100 == 2 && (!has || r.End.Before(at)) {
			accepted[r.EventID] = r.End
		}
	}
	var before []string
	for i, p := range phases {
		for lane, ids := range p.lanes() {
			var mine []sim.Request
			for _, r := range requests {
				if slices.Contains(ids, r.EventID) {
					mine = append(mine, r)
				}
			}
			name := fmt.Sprintf("phase %d, %s, lane %q", i, p.ordering, lane)
			checkLane(t, name, ids, mine, func(id string) (int, bool) { return slices.Index(ids, id), false })
			for _, id := range before {
				if len(mine) > 0 && mine[0].Time.Before(accepted[id]) {
					t.Errorf("%s: %s is sent before %s, which was published under another ordering, was taken", name, mine[0].EventID, id)
				}
			}
		}
		before = append(before, p.ids...)
	}
}

// What is owed again by a replay has an order too, if the subscription has: it
// goes one by one, by its events, and nothing that came later overtakes it.
func TestReplayKeepsOrder(t *testing.T) {
	for _, ordering := range []string{"key", "subscription"} {
		t.Run(ordering, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sim.New(t, sim.Config{Workers: 2})
				e := c.Endpoint("hook")
				e.Behave(sim.Status(http.StatusBadRequest))
				s := c.Client.SubscribeAs(e, &fanfarev1.Subscription{
					Ordering: ordering, RetrySchedule: []*durationpb.Duration{durationpb.New(time.Second)},
				})
				dead := publishPhase(c, ordering, 0, 20)
				c.AwaitSettled(time.Hour)
				if got := states(c.Client.Deliveries(s)); got[fanfarev1.Delivery_DEAD] != len(dead.ids) {
					t.Fatalf("the deliveries are %v, want all dead", got)
				}
				failed := len(e.Requests())

				e.Behave(sim.Slow(100 * time.Millisecond))
				after := publishPhase(c, ordering, 20, 40) // some of it is on its way when the others come again
				c.Client.Replay(s, fanfarev1.Delivery_DEAD)
				c.Await("all comes again", time.Minute, func() bool {
					return states(c.Client.Deliveries(s))[fanfarev1.Delivery_DEAD] == 0
				})
				begun := time.Now()
				last := publishPhase(c, ordering, 60, 40)
				c.Workers[0].Restart()
				c.AwaitOwners()
				c.AwaitSettled(time.Hour)
				checkDelivered(t, c, e, s, 100)

				requests := e.Requests()[failed:]
				of := func(p phase) []sim.Request {
					var mine []sim.Request
					for _, r := range requests {
						if slices.Contains(p.ids, r.EventID) {
							mine = append(mine, r)
						}
					}
					return mine
				}
				replayed := of(dead)
				checkLane(t, "replayed", dead.ids, replayed, func(id string) (int, bool) { return slices.Index(dead.ids, id), false })
				for _, p := range []phase{after, last} {
					for lane, ids := range p.lanes() {
						var mine []sim.Request
						for _, r := range of(p) {
							if slices.Contains(ids, r.EventID) {
								mine = append(mine, r)
							}
						}
						checkLane(t, lane, ids, mine, func(id string) (int, bool) { return slices.Index(ids, id), false })
					}
				}
				end := replayed[len(replayed)-1].End
				for _, r := range of(last) {
					if _, keyed := last.lanes()[last.keys[r.EventID]]; r.Time.Before(end) && (keyed || ordering == "subscription") {
						t.Errorf("%s, published after all came again at %v, is sent at %v, before the last that comes again has ended", r.EventID, begun, r.Time)
					}
				}
			})
		})
	}
}

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
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// checkOrder checks that an endpoint got events in the order that it asked for.
// newest are all events, newest first.
//
// Of a lane no two requests overlap, and an event is sent for the first time
// only when all before it have ended: accepted, or dead after their last
// request. What comes again, because the worker that knew how it ended has
// gone, comes before anything new.
func checkOrder(t *testing.T, c *sim.Cluster, e *sim.Endpoint, created *fanfarev1.Subscription, ordering string, newest []*fanfarev1.Event) {
	t.Helper()
	lanes, place := make(map[string][]string), make(map[string]int) // ids by lane, oldest first; the place of each
	laneOf := make(map[string]string)
	owed := make(map[string]fanfarev1.Delivery_State)
	for _, d := range c.Client.Deliveries(created) {
		owed[eventID(d)] = d.GetState()
	}
	for _, event := range slices.Backward(newest) {
		lane := "all"
		if ordering == "key" {
			lane = event.GetOrderingKey()
		}
		if _, is := owed[event.GetId()]; !is || lane == "" || ordering == "none" {
			continue
		}
		laneOf[event.GetId()], place[event.GetId()] = lane, len(lanes[lane])
		lanes[lane] = append(lanes[lane], event.GetId())
	}
	requests := make(map[string][]sim.Request)
	for _, r := range e.Requests() {
		if lane, is := laneOf[r.EventID]; is {
			requests[lane] = append(requests[lane], r)
		}
	}
	for lane, all := range requests {
		checkLane(t, fmt.Sprintf("%s, lane %q", e.Name, lane), lanes[lane], all, func(id string) (int, bool) {
			return place[id], owed[id] == fanfarev1.Delivery_DEAD || owed[id] == fanfarev1.Delivery_CANCELLED
		})
	}
}

// checkLane checks the requests of one lane. of returns an event's place in it,
// and whether it ended without having been accepted.
func checkLane(t *testing.T, name string, ids []string, requests []sim.Request, of func(id string) (place int, failed bool)) {
	t.Helper()
	failedBefore := t.Failed()
	defer func() {
		for _, r := range requests {
			if t.Failed() && !failedBefore {
				t.Logf("%s: %s %s until %s: %d, from %s", name, r.EventID, r.Time.Format("04:05.000"), r.End.Format("04:05.000"), r.Status, r.UserAgent)
			}
		}
	}()
	accepted, newest := make([]bool, len(ids)), -1
	for i, r := range requests {
		place, _ := of(r.EventID)
		together := i > 0 && r.Batch != "" && r.Batch == requests[i-1].Batch && r.Time.Equal(requests[i-1].Time)
		if i > 0 && !together && (requests[i-1].End.IsZero() || requests[i-1].End.After(r.Time)) {
			t.Errorf("%s: %s begins at %v, and %s ends at %v", name, r.EventID, r.Time, requests[i-1].EventID, requests[i-1].End)
		}
		if place < newest && !accepted[place] && !together {
			t.Errorf("%s: %s is sent after %s", name, r.EventID, ids[newest])
		}
		for before := range place {
			if _, failed := of(ids[before]); place > newest && !accepted[before] && !failed && !sameBatch(requests[:i], ids[before], r) {
				t.Errorf("%s: %s is sent before %s has ended", name, r.EventID, ids[before])
			}
		}
		if r.Batch == "" || r.Status/100 == 2 { // else they were refused together
			newest = max(newest, place)
		}
		accepted[place] = accepted[place] || r.Status/100 == 2
	}
}

// sameBatch reports whether an event came before in the same batch as a request.
func sameBatch(requests []sim.Request, id string, r sim.Request) bool {
	return slices.ContainsFunc(requests, func(other sim.Request) bool {
		return other.EventID == id && other.Batch != "" && other.Batch == r.Batch && other.Time.Equal(r.Time)
	})
}

// Order is kept whatever happens to workers, leaders and the endpoint.
func TestOrderIsKept(t *testing.T) {
	for _, tt := range []struct {
		ordering string
		batch    uint32
	}{{"key", 0}, {"subscription", 0}, {"key", 10}, {"subscription", 10}} {
		ordering := tt.ordering
		t.Run(fmt.Sprintf("%s,batch=%d", ordering, tt.batch), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sim.New(t, sim.Config{
					Coordinators: 2, Workers: 3, Limits: &linkv1.Limits{OutstandingHealthy: 40, OutstandingFailing: 20},
				})
				e := c.Endpoint("hook")
				s := c.Client.SubscribeAs(e, &fanfarev1.Subscription{
					Ordering: ordering, BatchCount: tt.batch,
					RetrySchedule: slices.Repeat([]*durationpb.Duration{durationpb.New(time.Second)}, 50),
				})
				disturb := []func(){
					func() { e.Behave(sim.FailFirst(1, http.StatusServiceUnavailable)) },
					c.Workers[0].Restart,
					func() { e.Behave(sim.Slow(300 * time.Millisecond)) },
					c.Coordinators[0].Restart,
					func() { e.Behave(sim.Flapping(3 * time.Second)) },
					c.Workers[1].Kill,
					func() { e.Behave(sim.OK()) },
					c.Workers[1].Start,
				}
				n := 0
				for _, f := range disturb {
					for range 6 {
						var events []*fanfarev1.Event
						for range 5 {
							event := sim.Event(fmt.Sprintf("e%d", n), "order.created")
							event.OrderingKey = []string{"", "a", "b", "c"}[n%4]
							events = append(events, event)
							n++
						}
						c.Client.Publish(events...)
						sim.Pass(200 * time.Millisecond)
					}
					f()
				}
				c.AwaitOwners()
				c.AwaitSettled(time.Hour)
				checkDelivered(t, c, e, s, n)
				checkOrder(t, c, e, s, ordering, c.Client.Events())
			})
		})
	}
}

package sim_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// An endpoint that hangs costs a bounded set, whatever its backlog, and nobody
// else anything; when it answers again it gets all that it is owed, from the
// log, also when another coordinator has taken over meanwhile.
func TestSlowConsumerIsCaughtUp(t *testing.T) {
	for _, restart := range []bool{false, true} {
		name := "same leader"
		if restart {
			name = "after a restart"
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const events, healthy = 1600, 200
				c := sim.New(t, sim.Config{
					Workers: 2,
					Limits:  &linkv1.Limits{OutstandingHealthy: healthy, OutstandingFailing: 20},
				})
				slow, fast := c.Endpoint("slow"), c.Endpoint("fast")
				slow.Behave(sim.Hang())
				s := c.Client.Subscribe(slow, nil, slices.Repeat([]time.Duration{20 * time.Second}, 50)...)
				f := c.Client.Subscribe(fast, nil)

				for i := range 8 {
					start := time.Now()
					c.Client.PublishMany((i+1)*events/8, "e", "order.created")
					c.Await("the fast one has all", 5*time.Second, func() bool {
						return c.Client.Subscription(f.GetName()).GetHealth().GetOutstandingCount() == 0
					})
					if took := time.Since(start); took > time.Second {
						t.Errorf("the fast one had to wait %v", took)
					}
					sim.Pass(20 * time.Second)
					if n := c.Client.Subscription(s.GetName()).GetHealth().GetOutstandingCount(); n > healthy {
						t.Fatalf("%d deliveries are outstanding, want at most %d", n, healthy)
					}
				}
				if !c.Client.Subscription(s.GetName()).GetHealth().GetBehind() {
					t.Fatal("the slow one is not behind")
				}
				checkDelivered(t, c, fast, f, events)
				checkOnce(t, fast)
				if restart {
					c.Coordinators[0].Restart()
					c.AwaitOwners()
					if !c.Client.Subscription(s.GetName()).GetHealth().GetBehind() {
						t.Fatal("the slow one is not behind after the restart")
					}
				}
				slow.Behave(sim.OK())
				c.AwaitSettled(sim.Patience)
				checkDelivered(t, c, slow, s, events)
				checkOnce(t, slow)
			})
		})
	}
}

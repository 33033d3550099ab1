package sim_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// dispatchSlack is how much later than due an attempt may begin: reporting,
// writing, sending.
const dispatchSlack = 100 * time.Millisecond

// checkSpacing checks that the attempts follow a schedule of waits, each
// varied by at most 20 % either way.
func checkSpacing(t *testing.T, attempts []*fanfarev1.Attempt, waits []time.Duration) {
	t.Helper()
	if len(attempts) != len(waits)+1 {
		t.Fatalf("there are %d attempts, want %d", len(attempts), len(waits)+1)
	}
	for i, wait := range waits {
		end := attempts[i].GetStartTime().AsTime().Add(attempts[i].GetLatency().AsDuration())
		waited := attempts[i+1].GetStartTime().AsTime().Sub(end)
		if waited < wait*8/10-time.Millisecond || waited > wait*12/10+dispatchSlack {
			t.Errorf("attempt %d came %v after the one before, want %v within 20 %%", i+2, waited, wait)
		}
	}
}

// onlyDelivery waits until nothing is owed, and returns the one delivery.
func onlyDelivery(t *testing.T, c *sim.Cluster, limit time.Duration) *fanfarev1.Delivery {
	t.Helper()
	c.AwaitSettled(limit)
	deliveries := c.Client.Deliveries(nil)
	if len(deliveries) != 1 {
		t.Fatalf("deliveries are %v, want one", deliveries)
	}
	return deliveries[0]
}

func TestDefaultScheduleOverDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("down")
		e.Behave(sim.Status(http.StatusInternalServerError))
		c.Client.Subscribe(e, nil)
		c.Client.Publish(sim.Event("e1", "order.created"))

		delivery := onlyDelivery(t, c, 5*24*time.Hour)
		if delivery.GetState() != fanfarev1.Delivery_DEAD || delivery.GetAttemptCount() != 10 {
			t.Errorf("delivery is %v after %d attempts, want DEAD after 10", delivery.GetState(), delivery.GetAttemptCount())
		}
		checkSpacing(t, c.Client.Attempts(delivery), []time.Duration{
			5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
			10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
		})
		sim.Pass(2 * time.Hour)
		if n := len(e.Requests()); n != 10 {
			t.Errorf("the endpoint got %d requests, want 10", n)
		}
	})
}

func TestOwnSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("down")
		e.Behave(sim.Status(http.StatusBadGateway))
		waits := []time.Duration{time.Second, 10 * time.Minute, 2 * time.Second}
		c.Client.Subscribe(e, nil, waits...)
		c.Client.Publish(sim.Event("e1", "order.created"))

		delivery := onlyDelivery(t, c, time.Hour)
		if delivery.GetState() != fanfarev1.Delivery_DEAD {
			t.Errorf("delivery is %v, want DEAD", delivery.GetState())
		}
		checkSpacing(t, c.Client.Attempts(delivery), waits)
	})
}

// The schedule is kept by the log, so it is kept over a failover.
func TestScheduleSurvivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Workers: 2})
		e := c.Endpoint("down")
		e.Behave(sim.Status(http.StatusBadGateway))
		waits := []time.Duration{10 * time.Minute, 20 * time.Minute, 30 * time.Minute}
		c.Client.Subscribe(e, nil, waits...)
		c.Client.Publish(sim.Event("e1", "order.created"))
		for range 4 {
			sim.Pass(3 * time.Minute)
			c.Coordinators[0].Restart()
			sim.Pass(2 * time.Minute)
			for _, w := range c.Workers {
				w.Restart()
			}
		}
		checkSpacing(t, c.Client.Attempts(onlyDelivery(t, c, 2*time.Hour)), waits)
	})
}

func TestRetryAfterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("busy")
		e.Behave(func(n int) sim.Answer {
			if n == 1 {
				return sim.Answer{Status: http.StatusTooManyRequests, RetryAfter: time.Hour}
			}
			return sim.Answer{Status: http.StatusOK}
		})
		c.Client.Subscribe(e, nil)
		c.Client.Publish(sim.Event("e1", "order.created"))

		delivery := onlyDelivery(t, c, 3*time.Hour)
		if delivery.GetState() != fanfarev1.Delivery_DELIVERED {
			t.Errorf("delivery is %v, want DELIVERED", delivery.GetState())
		}
		requests := e.Requests()
		if len(requests) != 2 {
			t.Fatalf("the endpoint got %d requests, want 2", len(requests))
		}
		if waited := requests[1].Time.Sub(requests[0].Time); waited < time.Hour || waited > time.Hour+dispatchSlack {
			t.Errorf("the second attempt came after %v, want 1h", waited)
		}
	})
}

// 410 ends the delivery at once, and the sending: what comes after is kept
// until somebody resumes it.
func TestGoneIsDeadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("gone")
		e.Behave(sim.Status(http.StatusGone))
		s := c.Client.Subscribe(e, nil)
		c.Client.Publish(sim.Event("e1", "order.created"))
		sim.Pass(time.Second)

		deliveries := c.Client.Deliveries(s)
		if len(deliveries) != 1 || deliveries[0].GetState() != fanfarev1.Delivery_DEAD ||
			deliveries[0].GetLastStatusCode() != http.StatusGone || deliveries[0].GetAttemptCount() != 1 {
			t.Errorf("deliveries are %v, want one DEAD by one 410", deliveries)
		}
		if state := c.Client.Subscription(s.GetName()).GetState(); state != fanfarev1.Subscription_DISABLED {
			t.Errorf("the subscription is %v, want DISABLED", state)
		}
		e.Behave(sim.OK())
		c.Client.Publish(sim.Event("e2", "order.created"))
		sim.Pass(time.Hour)
		checkReceived(t, e, "e1")
		c.Client.Resume(s)
		c.AwaitSettled(time.Minute)
		checkReceived(t, e, "e1", "e2")
	})
}

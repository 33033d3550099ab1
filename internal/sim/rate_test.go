package sim_test

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// A subscription's rate is held within 5 %, and delays nobody else.
func TestRateIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events, rate, burst = 600, 50, 5
		c := sim.New(t, sim.Config{Workers: 2})
		slow, fast := c.Endpoint("slow"), c.Endpoint("fast")
		a := c.Client.SubscribeAs(slow, &fanfarev1.Subscription{Rate: rate, Burst: burst})
		b := c.Client.Subscribe(fast, nil)
		begin := time.Now()
		c.Client.PublishMany(events, "e", "order.created")
		c.AwaitSettled(sim.Patience)
		checkDelivered(t, c, slow, a, events)
		checkDelivered(t, c, fast, b, events)

		requests := slow.Requests()
		took := requests[len(requests)-1].Time.Sub(requests[burst].Time).Seconds()
		if got := float64(len(requests)-1-burst) / took; got < 0.95*rate || got > 1.05*rate {
			t.Errorf("%v events a second, want %d", got, rate)
		}
		requests = fast.Requests()
		if took := requests[len(requests)-1].Time.Sub(begin); took > 2*time.Second {
			t.Errorf("the endpoint without a rate was done after %v", took)
		}
	})
}

// Retry-After is for the whole endpoint: until then nothing is sent to it, also
// by a new leader.
func TestRetryAfterHoldsTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events, asked = 300, 40 * time.Second
		c := sim.New(t, sim.Config{})
		e := c.Endpoint("hook")
		s := c.Client.Subscribe(e, nil, time.Second, time.Second, time.Second)
		refused := false
		e.Behave(func(int) sim.Answer {
			if !refused {
				refused = true
				return sim.Answer{Status: http.StatusTooManyRequests, RetryAfter: asked}
			}
			return sim.Answer{Status: http.StatusOK, After: 20 * time.Millisecond}
		})
		c.Client.PublishMany(events, "e", "order.created")
		sim.Pass(5 * time.Second)
		if hold := c.Client.Subscription(s.GetName()).GetHealth().GetHoldTime(); hold == nil {
			t.Error("the subscription does not say that it is held")
		}
		c.Coordinators[0].Restart()
		c.AwaitSettled(sim.Patience)
		checkDelivered(t, c, e, s, events)

		requests := e.Requests()
		from, until := requests[0].End.Add(50*time.Millisecond), requests[0].End.Add(asked-time.Second)
		held := 0
		for _, r := range requests {
			if r.Time.After(from) && r.Time.Before(until) {
				t.Errorf("%s is sent %v after the endpoint asked to wait", r.EventID, r.Time.Sub(requests[0].End))
			}
			if r.Time.After(until) {
				held++
			}
		}
		if held < events/2 {
			t.Errorf("only %d of %d were held back: the test is blind", held, events)
		}
	})
}

// What an endpoint allows when it is asked for its consent is kept to, also by a
// new leader, and each request says in whose name.
func TestAllowedRateIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events, perMinute = 300, 600
		c := sim.New(t, sim.Config{Workers: 2})
		e := c.Endpoint("hook")
		if _, err := c.Client.TrySubscribe(e, &fanfarev1.Subscription{Handshake: &fanfarev1.WebhookHandshake{}}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("an endpoint that does not consent is subscribed: %v", err)
		}
		e.Consent(strconv.Itoa(perMinute))
		s := c.Client.SubscribeAs(e, &fanfarev1.Subscription{Rate: 1000, Burst: 100, Handshake: &fanfarev1.WebhookHandshake{RequestsPerMinute: 6000}})
		c.Client.PublishMany(events, "e", "order.created")
		sim.Pass(10 * time.Second)
		c.Coordinators[0].Restart()
		c.AwaitSettled(sim.Patience)
		checkDelivered(t, c, e, s, events)
		requests := e.Requests()
		for i, r := range requests {
			if r.Origin != "fanfare" {
				t.Fatalf("request %d was sent in the name of %q", i, r.Origin)
			}
			if from := max(0, i-perMinute/60); i > perMinute/60+2 && r.Time.Sub(requests[from].Time) < 900*time.Millisecond {
				t.Fatalf("%d requests came within %v", i-from+1, r.Time.Sub(requests[from].Time))
			}
		}
		if took := requests[len(requests)-1].Time.Sub(requests[0].Time); took > (events/10+15)*time.Second {
			t.Errorf("all of them took %v", took)
		}
	})
}

package sim_test

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// most returns how many requests an endpoint had at a time, at the most.
func most(e *sim.Endpoint) int {
	type edge struct {
		at time.Time
		by int
	}
	var edges []edge
	for _, r := range e.Requests() {
		edges = append(edges, edge{r.Time, 1}, edge{r.End, -1})
	}
	slices.SortStableFunc(edges, func(a, b edge) int {
		if order := a.at.Compare(b.at); order != 0 {
			return order
		}
		return a.by - b.by
	})
	now, highest := 0, 0
	for _, edge := range edges {
		now += edge.by
		highest = max(highest, now)
	}
	return highest
}

// How much an endpoint is sent at a time is up to the worker, which goes by how
// the endpoint does: the leader's window follows and does not get in its way.
// So one that refuses what it is sent for what that is gets as much at a time as
// one that takes it, and one that does not answer soon gets one.
func TestWindowsAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events, widest = 1200, 64
		c := sim.New(t, sim.Config{})
		takes, refuses, fails := c.Endpoint("takes"), c.Endpoint("refuses"), c.Endpoint("fails")
		takes.Behave(sim.Slow(100 * time.Millisecond))
		var n atomic.Int64
		refuses.Behave(func(int) sim.Answer { // every other one, for good
			status := http.StatusOK
			if n.Add(1)%2 == 0 {
				status = http.StatusUnprocessableEntity
			}
			return sim.Answer{Status: status, After: 100 * time.Millisecond}
		})
		fails.Behave(sim.Status(http.StatusBadGateway))
		for _, e := range []*sim.Endpoint{takes, refuses, fails} {
			c.Client.SubscribeAs(e, new(fanfarev1.Subscription))
		}
		c.Client.PublishMany(events, "e", "order.created")
		sim.Pass(time.Minute)
		if got := most(takes); got != widest {
			t.Errorf("an endpoint that takes all has %d requests at a time, want %d", got, widest)
		}
		if got := most(refuses); got != widest {
			t.Errorf("an endpoint that refuses every other event has %d requests at a time, want %d", got, widest)
		}
		const half = events / 2
		took := func(e *sim.Endpoint) time.Duration { return e.Requests()[half].Time.Sub(e.Requests()[0].Time) }
		if took(refuses) > 2*took(takes) {
			t.Errorf("%d requests took %v at the endpoint that refuses every other event, and %v at the one that takes all", half, took(refuses), took(takes))
		}
		requests := fails.Requests()
		if late := requests[len(requests)/2:]; len(requests) > 60 || most(fails) > 16 {
			t.Errorf("an endpoint that fails has had %d requests, %d at a time, the later ones from %v on", len(requests), most(fails), late[0].Time)
		}
	})
}

package sim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// states counts deliveries by state.
func states(deliveries []*fanfarev1.Delivery) map[fanfarev1.Delivery_State]int {
	counts := make(map[fanfarev1.Delivery_State]int)
	for _, d := range deliveries {
		counts[d.GetState()]++
	}
	return counts
}

// checkDelivered checks that the history has n deliveries of a subscription,
// each of another event and delivered, and that the endpoint took each event.
func checkDelivered(t *testing.T, c *sim.Cluster, e *sim.Endpoint, s *fanfarev1.Subscription, n int) {
	t.Helper()
	deliveries := c.Client.Deliveries(s)
	if got := states(deliveries); len(deliveries) != n || got[fanfarev1.Delivery_DELIVERED] != n {
		t.Errorf("the history has %v of %s, want %d delivered", got, e.Name, n)
	}
	accepted := e.Accepted()
	events := make(map[string]bool)
	for _, d := range deliveries {
		events[d.GetEvent()] = true
		if accepted[eventID(d)] == 0 {
			t.Errorf("%s has not seen %s", e.Name, d.GetEvent())
		}
	}
	if len(events) != len(deliveries) {
		t.Errorf("the history has deliveries of %d events to %s in %d rows", len(events), e.Name, len(deliveries))
	}
	for _, r := range e.Requests() {
		if r.Signed != nil {
			t.Errorf("%s received %s with a wrong signature: %v", e.Name, r.EventID, r.Signed)
		}
	}
}

// checkOnce checks that an endpoint took no event twice.
func checkOnce(t *testing.T, e *sim.Endpoint) {
	t.Helper()
	for id, n := range e.Accepted() {
		if n > 1 {
			t.Errorf("%s took %s %d times", e.Name, id, n)
		}
	}
}

// eventID returns the id of a delivery's event; nothing if the history does not
// know the event.
func eventID(d *fanfarev1.Delivery) string {
	return strings.TrimPrefix(d.GetEvent(), sim.Tenant+"/events/")
}

// checkEvents checks that the history has exactly the events e0 to e<n-1>,
// once each.
func checkEvents(t *testing.T, c *sim.Cluster, n int) {
	t.Helper()
	var got, want []string
	for _, e := range c.Client.Events() {
		got = append(got, e.GetId())
	}
	for i := range n {
		want = append(want, fmt.Sprintf("e%d", i))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the history has %d events %q, want %d", len(got), got, n)
	}
}

// leader returns the coordinator that leads the only partition, and the other.
func leader(t *testing.T, c *sim.Cluster) (leads, other *sim.Coordinator) {
	t.Helper()
	described, err := c.Client.Describe()
	if err != nil {
		t.Fatal(err)
	}
	for _, coordinator := range c.Coordinators {
		if string(coordinator.ID) == described.GetPartitions()[0].GetLeader() {
			leads = coordinator
		} else {
			other = coordinator
		}
	}
	return leads, other
}

// awaitLeads waits until a coordinator says that it leads the only partition.
func awaitLeads(t *testing.T, c *sim.Cluster, coordinator *sim.Coordinator) {
	t.Helper()
	c.Await(string(coordinator.ID)+" leads", time.Minute, func() bool {
		described, err := fanfarev1.NewClusterServiceClient(c.Client.Conn(coordinator)).
			DescribeCluster(t.Context(), &fanfarev1.DescribeClusterRequest{})
		return err == nil && described.GetPartitions()[0].GetLeader() == string(coordinator.ID)
	})
}

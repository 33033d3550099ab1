package sim_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Every coordinator answers for every tenant, wherever that is led, and for
// all of them together.
func TestAnyCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 3, Workers: 2, Partitions: 6})
		awaitSpread(t, c, 2, 2)
		var want []string
		for i := range 12 {
			id := fmt.Sprintf("tenant-%02d", i)
			want = append(want, "tenants/"+id)
			conn := c.Client.Conn(c.Coordinators[i%3])
			if _, err := fanfarev1.NewTenantServiceClient(conn).CreateTenant(t.Context(), &fanfarev1.CreateTenantRequest{TenantId: id}); err != nil {
				t.Fatalf("creating %s: %v", id, err)
			}
		}
		want = append([]string{sim.Tenant}, want...)
		listed := slices.Insert(slices.Clone(want), 1, "tenants/fanfare-system")
		for i, coordinator := range c.Coordinators {
			conn := c.Client.Conn(coordinator)
			if got := listTenants(t, conn); !slices.Equal(got, listed) {
				t.Errorf("%s lists the tenants %q, want %q", coordinator.ID, got, listed)
			}
			events := fanfarev1.NewEventServiceClient(conn)
			for _, tenant := range want {
				given := sim.Event("", "order.created")
				response, err := events.Publish(t.Context(), &fanfarev1.PublishRequest{Parent: tenant, Events: []*fanfarev1.Event{given}})
				if err != nil || response.GetResults()[0].GetDuplicate() {
					t.Fatalf("publishing to %s at %s: %v, %v", tenant, coordinator.ID, response, err)
				}
				name := tenant + "/events/" + response.GetResults()[0].GetId()
				if _, err := events.GetEvent(t.Context(), &fanfarev1.GetEventRequest{Name: name}); err != nil {
					t.Errorf("reading %s back at once: %v", name, err)
				}
				list, err := events.ListEvents(t.Context(), &fanfarev1.ListEventsRequest{Parent: tenant})
				if err != nil || len(list.GetEvents()) != i+1 {
					t.Errorf("%s lists %d events of %s (%v), want %d", coordinator.ID, len(list.GetEvents()), tenant, err, i+1)
				}
			}
		}
	})
}

// listTenants returns the names of all tenants, in pages of five.
func listTenants(t *testing.T, conn *grpc.ClientConn) (names []string) {
	t.Helper()
	request := &fanfarev1.ListTenantsRequest{PageSize: 5}
	for {
		page, err := fanfarev1.NewTenantServiceClient(conn).ListTenants(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, tenant := range page.GetTenants() {
			names = append(names, tenant.GetName())
		}
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return names
		}
	}
}

// leads counts the partitions of each coordinator.
func leads(t *testing.T, c *sim.Cluster) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	described, err := c.Client.Describe()
	if err != nil {
		return nil
	}
	for _, p := range described.GetPartitions() {
		counts[p.GetLeader()]++
	}
	return counts
}

// awaitSpread waits until each coordinator that runs leads so many partitions.
func awaitSpread(t *testing.T, c *sim.Cluster, least, most int) {
	t.Helper()
	c.Await("the partitions are spread", time.Minute, func() bool {
		counts, running := leads(t, c), 0
		for _, coordinator := range c.Coordinators {
			if coordinator.Running() {
				running++
			}
		}
		ok := len(counts) == running
		for _, n := range counts {
			ok = ok && n >= least && n <= most
		}
		return ok
	})
}

// A stream is forwarded in both directions, and ends when the leader moves.
func TestStreamsAreForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 1})
		e := c.Endpoint("one")
		c.Client.Subscribe(e, nil)
		leads, other := leader(t, c)
		conn := c.Client.Conn(other)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch, err := fanfarev1.NewDeliveryServiceClient(conn).WatchDeliveries(ctx, &fanfarev1.WatchDeliveriesRequest{Parent: sim.Tenant})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Header(); err != nil {
			t.Fatal(err)
		}
		stream, err := fanfarev1.NewEventServiceClient(conn).PublishStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			err := stream.Send(&fanfarev1.PublishStreamRequest{Parent: sim.Tenant, Events: []*fanfarev1.Event{
				sim.Event(fmt.Sprintf("e%d", i), "order.created"),
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			answer, err := stream.Recv()
			if err != nil || answer.GetResults()[0].GetId() != fmt.Sprintf("e%d", i) {
				t.Fatalf("answer %d is %v, %v, want the events in order", i, answer, err)
			}
		}
		if change, err := watch.Recv(); err != nil || change.GetDelivery().GetEvent() == "" {
			t.Fatalf("watching says %v, %v, want a delivery", change, err)
		}
		if err := leads.Stop(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = watch.Recv()
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the watch ended with %v, want UNAVAILABLE", err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
		}
	})
}

// While nobody leads, callers hear so in bounded time, and when to try again.
func TestUnavailableDuringFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 1})
		leads, other := leader(t, c)
		leads.Kill()
		start := time.Now()
		_, err := c.Client.TryPublishTo(other, sim.Event("e0", "order.created"))
		if took := time.Since(start); status.Code(err) != codes.Unavailable || took > 5*time.Second {
			t.Errorf("publishing while nobody leads: %v after %v, want UNAVAILABLE soon", err, took)
		}
		hint := false
		for _, detail := range status.Convert(err).Details() {
			info, ok := detail.(*errdetails.RetryInfo)
			hint = hint || ok && info.GetRetryDelay().AsDuration() > 0
		}
		if !hint {
			t.Errorf("the error %v has no RetryInfo", err)
		}
		c.AwaitOwners()
		if _, err := c.Client.TryPublishTo(other, sim.Event("e0", "order.created")); err != nil {
			t.Errorf("publishing after the failover: %v", err)
		}
	})
}

// load publishes without a break until it is stopped, to one coordinator after
// the other as a producer would that knows them all.
type load struct {
	stop    chan struct{}
	stopped chan struct{}
	failed  []error // calls that failed; read after end
	n       int     // events published; read after end
}

const (
	loadPeriod = 25 * time.Millisecond
	// politeGap is how long an endpoint may get nothing where nothing is waited
	// for that takes time: less than a new leader waits that was told nothing.
	politeGap = 400 * time.Millisecond
)

func newLoad(c *sim.Cluster) *load {
	l := &load{stop: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(l.stopped)
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(loadPeriod):
			}
			event := sim.Event(fmt.Sprintf("e%d", l.n), "order.created")
			for try := 0; ; try++ {
				coordinator := c.Coordinators[(l.n+try)%len(c.Coordinators)]
				if _, err := c.Client.TryPublishTo(coordinator, event); err == nil {
					break
				} else if try >= len(c.Coordinators)-1 {
					l.failed = append(l.failed, err)
				}
				sim.Pass(10 * time.Millisecond)
			}
			l.n++
		}
	}()
	return l
}

// end stops publishing and returns how many events there are.
func (l *load) end() int {
	close(l.stop)
	<-l.stopped
	return l.n
}

// gap returns the longest time between two requests to an endpoint.
func gap(e *sim.Endpoint) (longest time.Duration) {
	requests := e.Requests()
	slices.SortFunc(requests, func(a, b sim.Request) int { return a.Time.Compare(b.Time) })
	for i := 1; i < len(requests); i++ {
		longest = max(longest, requests[i].Time.Sub(requests[i-1].Time))
	}
	return longest
}

// politely is a cluster under load to which something polite is done: nothing
// is lost, nothing is delivered twice, nothing waits for long.
func politely(t *testing.T, config sim.Config, what func(*testing.T, *sim.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, config)
		var endpoints []*sim.Endpoint
		var subscriptions []*fanfarev1.Subscription
		for i := range 8 {
			e := c.Endpoint(fmt.Sprintf("hook-%d", i))
			wanted := new(fanfarev1.Subscription)
			switch i % 4 {
			case 3:
				e.Behave(sim.Slow(3 * time.Second)) // on the wire before and after
			case 2:
				e.Behave(sim.Slow(10 * time.Millisecond)) // one at a time, it keeps up
				wanted.Ordering = "subscription"
			default:
				e.Behave(sim.Slow(30 * time.Millisecond))
			}
			endpoints = append(endpoints, e)
			subscriptions = append(subscriptions, c.Client.SubscribeAs(e, wanted))
		}
		l := newLoad(c)
		sim.Pass(5 * time.Second)
		what(t, c)
		sim.Pass(5 * time.Second)
		n := l.end()
		c.AwaitSettled(sim.Patience)
		for _, err := range l.failed {
			t.Errorf("a producer was told %v by every coordinator", err)
		}
		for i, e := range endpoints {
			checkDelivered(t, c, e, subscriptions[i], n)
			checkOnce(t, e)
			if longest := gap(e); i%4 != 3 && longest > politeGap { // the slow ones get what their window allows
				t.Errorf("%s got nothing for %v, want a gap of %v at most", e.Name, longest, politeGap)
			}
		}
	})
}

func TestRollingRestart(t *testing.T) {
	politely(t, sim.Config{Coordinators: 3, Workers: 3, Partitions: 6, Slots: 8}, func(t *testing.T, c *sim.Cluster) {
		for _, coordinator := range c.Coordinators {
			begin := time.Now()
			if err := coordinator.Stop(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 2*time.Second { // the next leaders say when they are prepared
				t.Errorf("handing over took %v", took)
			}
			sim.Pass(2 * time.Second)
			coordinator.Start()
			c.AwaitOwners()
			sim.Pass(5 * time.Second)
		}
		for _, w := range c.Workers {
			if err := w.Stop(); err != nil {
				t.Error(err)
			}
			sim.Pass(2 * time.Second)
			w.Start()
			c.AwaitOwners()
			sim.Pass(5 * time.Second)
		}
	})
}

// Draining takes everything from a member, and undoing it gives it back.
func TestDrain(t *testing.T) {
	politely(t, sim.Config{Coordinators: 2, Workers: 2, Partitions: 4, Slots: 8}, func(t *testing.T, c *sim.Cluster) {
		drain := func(member string, undo bool) {
			conn := c.Client.Conn(c.Coordinators[0])
			m, err := fanfarev1.NewClusterServiceClient(conn).DrainMember(t.Context(), &fanfarev1.DrainMemberRequest{Member: member, Undo: undo})
			if err != nil || m.GetDraining() == undo {
				t.Errorf("draining %s (undo: %v): %v, %v", member, undo, m, err)
			}
		}
		has := func(member string) int32 {
			described, err := c.Client.Describe()
			if err != nil {
				return -1
			}
			for _, m := range described.GetMembers() {
				if m.GetId() == member {
					return m.GetPartitions() + m.GetShards()
				}
			}
			return -1
		}
		for _, member := range []string{"worker-1", "coordinator-1", "coordinator-2", "worker-2"} {
			c.Await(member+" has something", time.Minute, func() bool { return has(member) > 0 })
			drain(member, false)
			c.Await(member+" has nothing left", time.Minute, func() bool { return has(member) == 0 })
			sim.Pass(10 * time.Second)
			if has(member) > 0 {
				t.Errorf("%s was given something while it drains", member)
			}
			drain(member, true)
		}
		if _, err := fanfarev1.NewClusterServiceClient(c.Client.Conn(c.Coordinators[1])).DrainMember(t.Context(),
			&fanfarev1.DrainMemberRequest{Member: "nobody"}); status.Code(err) != codes.NotFound {
			t.Errorf("draining nobody: %v, want NOT_FOUND", err)
		}
	})
}

// A member that was drained starts anew with work.
func TestRestartEndsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 1, Workers: 2})
		conn := c.Client.Conn(c.Coordinators[0])
		if _, err := fanfarev1.NewClusterServiceClient(conn).DrainMember(t.Context(), &fanfarev1.DrainMemberRequest{Member: "worker-1"}); err != nil {
			t.Fatal(err)
		}
		sim.Pass(10 * time.Second)
		c.Workers[0].Restart()
		c.Await("the worker has shards again", time.Minute, func() bool {
			described, err := c.Client.Describe()
			return err == nil && slices.ContainsFunc(described.GetMembers(), func(m *fanfarev1.Member) bool {
				return m.GetId() == "worker-1" && !m.GetDraining() && m.GetShards() > 0
			})
		})
	})
}

// Partitions are spread over those who join, stay where they are otherwise,
// and one that is alone has all.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 4, Partitions: 12})
		awaitSpread(t, c, 3, 3)
		before, err := c.Client.Describe()
		if err != nil {
			t.Fatal(err)
		}
		sim.Pass(10 * time.Minute)
		after, err := c.Client.Describe()
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range after.GetPartitions() {
			if p.GetEpoch() != before.GetPartitions()[i].GetEpoch() {
				t.Errorf("partition %d has moved although nobody came or went", i)
			}
		}
		c.Coordinators[3].Kill()
		awaitSpread(t, c, 4, 4)
		for _, coordinator := range c.Coordinators[1:3] {
			if err := coordinator.Stop(); err != nil {
				t.Error(err)
			}
		}
		awaitSpread(t, c, 12, 12)
		for _, coordinator := range c.Coordinators[1:] {
			coordinator.Start()
		}
		awaitSpread(t, c, 3, 3)
	})
}

// While the store of members is down the cluster serves on, with the leaders
// and shards it has, and says so; then all is as before.
func TestStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 2, Partitions: 2})
		awaitSpread(t, c, 1, 1)
		e := c.Endpoint("one")
		s := c.Client.Subscribe(e, nil)
		before, err := c.Client.Describe()
		if err != nil {
			t.Fatal(err)
		}
		l := newLoad(c)
		sim.Pass(time.Second)
		c.StoreDown(true)
		sim.Pass(3 * time.Minute)
		if !problem(t, c, "cannot reach etcd") {
			t.Error("the cluster does not say that it cannot reach etcd")
		}
		c.StoreDown(false)
		sim.Pass(time.Minute)
		if problem(t, c, "cannot reach etcd") {
			t.Error("the cluster says still that it cannot reach etcd")
		}
		n := l.end()
		c.AwaitSettled(time.Minute)
		if len(l.failed) > 0 {
			t.Errorf("%d calls failed, the first with %v", len(l.failed), l.failed[0])
		}
		checkDelivered(t, c, e, s, n)
		checkOnce(t, e)
		if longest := gap(e); longest > time.Second {
			t.Errorf("nothing was delivered for %v", longest)
		}
		after, err := c.Client.Describe()
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range after.GetPartitions() {
			if p.GetEpoch() != before.GetPartitions()[i].GetEpoch() {
				t.Errorf("partition %d has moved", i)
			}
		}
	})
}

// While the logs are down publishes are refused soon, with a hint when to try
// again; what workers have done meanwhile counts once they are back.
func TestLogsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 2, Partitions: 2})
		e := c.Endpoint("one")
		e.Behave(sim.Slow(2 * time.Second))
		s := c.Client.Subscribe(e, nil)
		c.Client.PublishMany(100, "e", "order.created")
		sim.Pass(time.Second)
		c.LogsDown(true)
		for range 5 {
			for _, coordinator := range c.Coordinators {
				start := time.Now()
				_, err := c.Client.TryPublishTo(coordinator, sim.Event("e100", "order.created"))
				if took := time.Since(start); status.Code(err) != codes.Unavailable || took > 20*time.Second {
					t.Errorf("publishing without a log: %v after %v, want UNAVAILABLE", err, took)
				}
			}
			sim.Pass(10 * time.Second)
		}
		c.LogsDown(false)
		c.Await("events are taken again", 30*time.Second, func() bool {
			_, err := c.Client.TryPublish(sim.Event("e100", "order.created"))
			return err == nil
		})
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, 101)
		checkDelivered(t, c, e, s, 101)
		checkOnce(t, e)
	})
}

// What coordinators say of the cluster does not depend on which is asked.
func TestDescribeAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Coordinators: 3, Workers: 2, Partitions: 6})
		awaitSpread(t, c, 2, 2)
		e := c.Endpoint("one")
		c.Client.Subscribe(e, nil)
		c.Client.PublishMany(10, "e", "order.created")
		c.AwaitSettled(time.Minute)
		var said []string
		for _, coordinator := range c.Coordinators {
			described, err := fanfarev1.NewClusterServiceClient(c.Client.Conn(coordinator)).
				DescribeCluster(t.Context(), &fanfarev1.DescribeClusterRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var summary strings.Builder
			for _, p := range described.GetPartitions() {
				fmt.Fprintf(&summary, "%d %s %d %d %d\n", p.GetId(), p.GetLeader(), p.GetEpoch(), p.GetLastSequence(), p.GetSubscriptions())
				if p.GetLastSequence() == 0 || p.GetChosen() != p.GetLeader() {
					t.Errorf("%s says of partition %d: %v", coordinator.ID, p.GetId(), p)
				}
			}
			for _, m := range described.GetMembers() {
				fmt.Fprintf(&summary, "%s %d %d\n", m.GetId(), m.GetPartitions(), m.GetShards())
			}
			for _, s := range described.GetShards() {
				if !s.GetAttached() {
					t.Errorf("%s says that shard %d/%d is not attached", coordinator.ID, s.GetPartition(), s.GetSlot())
				}
			}
			said = append(said, summary.String())
		}
		if all := slices.Collect(maps.Keys(map[string]bool{said[0]: true, said[1]: true, said[2]: true})); len(all) != 1 {
			t.Errorf("coordinators disagree: %q", all)
		}
	})
}

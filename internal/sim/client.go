package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const clientHost = "client"

// callTimeout bounds one call to one coordinator.
const callTimeout = 30 * time.Second

// pageSize is that of all lists.
const pageSize = 1000

// Tenant is whose events and subscriptions the helpers are about.
const Tenant = "tenants/default"

// Client calls the API. Every coordinator serves it; since some may be dead or
// cut off, each call is made to one after the other until one answers. Safe
// for concurrent use.
type Client struct {
	cluster *Cluster
	conns   []*grpc.ClientConn // of Coordinators, in their order
}

func (c *Cluster) newClient() *Client {
	client := &Client{cluster: c}
	for _, coordinator := range c.Coordinators {
		conn, err := grpc.NewClient("passthrough:///"+coordinator.Address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return c.network.dial(ctx, clientHost, address)
			}),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second,
			}}),
		)
		if err != nil {
			c.t.Fatal(err)
		}
		client.conns = append(client.conns, conn)
		c.ends = append(c.ends, conn.Close)
	}
	return client
}

// ask makes a call to one coordinator after the other until one answers that
// leads.
func ask[R any](c *Client, call func(context.Context, *grpc.ClientConn) (R, error)) (response R, err error) {
	var errs []error
	for _, conn := range c.conns {
		response, err = askOne(c, conn, call)
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			return response, err
		}
		errs = append(errs, err)
	}
	return response, status.Error(codes.Unavailable, errors.Join(errs...).Error())
}

func askOne[R any](c *Client, conn *grpc.ClientConn, call func(context.Context, *grpc.ClientConn) (R, error)) (R, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.cluster.t.Context()), callTimeout)
	defer cancel()
	return call(ctx, conn)
}

// insist makes a call until it succeeds. It fails the test if that takes too
// long.
func insist[R any](c *Client, call func(context.Context, *grpc.ClientConn) (R, error)) R {
	c.cluster.t.Helper()
	const pause = 200 * time.Millisecond
	for start := time.Now(); ; Pass(pause) {
		response, err := ask(c, call)
		if err == nil {
			return response
		}
		if time.Since(start) > Patience {
			c.cluster.t.Fatalf("calling for %v: %v", Patience, err)
		}
	}
}

// Event returns an event with an id and a type.
func Event(id, eventType string) *fanfarev1.Event {
	return &fanfarev1.Event{Id: id, Type: eventType, Data: []byte(`{"id":"` + id + `"}`)}
}

func publish(events []*fanfarev1.Event) func(context.Context, *grpc.ClientConn) (*fanfarev1.PublishResponse, error) {
	return func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.PublishResponse, error) {
		return fanfarev1.NewEventServiceClient(conn).Publish(ctx, &fanfarev1.PublishRequest{Parent: Tenant, Events: events})
	}
}

// TryPublish publishes once.
func (c *Client) TryPublish(events ...*fanfarev1.Event) ([]*fanfarev1.PublishResult, error) {
	response, err := ask(c, publish(events))
	return response.GetResults(), err
}

// TryPublishTo publishes once, to one coordinator.
func (c *Client) TryPublishTo(coordinator *Coordinator, events ...*fanfarev1.Event) ([]*fanfarev1.PublishResult, error) {
	response, err := askOne(c, c.conn(coordinator), publish(events))
	return response.GetResults(), err
}

// Conn returns the client's connection to a coordinator, for calls that the
// helpers do not make.
func (c *Client) Conn(coordinator *Coordinator) *grpc.ClientConn { return c.conn(coordinator) }

func (c *Client) conn(coordinator *Coordinator) *grpc.ClientConn {
	for i, other := range c.cluster.Coordinators {
		if other == coordinator {
			return c.conns[i]
		}
	}
	return nil
}

// Publish publishes again and again until it is acknowledged.
func (c *Client) Publish(events ...*fanfarev1.Event) []*fanfarev1.PublishResult {
	c.cluster.t.Helper()
	return insist(c, publish(events)).GetResults()
}

// PublishMany publishes n events of one type, with ids from <prefix>0 on.
func (c *Client) PublishMany(n int, prefix, eventType string) {
	c.cluster.t.Helper()
	const most = 500
	for first := 0; first < n; first += most {
		var events []*fanfarev1.Event
		for i := first; i < min(n, first+most); i++ {
			events = append(events, Event(fmt.Sprintf("%s%d", prefix, i), eventType))
		}
		c.Publish(events...)
	}
}

// Subscribe subscribes an endpoint to some patterns, by a schedule of waits;
// none is the default one.
func (c *Client) Subscribe(e *Endpoint, patterns []string, schedule ...time.Duration) *fanfarev1.Subscription {
	c.cluster.t.Helper()
	wanted := &fanfarev1.Subscription{EventTypes: patterns}
	for _, wait := range schedule {
		wanted.RetrySchedule = append(wanted.RetrySchedule, durationpb.New(wait))
	}
	return c.SubscribeAs(e, wanted)
}

// SubscribeAs creates a subscription of an endpoint that is as wanted, but for
// the endpoint's URL and secret, which it fills in.
func (c *Client) SubscribeAs(e *Endpoint, wanted *fanfarev1.Subscription) *fanfarev1.Subscription {
	c.cluster.t.Helper()
	return c.SubscribeIn(Tenant, e, wanted)
}

// SubscribeIn is SubscribeAs in another tenant.
func (c *Client) SubscribeIn(tenant string, e *Endpoint, wanted *fanfarev1.Subscription) *fanfarev1.Subscription {
	c.cluster.t.Helper()
	wanted.Url, wanted.Secret = e.URL, new(e.secret.Reveal())
	return insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		subscriptions := fanfarev1.NewSubscriptionServiceClient(conn)
		// An earlier try may have succeeded unheard.
		list, err := subscriptions.ListSubscriptions(ctx, &fanfarev1.ListSubscriptionsRequest{Parent: tenant, PageSize: pageSize})
		if err != nil {
			return nil, err
		}
		for _, s := range list.GetSubscriptions() {
			if s.GetUrl() == e.URL {
				return s, nil
			}
		}
		return subscriptions.CreateSubscription(ctx, &fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: wanted})
	})
}

// TrySubscribe is SubscribeAs, once.
func (c *Client) TrySubscribe(e *Endpoint, wanted *fanfarev1.Subscription) (*fanfarev1.Subscription, error) {
	wanted.Url, wanted.Secret = e.URL, new(e.secret.Reveal())
	return ask(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).CreateSubscription(ctx, &fanfarev1.CreateSubscriptionRequest{
			Parent: Tenant, Subscription: wanted,
		})
	})
}

// Update changes the patterns of a subscription.
func (c *Client) Update(subscription *fanfarev1.Subscription, patterns ...string) {
	c.cluster.t.Helper()
	insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).UpdateSubscription(ctx, &fanfarev1.UpdateSubscriptionRequest{
			Subscription: &fanfarev1.Subscription{Name: subscription.GetName(), EventTypes: patterns},
		})
	})
}

// SetOrdering changes the ordering of a subscription.
func (c *Client) SetOrdering(subscription *fanfarev1.Subscription, ordering string) {
	c.cluster.t.Helper()
	insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).UpdateSubscription(ctx, &fanfarev1.UpdateSubscriptionRequest{
			Subscription: &fanfarev1.Subscription{Name: subscription.GetName(), Ordering: ordering},
		})
	})
}

// Delete deletes a subscription. One that is gone is no error: the answer to
// an earlier try may have been lost.
func (c *Client) Delete(subscription *fanfarev1.Subscription) {
	c.cluster.t.Helper()
	insist(c, func(ctx context.Context, conn *grpc.ClientConn) (struct{}, error) {
		_, err := fanfarev1.NewSubscriptionServiceClient(conn).DeleteSubscription(ctx,
			&fanfarev1.DeleteSubscriptionRequest{Name: subscription.GetName()})
		if status.Code(err) == codes.NotFound {
			err = nil
		}
		return struct{}{}, err
	})
}

// Pause stops sending to a subscription.
func (c *Client) Pause(subscription *fanfarev1.Subscription) {
	c.cluster.t.Helper()
	insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).PauseSubscription(ctx,
			&fanfarev1.PauseSubscriptionRequest{Name: subscription.GetName()})
	})
}

// Resume sends to a subscription again, from where it stopped.
func (c *Client) Resume(subscription *fanfarev1.Subscription) {
	c.cluster.t.Helper()
	insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).ResumeSubscription(ctx,
			&fanfarev1.ResumeSubscriptionRequest{Name: subscription.GetName()})
	})
}

// Replay has deliveries of a subscription that ended in a state sent again.
func (c *Client) Replay(subscription *fanfarev1.Subscription, state fanfarev1.Delivery_State) {
	c.cluster.t.Helper()
	insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Replay, error) {
		return fanfarev1.NewDeliveryServiceClient(conn).CreateReplay(ctx, &fanfarev1.CreateReplayRequest{
			Parent: Tenant, Replay: &fanfarev1.Replay{Subscription: subscription.GetName(), States: []fanfarev1.Delivery_State{state}},
		})
	})
}

// Subscription returns a subscription as it is now.
func (c *Client) Subscription(name string) *fanfarev1.Subscription {
	c.cluster.t.Helper()
	return insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).GetSubscription(ctx, &fanfarev1.GetSubscriptionRequest{Name: name})
	})
}

// Deliveries returns all deliveries in the history, of one subscription if it
// is given, newest event first.
func (c *Client) Deliveries(subscription *fanfarev1.Subscription) []*fanfarev1.Delivery {
	c.cluster.t.Helper()
	var all []*fanfarev1.Delivery
	request := &fanfarev1.ListDeliveriesRequest{Parent: Tenant, PageSize: pageSize, Subscription: subscription.GetName()}
	for {
		page := insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.ListDeliveriesResponse, error) {
			return fanfarev1.NewDeliveryServiceClient(conn).ListDeliveries(ctx, request)
		})
		all = append(all, page.GetDeliveries()...)
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return all
		}
	}
}

// Attempts returns the attempts of a delivery, first to last.
func (c *Client) Attempts(delivery *fanfarev1.Delivery) []*fanfarev1.Attempt {
	c.cluster.t.Helper()
	return insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.ListAttemptsResponse, error) {
		return fanfarev1.NewDeliveryServiceClient(conn).ListAttempts(ctx,
			&fanfarev1.ListAttemptsRequest{Parent: delivery.GetName(), PageSize: pageSize})
	}).GetAttempts()
}

// Alerts returns a tenant's alerts, those that were resolved included.
func (c *Client) Alerts(tenant string) []*fanfarev1.Alert {
	c.cluster.t.Helper()
	return insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.ListAlertsResponse, error) {
		return fanfarev1.NewAlertServiceClient(conn).ListAlerts(ctx, &fanfarev1.ListAlertsRequest{Parent: tenant, PageSize: pageSize})
	}).GetAlerts()
}

// Events returns all events in the history, newest first.
func (c *Client) Events() []*fanfarev1.Event {
	c.cluster.t.Helper()
	var all []*fanfarev1.Event
	request := &fanfarev1.ListEventsRequest{Parent: Tenant, PageSize: pageSize}
	for {
		page := insist(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.ListEventsResponse, error) {
			return fanfarev1.NewEventServiceClient(conn).ListEvents(ctx, request)
		})
		all = append(all, page.GetEvents()...)
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return all
		}
	}
}

// Watch streams what happens to deliveries from now on, until stop is called
// or the leader ends. It returns once nothing that follows can be missed.
func (c *Client) Watch() (changes <-chan *fanfarev1.WatchDeliveriesResponse, stop func()) {
	c.cluster.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.cluster.t.Context()))
	stream, err := ask(c, func(_ context.Context, conn *grpc.ClientConn) (grpc.ServerStreamingClient[fanfarev1.WatchDeliveriesResponse], error) {
		stream, err := fanfarev1.NewDeliveryServiceClient(conn).WatchDeliveries(ctx, &fanfarev1.WatchDeliveriesRequest{Parent: Tenant})
		if err == nil {
			_, err = stream.Header()
		}
		return stream, err
	})
	if err != nil {
		cancel()
		c.cluster.t.Fatalf("watching: %v", err)
	}
	out := make(chan *fanfarev1.WatchDeliveriesResponse)
	go func() {
		defer close(out)
		for {
			change, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case out <- change:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, func() {
		cancel()
		for range out { // until it is closed
		}
	}
}

// Describe returns the cluster as all coordinators together know it: of each
// partition, and its shards, what its leader says. It is an error if one of
// the leaders does not answer.
func (c *Client) Describe() (*fanfarev1.Cluster, error) {
	var merged *fanfarev1.Cluster
	led := make(map[int32]bool)
	for i, coordinator := range c.cluster.Coordinators {
		if !coordinator.Running() {
			continue
		}
		described, err := askOne(c, c.conns[i], func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Cluster, error) {
			return fanfarev1.NewClusterServiceClient(conn).DescribeCluster(ctx, &fanfarev1.DescribeClusterRequest{})
		})
		if err != nil {
			return nil, err
		}
		if merged == nil {
			merged = described
		}
		mergeLed(merged, described, led)
	}
	for partition := range c.cluster.config.Partitions {
		if !led[int32(partition)] {
			return nil, fmt.Errorf("partition %d is not led", partition)
		}
	}
	return merged, nil
}

// mergeLed takes over what a coordinator says of the partitions it leads,
// which only there have a log.
func mergeLed(merged, described *fanfarev1.Cluster, led map[int32]bool) {
	leads := make(map[int32]bool)
	for i, p := range described.GetPartitions() {
		if p.GetLastSequence() > 0 && p.GetEpoch() >= merged.GetPartitions()[i].GetEpoch() {
			merged.Partitions[i] = p
			leads[p.GetId()], led[p.GetId()] = true, true
		}
	}
	for i, s := range described.GetShards() {
		if leads[s.GetPartition()] {
			merged.Shards[i] = s
		}
	}
}

// TryCreate creates a subscription and a tenant once, and returns how each of
// the two ended.
func (c *Client) TryCreate(e *Endpoint, tenant string) (subscription, created error) {
	_, subscription = ask(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		return fanfarev1.NewSubscriptionServiceClient(conn).CreateSubscription(ctx,
			&fanfarev1.CreateSubscriptionRequest{Parent: Tenant, Subscription: &fanfarev1.Subscription{Url: e.URL}})
	})
	_, created = ask(c, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Tenant, error) {
		return fanfarev1.NewTenantServiceClient(conn).CreateTenant(ctx, &fanfarev1.CreateTenantRequest{TenantId: tenant})
	})
	return subscription, created
}

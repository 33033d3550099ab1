package serve_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// partitionOfDefault is where the default tenant's log is.
const partitionOfDefault = 0

// await takes changes from a stream until so many have come.
func (w *world) await(stream grpc.ServerStreamingClient[fanfarev1.WatchDeliveriesResponse], n int) []*fanfarev1.WatchDeliveriesResponse {
	w.Helper()
	var changes []*fanfarev1.WatchDeliveriesResponse
	for range n {
		changes = append(changes, must[*fanfarev1.WatchDeliveriesResponse](w)(stream.Recv()))
	}
	return changes
}

// watch watches until the returned function is called.
func (w *world) watch(request *fanfarev1.WatchDeliveriesRequest) (grpc.ServerStreamingClient[fanfarev1.WatchDeliveriesResponse], context.CancelFunc) {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	stream := must[grpc.ServerStreamingClient[fanfarev1.WatchDeliveriesResponse]](w)(w.deliveries.WatchDeliveries(ctx, request))
	if _, err := stream.Header(); err != nil { // it watches now
		w.Fatal(err)
	}
	return stream, stop
}

// deliverAll makes a delivery in every state there is, a second apart, and
// returns their events' names by state.
func (w *world) deliverAll() (*fanfarev1.Subscription, map[fanfarev1.Delivery_State]string) {
	w.Helper()
	w.attach(partitionOfDefault)
	sub, gone := w.subscribe(tenant, "*"), w.subscribe(tenant, "gone")
	stream, stop := w.watch(&fanfarev1.WatchDeliveriesRequest{Parent: tenant})
	defer stop()
	events := make(map[fanfarev1.Delivery_State]string)
	for _, one := range []struct {
		state     fanfarev1.Delivery_State
		eventType string
		changes   int
	}{
		{fanfarev1.Delivery_DELIVERED, "a.delivered", 2},
		{fanfarev1.Delivery_DEAD, "a.dead", 2},
		{fanfarev1.Delivery_PENDING, "a.retry", 2},
		{fanfarev1.Delivery_CANCELLED, "gone", 2}, // and another that stays pending
	} {
		<-time.After(time.Second)
		events[one.state] = tenant + "/events/" + w.publish(tenant, one.eventType)[0]
		w.await(stream, one.changes)
	}
	<-time.After(time.Second)
	must[*emptypb.Empty](w)(w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: gone.GetName()}))
	w.await(stream, 1)
	return sub, events
}

func TestListDeliveries(t *testing.T) {
	inWorld(t, func(w *world) {
		start := timestamppb.Now()
		sub, events := w.deliverAll()
		delivered, dead := events[fanfarev1.Delivery_DELIVERED], events[fanfarev1.Delivery_DEAD]
		pending, cancelled := events[fanfarev1.Delivery_PENDING], events[fanfarev1.Delivery_CANCELLED]
		at := func(seconds int64) *timestamppb.Timestamp {
			return &timestamppb.Timestamp{Seconds: start.GetSeconds() + seconds, Nanos: start.GetNanos()}
		}
		last := func(name string) string { return name[strings.LastIndex(name, "/")+1:] }
		for _, tt := range []struct {
			name    string
			request *fanfarev1.ListDeliveriesRequest
			want    []string // events, newest first
		}{
			{"all", &fanfarev1.ListDeliveriesRequest{}, []string{cancelled, cancelled, pending, dead, delivered}},
			{"delivered", &fanfarev1.ListDeliveriesRequest{State: fanfarev1.Delivery_DELIVERED}, []string{delivered}},
			{"dead", &fanfarev1.ListDeliveriesRequest{State: fanfarev1.Delivery_DEAD}, []string{dead}},
			{"pending", &fanfarev1.ListDeliveriesRequest{State: fanfarev1.Delivery_PENDING}, []string{cancelled, pending}},
			{"cancelled", &fanfarev1.ListDeliveriesRequest{State: fanfarev1.Delivery_CANCELLED}, []string{cancelled}},
			{"expired", &fanfarev1.ListDeliveriesRequest{State: fanfarev1.Delivery_EXPIRED}, nil},
			{"of a subscription", &fanfarev1.ListDeliveriesRequest{Subscription: last(sub.GetName())}, []string{cancelled, pending, dead, delivered}},
			{"of a subscription by name", &fanfarev1.ListDeliveriesRequest{Subscription: sub.GetName()}, []string{cancelled, pending, dead, delivered}},
			{"of no subscription", &fanfarev1.ListDeliveriesRequest{Subscription: "sub_none"}, nil},
			{"of an event", &fanfarev1.ListDeliveriesRequest{Event: last(dead)}, []string{dead}},
			{"of an event by name", &fanfarev1.ListDeliveriesRequest{Event: cancelled}, []string{cancelled, cancelled}},
			{"from a time", &fanfarev1.ListDeliveriesRequest{StartTime: at(3)}, []string{cancelled, cancelled, pending}},
			{"until a time", &fanfarev1.ListDeliveriesRequest{EndTime: at(3)}, []string{dead, delivered}},
			{"of an event type", &fanfarev1.ListDeliveriesRequest{EventType: "a.dead"}, []string{dead}},
			{"of an event type of two", &fanfarev1.ListDeliveriesRequest{EventType: "gone"}, []string{cancelled, cancelled}},
			{"answered with success", &fanfarev1.ListDeliveriesRequest{StatusClass: "2xx"}, []string{delivered}},
			{"answered with a refusal", &fanfarev1.ListDeliveriesRequest{StatusClass: "4xx"}, []string{dead}},
			{"timed out", &fanfarev1.ListDeliveriesRequest{ErrorClass: "timeout"}, []string{pending}},
			{"of no error class", &fanfarev1.ListDeliveriesRequest{ErrorClass: "none"}, nil},
			{
				"all filters", &fanfarev1.ListDeliveriesRequest{
					Subscription: sub.GetName(), Event: dead, State: fanfarev1.Delivery_DEAD, StartTime: at(2), EndTime: at(3),
				}, []string{dead},
			},
			{"filters that exclude one another", &fanfarev1.ListDeliveriesRequest{Event: dead, State: fanfarev1.Delivery_DELIVERED}, nil},
		} {
			tt.request.Parent = tenant
			var got []string
			for _, delivery := range w.listDeliveries(tt.request) {
				got = append(got, delivery.GetEvent())
			}
			if !slices.Equal(got, tt.want) {
				w.Errorf("%s: %v, want %v", tt.name, got, tt.want)
			}
		}
		w.listDeliveryErrors()
	})
}

// listDeliveries returns all pages, of two each.
func (w *world) listDeliveries(request *fanfarev1.ListDeliveriesRequest) []*fanfarev1.Delivery {
	w.Helper()
	var all []*fanfarev1.Delivery
	request.PageSize = 2
	for {
		response := must[*fanfarev1.ListDeliveriesResponse](w)(w.deliveries.ListDeliveries(w.Context(), request))
		all = append(all, response.GetDeliveries()...)
		if request.PageToken = response.GetNextPageToken(); request.GetPageToken() == "" {
			return all
		}
	}
}

func (w *world) listDeliveryErrors() {
	w.Helper()
	token := must[*fanfarev1.ListDeliveriesResponse](w)(w.deliveries.ListDeliveries(w.Context(), &fanfarev1.ListDeliveriesRequest{Parent: tenant, PageSize: 1})).GetNextPageToken()
	for _, tt := range []struct {
		name    string
		request *fanfarev1.ListDeliveriesRequest
		code    codes.Code
		field   string
	}{
		{"no parent", &fanfarev1.ListDeliveriesRequest{}, codes.InvalidArgument, "parent"},
		{"a tenant there is not", &fanfarev1.ListDeliveriesRequest{Parent: "tenants/nobody"}, codes.NotFound, ""},
		{"a negative size", &fanfarev1.ListDeliveriesRequest{Parent: tenant, PageSize: -1}, codes.InvalidArgument, "page_size"},
		{"a token that is none", &fanfarev1.ListDeliveriesRequest{Parent: tenant, PageToken: "x"}, codes.InvalidArgument, "page_token"},
		{"a token of other filters", &fanfarev1.ListDeliveriesRequest{Parent: tenant, PageToken: token, State: fanfarev1.Delivery_DEAD}, codes.InvalidArgument, "page_token"},
		{"a state there is not", &fanfarev1.ListDeliveriesRequest{Parent: tenant, State: 99}, codes.InvalidArgument, "state"},
		{"a subscription of another tenant", &fanfarev1.ListDeliveriesRequest{Parent: tenant, Subscription: "tenants/acme/subscriptions/s"}, codes.InvalidArgument, "subscription"},
		{"an event that is a subscription", &fanfarev1.ListDeliveriesRequest{Parent: tenant, Event: tenant + "/subscriptions/s"}, codes.InvalidArgument, "event"},
		{"a start that is none", &fanfarev1.ListDeliveriesRequest{Parent: tenant, StartTime: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument, "start_time"},
		{"an end that is none", &fanfarev1.ListDeliveriesRequest{Parent: tenant, EndTime: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument, "end_time"},
	} {
		_, err := w.deliveries.ListDeliveries(w.Context(), tt.request)
		w.refused(tt.name, err, tt.code, tt.field)
	}
}

func TestDeliveriesAndAttempts(t *testing.T) {
	inWorld(t, func(w *world) {
		sub, events := w.deliverAll()
		for _, tt := range []struct {
			state    fanfarev1.Delivery_State
			want     *fanfarev1.Delivery
			attempts []*fanfarev1.Attempt
		}{
			{
				fanfarev1.Delivery_DELIVERED, &fanfarev1.Delivery{EventType: "a.delivered", AttemptCount: 1, LastStatusCode: 204},
				[]*fanfarev1.Attempt{{Number: 1, Result: fanfarev1.Attempt_DELIVERED, StatusCode: 204, ResponseBody: "thanks"}},
			},
			{
				fanfarev1.Delivery_DEAD, &fanfarev1.Delivery{EventType: "a.dead", AttemptCount: 1, LastStatusCode: 400, LastErrorClass: "status"},
				[]*fanfarev1.Attempt{{Number: 1, Result: fanfarev1.Attempt_DEAD, StatusCode: 400, ErrorClass: "status"}},
			},
			{
				fanfarev1.Delivery_PENDING, &fanfarev1.Delivery{EventType: "a.retry", AttemptCount: 1, LastErrorClass: "timeout"},
				[]*fanfarev1.Attempt{{Number: 1, Result: fanfarev1.Attempt_RETRY, ErrorClass: "timeout", Error: "took too long"}},
			},
		} {
			listed := w.listDeliveries(&fanfarev1.ListDeliveriesRequest{Parent: tenant, Event: events[tt.state]})
			if len(listed) != 1 {
				w.Fatalf("%s: listed %v", tt.state, listed)
			}
			name := listed[0].GetName()
			got := must[*fanfarev1.Delivery](w)(w.deliveries.GetDelivery(w.Context(), &fanfarev1.GetDeliveryRequest{Name: name}))
			if diff := cmp.Diff(listed[0], got, protocmp.Transform()); diff != "" {
				w.Errorf("%s: listed and got differ:\n%s", tt.state, diff)
			}
			tt.want.Name, tt.want.Event, tt.want.Subscription, tt.want.State = name, events[tt.state], sub.GetName(), tt.state
			times := protocmp.IgnoreFields(&fanfarev1.Delivery{}, "create_time", "end_time", "next_attempt_time")
			if diff := cmp.Diff(tt.want, got, protocmp.Transform(), times); diff != "" {
				w.Errorf("%s: delivery (-want +got):\n%s", tt.state, diff)
			}
			ended := tt.state != fanfarev1.Delivery_PENDING
			if (got.GetEndTime() != nil) != ended || (got.GetNextAttemptTime() != nil) == ended || got.GetCreateTime() == nil {
				w.Errorf("%s: times are %v", tt.state, got)
			}
			w.checkAttempts(name, tt.attempts)
		}
	})
}

func (w *world) checkAttempts(delivery string, want []*fanfarev1.Attempt) {
	w.Helper()
	response := must[*fanfarev1.ListAttemptsResponse](w)(w.deliveries.ListAttempts(w.Context(), &fanfarev1.ListAttemptsRequest{Parent: delivery}))
	for i, attempt := range want {
		attempt.Worker, attempt.Latency = "worker-1", durationpb.New(1500*time.Microsecond)
		if i < len(response.GetAttempts()) {
			attempt.Name = response.GetAttempts()[i].GetName()
		}
	}
	times := protocmp.IgnoreFields(&fanfarev1.Attempt{}, "start_time", "next_attempt_time")
	if diff := cmp.Diff(want, response.GetAttempts(), protocmp.Transform(), times); diff != "" || response.GetNextPageToken() != "" {
		w.Errorf("attempts of %s (-want +got), and the token %q:\n%s", delivery, response.GetNextPageToken(), diff)
	}
	if want := delivery + "/attempts/1"; response.GetAttempts()[0].GetName() != want {
		w.Errorf("the attempt's name is %q, want %q", response.GetAttempts()[0].GetName(), want)
	}
}

// Errors name the field of the request that was called, whichever it calls
// itself.
func TestDeliveryNames(t *testing.T) {
	inWorld(t, func(w *world) {
		w.subscribe(tenant)
		w.publish(tenant, "a")
		id := strings.TrimPrefix(w.listDeliveries(&fanfarev1.ListDeliveriesRequest{Parent: tenant})[0].GetName(), tenant+"/deliveries/")
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		for name, code := range map[string]codes.Code{
			tenant + "/deliveries/none":                codes.NotFound,
			tenant + "/deliveries/dlv_0-1-1":           codes.NotFound,
			tenant + "/deliveries/dlv_0-zzz-0-1":       codes.NotFound,
			tenant + "/deliveries/dlv_9999999-1-0-1":   codes.NotFound,
			"tenants/acme/deliveries/" + id:            codes.NotFound,
			"tenants/nobody/deliveries/" + id:          codes.NotFound,
			tenant + "/events/" + id:                   codes.InvalidArgument,
			tenant + "/deliveries/" + id + "/attempts": codes.InvalidArgument,
			id: codes.InvalidArgument,
		} {
			field := func(name string) string {
				if code == codes.NotFound {
					return ""
				}
				return name
			}
			_, err := w.deliveries.GetDelivery(w.Context(), &fanfarev1.GetDeliveryRequest{Name: name})
			w.refused("GetDelivery "+name, err, code, field("name"))
			_, err = w.deliveries.ListAttempts(w.Context(), &fanfarev1.ListAttemptsRequest{Parent: name})
			w.refused("ListAttempts "+name, err, code, field("parent"))
		}
		_, err := w.deliveries.ListAttempts(w.Context(), &fanfarev1.ListAttemptsRequest{Parent: tenant + "/deliveries/" + id, PageSize: -1})
		w.refused("a negative size", err, codes.InvalidArgument, "page_size")
		_, err = w.deliveries.ListAttempts(w.Context(), &fanfarev1.ListAttemptsRequest{Parent: tenant + "/deliveries/" + id, PageToken: "x"})
		w.refused("a token that is none", err, codes.InvalidArgument, "page_token")
	})
}

// A watcher is told of what begins, what is tried and what ends, in order; and
// what it is told of, Get finds.
func TestWatchDeliveries(t *testing.T) {
	inWorld(t, func(w *world) {
		w.attach(partitionOfDefault)
		sub, other := w.subscribe(tenant, "a.*"), w.subscribe(tenant, "a.*")
		all, stopAll := w.watch(&fanfarev1.WatchDeliveriesRequest{Parent: tenant})
		defer stopAll()
		one, stopOne := w.watch(&fanfarev1.WatchDeliveriesRequest{Parent: tenant, Subscription: sub.GetName()})
		defer stopOne()
		w.publish(tenant, "a.delivered", "a.retry")
		seen := make(map[string][]string)
		for _, change := range w.await(all, 8) {
			delivery := change.GetDelivery()
			key := delivery.GetSubscription() + " " + delivery.GetEventType()
			seen[key] = append(seen[key], delivery.GetState().String()+" "+change.GetAttempt().GetResult().String())
			must[*fanfarev1.Delivery](w)(w.deliveries.GetDelivery(w.Context(), &fanfarev1.GetDeliveryRequest{Name: delivery.GetName()}))
		}
		want := make(map[string][]string)
		for _, s := range []*fanfarev1.Subscription{sub, other} {
			want[s.GetName()+" a.delivered"] = []string{"PENDING RESULT_UNSPECIFIED", "DELIVERED DELIVERED"}
			want[s.GetName()+" a.retry"] = []string{"PENDING RESULT_UNSPECIFIED", "PENDING RETRY"}
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			w.Errorf("watched (-want +got):\n%s", diff)
		}
		for _, change := range w.await(one, 4) {
			if change.GetDelivery().GetSubscription() != sub.GetName() {
				w.Errorf("watched %v of another subscription", change)
			}
		}
		for _, tt := range []struct {
			request *fanfarev1.WatchDeliveriesRequest
			code    codes.Code
			field   string
		}{
			{&fanfarev1.WatchDeliveriesRequest{}, codes.InvalidArgument, "parent"},
			{&fanfarev1.WatchDeliveriesRequest{Parent: "tenants/nobody"}, codes.NotFound, ""},
			{&fanfarev1.WatchDeliveriesRequest{Parent: tenant, Subscription: "tenants/acme/subscriptions/s"}, codes.InvalidArgument, "subscription"},
		} {
			stream := must[grpc.ServerStreamingClient[fanfarev1.WatchDeliveriesResponse]](w)(w.deliveries.WatchDeliveries(w.Context(), tt.request))
			_, err := stream.Recv()
			w.refused("watch", err, tt.code, tt.field)
		}
	})
}

func TestDescribeCluster(t *testing.T) {
	inWorld(t, func(w *world) {
		w.subscribe(tenant)
		w.publish(tenant, "a", "b")
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		<-time.After(time.Second) // the history has followed, and the view seen who is ready
		got := must[*fanfarev1.Cluster](w)(w.cluster.DescribeCluster(w.Context(), &fanfarev1.DescribeClusterRequest{}))
		want := &fanfarev1.Cluster{
			Members: []*fanfarev1.Member{{Id: "coordinator-1", Role: "coordinator", Address: "coordinator-1:7400", Version: "v0-test", Weight: 1, Partitions: 2}},
			Partitions: []*fanfarev1.Partition{
				{Id: 0, Leader: "coordinator-1", Chosen: "coordinator-1", Epoch: 1, FirstSequence: 1, LastSequence: 3, Tenants: 2, Subscriptions: 1, Outstanding: 2},
				{Id: 1, Leader: "coordinator-1", Chosen: "coordinator-1", Epoch: 1, FirstSequence: 1, LastSequence: 2, Tenants: 1},
			},
			Shards: []*fanfarev1.Shard{
				{Partition: 0, Slot: 0}, {Partition: 0, Slot: 1}, {Partition: 1, Slot: 0}, {Partition: 1, Slot: 1},
			},
			Engines:  []*fanfarev1.Engine{{Name: "nats", Description: "memory", Sync: "never"}},
			Problems: []string{"shard 0/1 has subscriptions and no worker"},
		}
		want.Shards[1].Subscriptions = 1 // its number is 1
		ignored := []cmp.Option{
			protocmp.Transform(), protocmp.IgnoreFields(&fanfarev1.Member{}, "start_time"),
			protocmp.IgnoreFields(&fanfarev1.Partition{}, "log_bytes", "oldest_outstanding_time"),
		}
		if diff := cmp.Diff(want, got, ignored...); diff != "" {
			w.Errorf("cluster (-want +got):\n%s", diff)
		}
		if led := got.GetPartitions()[0]; led.GetLogBytes() == 0 || led.GetOldestOutstandingTime() == nil {
			w.Errorf("partition 0 is %v", led)
		}
	})
}

// The link is for workers that say who they are, to leaders that are there.
func TestAttachErrors(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, tt := range []struct {
			name  string
			hello *linkHello
			code  codes.Code
		}{
			{"no hello", nil, codes.FailedPrecondition},
			{"a partition there is not", &linkHello{Worker: "w", Partition: partitions, CreditCount: 1, CreditBytes: 1}, codes.InvalidArgument},
			{"a negative partition", &linkHello{Worker: "w", Partition: -1, CreditCount: 1, CreditBytes: 1}, codes.InvalidArgument},
			{"no worker", &linkHello{CreditCount: 1, CreditBytes: 1}, codes.FailedPrecondition},
			{"no credit", &linkHello{Worker: "w"}, codes.FailedPrecondition},
		} {
			_, err := w.hello(tt.hello)
			w.refused(tt.name, err, tt.code, "")
		}
		welcome, err := w.hello(&linkHello{Worker: "w", CreditCount: 1, CreditBytes: 1})
		if err != nil || welcome.GetWelcome().GetEpoch() != 1 {
			w.Errorf("welcome is %v, %v", welcome, err)
		}
	})
}

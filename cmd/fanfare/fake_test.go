package main

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const fakeSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// fake answers as a cluster would, from memory: enough for the client's tests
// and no more. Its ids and its clock are the same in every run. An event is
// delivered at once, but to URLs with `flaky` (a retry is due), `down` (so, and
// the breaker opens), `dead` (given up), `gone` (so, and the subscription is
// disabled) or `late` (expired). A replay makes one delivery owed at each look
// at it.
type fake struct {
	fanfarev1.UnimplementedEventServiceServer
	fanfarev1.UnimplementedSubscriptionServiceServer
	fanfarev1.UnimplementedDeliveryServiceServer
	fanfarev1.UnimplementedTenantServiceServer
	fanfarev1.UnimplementedClusterServiceServer

	opened chan struct{} // receives one for each watch; roomier than any test needs
	looked chan struct{} // receives one for a look at a replay, unless it holds one; capacity 1

	mu            sync.Mutex // guards all below
	ticks         int
	events        []*fanfarev1.Event
	subscriptions []*fanfarev1.Subscription
	deliveries    []*fanfarev1.Delivery
	attempts      map[string]*fanfarev1.Attempt // by delivery
	tenants       map[string]*fanfarev1.Tenant
	replays       []*fakeReplay // newest first
	watchers      []chan watched
	faults        map[string][]fault // by method
	requests      map[string]proto.Message
}

// fault makes one call of a method fail.
type fault struct {
	code  codes.Code
	after bool // the call has its effect all the same
}

// watched is what a watcher gets: a change, or its end.
type watched struct {
	change *fanfarev1.WatchDeliveriesResponse
	end    error
}

func newFake() *fake {
	const room = 16
	f := &fake{
		opened:   make(chan struct{}, room),
		looked:   make(chan struct{}, 1),
		attempts: make(map[string]*fanfarev1.Attempt),
		tenants:  make(map[string]*fanfarev1.Tenant),
		faults:   make(map[string][]fault),
		requests: make(map[string]proto.Message),
	}
	f.tenants["default"] = &fanfarev1.Tenant{Name: "tenants/default", CreateTime: f.now()}
	return f
}

// now is one second later at every call.
func (f *fake) now() *timestamppb.Timestamp {
	start := time.Date(2026, time.January, 2, 15, 0, 0, 0, time.UTC)
	f.ticks++
	return timestamppb.New(start.Add(time.Duration(f.ticks) * time.Second))
}

func (f *fake) register(s *grpc.Server) {
	fanfarev1.RegisterEventServiceServer(s, f)
	fanfarev1.RegisterSubscriptionServiceServer(s, f)
	fanfarev1.RegisterDeliveryServiceServer(s, f)
	fanfarev1.RegisterTenantServiceServer(s, f)
	fanfarev1.RegisterClusterServiceServer(s, f)
	fanfarev1.RegisterAlertServiceServer(s, &fakeAlerts{fake: f, rules: make(map[string][]*fanfarev1.AlertRule)})
}

// intercept remembers each request and lets the faults happen.
func (f *fake) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	method := path.Base(info.FullMethod)
	if m, ok := req.(proto.Message); ok {
		f.requests[method] = m
	}
	planned := f.faults[method]
	if len(planned) == 0 {
		return handle(ctx, req)
	}
	f.faults[method] = planned[1:]
	if planned[0].after {
		if _, err := handle(ctx, req); err != nil {
			return nil, err
		}
	}
	return nil, status.Error(planned[0].code, "planned by the test")
}

func (f *fake) plan(method string, planned fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[method] = append(f.faults[method], planned)
}

// lastRequest returns the last request of a method as JSON.
func (f *fake) lastRequest(method string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	req, ok := f.requests[method]
	if !ok {
		return "", fmt.Errorf("nobody called %s", method)
	}
	compact, err := toJSON(req)
	return string(compact) + "\n", err
}

// endWatches ends all watches.
func (f *fake) endWatches(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, watcher := range f.watchers {
		watcher <- watched{end: err}
	}
	f.watchers = nil
}

func invalid(field, description string) error {
	st, err := status.New(codes.InvalidArgument, "the request is not valid").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}},
	})
	if err != nil {
		return err
	}
	return st.Err()
}

func notFound(name string) error { return status.Errorf(codes.NotFound, "there is no %s", name) }

// pageOf cuts a page out of all; the token is an offset.
func pageOf[T any](all []T, size int32, token string) ([]T, string, error) {
	from := 0
	if token != "" {
		n, err := strconv.Atoi(token)
		if err != nil || n > len(all) {
			return nil, "", invalid("page_token", "is not one of ours")
		}
		from = n
	}
	if size == 0 {
		size = 50
	}
	to := min(from+int(size), len(all))
	next := ""
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return all[from:to], next, nil
}

func find[T interface{ GetName() string }](all []T, name string) (int, error) {
	i := slices.IndexFunc(all, func(one T) bool { return one.GetName() == name })
	if i < 0 {
		return 0, notFound(name)
	}
	return i, nil
}

func (f *fake) Publish(_ context.Context, req *fanfarev1.PublishRequest) (*fanfarev1.PublishResponse, error) {
	for i, e := range req.GetEvents() {
		if strings.Contains(e.GetType(), " ") || e.GetType() == "" {
			return nil, invalid(fmt.Sprintf("events[%d].type", i), "must be segments of letters, digits, _ and -")
		}
	}
	answer := &fanfarev1.PublishResponse{}
	for _, e := range req.GetEvents() {
		answer.Results = append(answer.Results, f.publish(req.GetParent(), proto.CloneOf(e)))
	}
	return answer, nil
}

func (f *fake) publish(parent string, e *fanfarev1.Event) *fanfarev1.PublishResult {
	if e.GetId() == "" {
		e.Id = fmt.Sprintf("evt_%d", len(f.events)+1)
	}
	e.Name = parent + "/events/" + e.GetId()
	if _, err := find(f.events, e.GetName()); err == nil {
		return &fanfarev1.PublishResult{Id: e.GetId(), Duplicate: true}
	}
	e.PublishTime = f.now()
	f.events = append(f.events, e)
	for _, s := range f.subscriptions {
		if strings.HasPrefix(s.GetName(), parent+"/") {
			f.deliver(parent, e, s)
		}
	}
	return &fanfarev1.PublishResult{Id: e.GetId()}
}

// deliver makes the one attempt there is, and tells the watchers.
func (f *fake) deliver(parent string, e *fanfarev1.Event, s *fanfarev1.Subscription) {
	d := &fanfarev1.Delivery{
		Name:         fmt.Sprintf("%s/deliveries/dlv_%d", parent, len(f.deliveries)+1),
		Event:        e.GetName(),
		EventType:    e.GetType(),
		Subscription: s.GetName(),
		State:        fanfarev1.Delivery_PENDING,
		CreateTime:   f.now(),
	}
	f.deliveries = append(f.deliveries, d)
	f.tell(&fanfarev1.WatchDeliveriesResponse{Delivery: proto.CloneOf(d)})

	a := &fanfarev1.Attempt{
		Name:       d.GetName() + "/attempts/1",
		Number:     1,
		Result:     fanfarev1.Attempt_DELIVERED,
		StartTime:  f.now(),
		Latency:    durationpb.New(12345 * time.Microsecond),
		StatusCode: 200,
		Worker:     "worker-1",
	}
	d.AttemptCount, d.State = 1, fanfarev1.Delivery_DELIVERED
	switch {
	case strings.Contains(s.GetUrl(), "flaky"), strings.Contains(s.GetUrl(), "down"):
		a.Result, a.StatusCode, a.ErrorClass, a.ResponseBody = fanfarev1.Attempt_RETRY, 503, "status", "busy\x1b[2J\nlater"
		a.NextAttemptTime = f.now()
		d.State, d.NextAttemptTime = fanfarev1.Delivery_PENDING, a.GetNextAttemptTime()
	case strings.Contains(s.GetUrl(), "dead"), strings.Contains(s.GetUrl(), "gone"):
		a.Result, a.StatusCode, a.ErrorClass, a.Error = fanfarev1.Attempt_DEAD, 0, "dns", "no such host"
		d.State, d.EndTime = fanfarev1.Delivery_DEAD, f.now()
	case strings.Contains(s.GetUrl(), "late"):
		a.Result, a.StatusCode, a.ErrorClass = fanfarev1.Attempt_RETRY, 0, "timeout"
		d.State, d.EndTime = fanfarev1.Delivery_EXPIRED, f.now()
	default:
		d.EndTime = f.now()
	}
	d.LastStatusCode, d.LastErrorClass = a.GetStatusCode(), a.GetErrorClass()
	f.attempts[d.GetName()] = a
	f.judge(s)
	f.tell(&fanfarev1.WatchDeliveriesResponse{Delivery: proto.CloneOf(d), Attempt: a})
}

func (f *fake) tell(change *fanfarev1.WatchDeliveriesResponse) {
	for _, watcher := range f.watchers {
		watcher <- watched{change: change}
	}
}

func (f *fake) GetEvent(_ context.Context, req *fanfarev1.GetEventRequest) (*fanfarev1.Event, error) {
	i, err := find(f.events, req.GetName())
	if err != nil {
		return nil, err
	}
	return f.events[i], nil
}

func (f *fake) ListEvents(_ context.Context, req *fanfarev1.ListEventsRequest) (*fanfarev1.ListEventsResponse, error) {
	var all []*fanfarev1.Event
	for _, e := range slices.Backward(f.events) {
		if strings.HasPrefix(e.GetName(), req.GetParent()+"/") && (req.GetType() == "" || req.GetType() == e.GetType()) {
			all = append(all, e)
		}
	}
	events, next, err := pageOf(all, req.GetPageSize(), req.GetPageToken())
	return &fanfarev1.ListEventsResponse{Events: events, NextPageToken: next}, err
}

func (f *fake) CreateSubscription(_ context.Context, req *fanfarev1.CreateSubscriptionRequest) (*fanfarev1.Subscription, error) {
	s := proto.CloneOf(req.GetSubscription())
	if !strings.HasPrefix(s.GetUrl(), "http") {
		return nil, invalid("subscription.url", "must begin with https://")
	}
	s.Name = fmt.Sprintf("%s/subscriptions/sub_%d", req.GetParent(), len(f.subscriptions)+1)
	s.CreateTime = f.now()
	s.UpdateTime = s.GetCreateTime()
	s.State = fanfarev1.Subscription_ACTIVE
	s.Health = &fanfarev1.SubscriptionHealth{}
	if s.PayloadMode == "" {
		s.PayloadMode = "standard"
	}
	f.subscriptions = append(f.subscriptions, s)
	answer := proto.CloneOf(s)
	answer.Secret = new(fakeSecret)
	return answer, nil
}

func (f *fake) GetSubscription(_ context.Context, req *fanfarev1.GetSubscriptionRequest) (*fanfarev1.Subscription, error) {
	i, err := find(f.subscriptions, req.GetName())
	if err != nil {
		return nil, err
	}
	return f.subscriptions[i], nil
}

func (f *fake) GetSubscriptionSecret(_ context.Context, req *fanfarev1.GetSubscriptionSecretRequest) (*fanfarev1.SubscriptionSecret, error) {
	if _, err := find(f.subscriptions, strings.TrimSuffix(req.GetName(), "/secret")); err != nil {
		return nil, err
	}
	return &fanfarev1.SubscriptionSecret{
		Name: req.GetName(), Secret: fakeSecret, Secrets: []*fanfarev1.ActiveSecret{{Secret: fakeSecret}},
	}, nil
}

func (f *fake) RotateSubscriptionSecret(_ context.Context, req *fanfarev1.RotateSubscriptionSecretRequest) (*fanfarev1.SubscriptionSecret, error) {
	if _, err := find(f.subscriptions, strings.TrimSuffix(req.GetName(), "/secret")); err != nil {
		return nil, err
	}
	if req.GetSecret() == "" {
		req.Secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	}
	return &fanfarev1.SubscriptionSecret{Name: req.GetName(), Secret: req.GetSecret(), Secrets: []*fanfarev1.ActiveSecret{
		{Secret: req.GetSecret()}, {Secret: fakeSecret, ExpireTime: f.now()},
	}}, nil
}

func (f *fake) SendTest(_ context.Context, req *fanfarev1.SendTestRequest) (*fanfarev1.SendTestResponse, error) {
	i, err := find(f.subscriptions, req.GetName())
	if err != nil {
		return nil, err
	}
	sent := &fanfarev1.SendTestResponse{
		EventId: "evt_1", Url: f.subscriptions[i].GetUrl(), RequestHeaders: map[string]string{"Webhook-Id": "evt_1", "Content-Type": "application/json"},
		RequestBody: []byte(`{"type":"` + req.GetEventType() + `","data":` + string(req.GetData()) + "}"), Latency: durationpb.New(1500 * time.Microsecond),
		StatusCode: 200, ResponseHeaders: map[string]string{"Server": "fake"}, ResponseBody: []byte("thanks"),
	}
	if strings.Contains(sent.GetUrl(), "down") {
		sent.StatusCode, sent.ResponseBody, sent.ErrorClass, sent.Error = 503, nil, "status", "the endpoint answered 503 Service Unavailable"
	}
	return sent, nil
}

func (f *fake) ListSigningKeys(context.Context, *fanfarev1.ListSigningKeysRequest) (*fanfarev1.ListSigningKeysResponse, error) {
	return &fanfarev1.ListSigningKeysResponse{Keys: []*fanfarev1.SigningKey{{
		Kid: "kPrK_qmx", PublicKey: "whpk_11qY", Subscription: "tenants/default/subscriptions/sub_1",
	}}}, nil
}

func (f *fake) ListSubscriptions(_ context.Context, req *fanfarev1.ListSubscriptionsRequest) (*fanfarev1.ListSubscriptionsResponse, error) {
	page, next, err := pageOf(f.subscriptions, req.GetPageSize(), req.GetPageToken())
	return &fanfarev1.ListSubscriptionsResponse{Subscriptions: page, NextPageToken: next}, err
}

func (f *fake) UpdateSubscription(_ context.Context, req *fanfarev1.UpdateSubscriptionRequest) (*fanfarev1.Subscription, error) {
	i, err := find(f.subscriptions, req.GetSubscription().GetName())
	if err != nil {
		return nil, err
	}
	from, to := req.GetSubscription().ProtoReflect(), f.subscriptions[i].ProtoReflect()
	for _, field := range req.GetUpdateMask().GetPaths() {
		fd := to.Descriptor().Fields().ByName(protoreflect.Name(field))
		if fd == nil {
			return nil, invalid("update_mask", "there is no field "+field)
		}
		to.Clear(fd)
		if from.Has(fd) {
			to.Set(fd, from.Get(fd))
		}
	}
	f.subscriptions[i].UpdateTime = f.now()
	return f.subscriptions[i], nil
}

func (f *fake) DeleteSubscription(_ context.Context, req *fanfarev1.DeleteSubscriptionRequest) (*emptypb.Empty, error) {
	i, err := find(f.subscriptions, req.GetName())
	if err != nil {
		return nil, err
	}
	f.subscriptions = slices.Delete(f.subscriptions, i, i+1)
	return &emptypb.Empty{}, nil
}

// setState pauses, disables or resumes.
func (f *fake) setState(name string, state fanfarev1.Subscription_State, reason string) (*fanfarev1.Subscription, error) {
	i, err := find(f.subscriptions, name)
	if err != nil {
		return nil, err
	}
	s := f.subscriptions[i]
	s.State, s.StateReason, s.StateTime = state, reason, f.now()
	if state == fanfarev1.Subscription_ACTIVE {
		s.StateTime, s.Health = nil, &fanfarev1.SubscriptionHealth{}
	}
	return s, nil
}

// judge says what an attempt tells of the endpoint.
func (f *fake) judge(s *fanfarev1.Subscription) {
	switch {
	case strings.Contains(s.GetUrl(), "down"):
		s.Health = &fanfarev1.SubscriptionHealth{
			OutstandingCount: 1, ConsecutiveFailures: 12, BreakerOpen: true, NextProbeTime: f.now(),
		}
	case strings.Contains(s.GetUrl(), "gone"):
		s.State, s.StateReason, s.StateTime = fanfarev1.Subscription_DISABLED, "the endpoint answered\n410 Gone", f.now()
	}
}

func (f *fake) PauseSubscription(_ context.Context, req *fanfarev1.PauseSubscriptionRequest) (*fanfarev1.Subscription, error) {
	return f.setState(req.GetName(), fanfarev1.Subscription_PAUSED, "paused")
}

func (f *fake) ResumeSubscription(_ context.Context, req *fanfarev1.ResumeSubscriptionRequest) (*fanfarev1.Subscription, error) {
	return f.setState(req.GetName(), fanfarev1.Subscription_ACTIVE, "")
}

func (f *fake) RetryDelivery(_ context.Context, req *fanfarev1.RetryDeliveryRequest) (*fanfarev1.Delivery, error) {
	i, err := find(f.deliveries, req.GetName())
	if err != nil {
		return nil, err
	}
	d := f.deliveries[i]
	if d.GetState() == fanfarev1.Delivery_PENDING || d.GetState() == fanfarev1.Delivery_DELIVERED {
		return nil, status.Errorf(codes.FailedPrecondition, "it is %s", d.GetState())
	}
	f.owe(d)
	return d, nil
}

// owe makes a delivery owed again.
func (f *fake) owe(d *fanfarev1.Delivery) {
	d.State, d.NextAttemptTime, d.EndTime = fanfarev1.Delivery_PENDING, f.now(), nil
}

// fakeReplay is a replay with what it has still to make owed.
type fakeReplay struct {
	*fanfarev1.Replay

	left []*fanfarev1.Delivery
}

// CreateReplay leaves events of type `lost` out.
func (f *fake) CreateReplay(_ context.Context, req *fanfarev1.CreateReplayRequest) (*fanfarev1.Replay, error) {
	r := &fakeReplay{Replay: proto.CloneOf(req.GetReplay())}
	r.Name = fmt.Sprintf("%s/replays/rpl_%d", req.GetParent(), len(f.replays)+1)
	r.State, r.CreateTime = fanfarev1.Replay_RUNNING, f.now()
	if len(r.GetStates()) == 0 {
		r.States = []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED}
	}
	for _, d := range f.deliveries {
		if !strings.HasSuffix(d.GetSubscription(), r.GetSubscription()) || !slices.Contains(r.GetStates(), d.GetState()) {
			continue
		}
		r.MatchedCount++
		if d.GetEventType() == "lost" {
			r.SkippedCount++
		} else {
			r.left = append(r.left, d)
		}
	}
	f.replays = slices.Insert(f.replays, 0, r)
	return proto.CloneOf(r.Replay), nil
}

// GetReplay goes on with the replay, unless its patterns say `stuck`. It is
// done at the look after its last delivery.
func (f *fake) GetReplay(_ context.Context, req *fanfarev1.GetReplayRequest) (*fanfarev1.Replay, error) {
	i, err := find(f.replays, req.GetName())
	if err != nil {
		return nil, err
	}
	r := f.replays[i]
	switch {
	case r.GetState() != fanfarev1.Replay_RUNNING || slices.Contains(r.GetEventTypes(), "stuck"):
	case len(r.left) == 0:
		r.State, r.FinishTime = fanfarev1.Replay_DONE, f.now()
	default:
		f.owe(r.left[0])
		r.left = r.left[1:]
		r.ReplayedCount++
	}
	select {
	case f.looked <- struct{}{}:
	default:
	}
	return proto.CloneOf(r.Replay), nil
}

func (f *fake) ListReplays(_ context.Context, req *fanfarev1.ListReplaysRequest) (*fanfarev1.ListReplaysResponse, error) {
	page, next, err := pageOf(f.replays, req.GetPageSize(), req.GetPageToken())
	response := &fanfarev1.ListReplaysResponse{NextPageToken: next}
	for _, r := range page {
		response.Replays = append(response.Replays, r.Replay)
	}
	return response, err
}

func (f *fake) CancelReplay(_ context.Context, req *fanfarev1.CancelReplayRequest) (*fanfarev1.Replay, error) {
	i, err := find(f.replays, req.GetName())
	if err != nil {
		return nil, err
	}
	if r := f.replays[i]; r.GetState() == fanfarev1.Replay_RUNNING {
		r.State, r.FinishTime = fanfarev1.Replay_CANCELLED, f.now()
	}
	return f.replays[i].Replay, nil
}

func (f *fake) GetDelivery(_ context.Context, req *fanfarev1.GetDeliveryRequest) (*fanfarev1.Delivery, error) {
	i, err := find(f.deliveries, req.GetName())
	if err != nil {
		return nil, err
	}
	return f.deliveries[i], nil
}

func (f *fake) ListDeliveries(_ context.Context, req *fanfarev1.ListDeliveriesRequest) (*fanfarev1.ListDeliveriesResponse, error) {
	var all []*fanfarev1.Delivery
	for _, d := range slices.Backward(f.deliveries) {
		if d.GetCreateTime().AsTime().Before(req.GetStartTime().AsTime()) {
			continue
		}
		if (req.GetState() == 0 || req.GetState() == d.GetState()) &&
			strings.HasSuffix(d.GetSubscription(), req.GetSubscription()) &&
			strings.HasSuffix(d.GetEvent(), req.GetEvent()) {
			all = append(all, d)
		}
	}
	page, next, err := pageOf(all, req.GetPageSize(), req.GetPageToken())
	return &fanfarev1.ListDeliveriesResponse{Deliveries: page, NextPageToken: next}, err
}

func (f *fake) ListAttempts(_ context.Context, req *fanfarev1.ListAttemptsRequest) (*fanfarev1.ListAttemptsResponse, error) {
	a, ok := f.attempts[req.GetParent()]
	if !ok {
		return nil, notFound(req.GetParent())
	}
	return &fanfarev1.ListAttemptsResponse{Attempts: []*fanfarev1.Attempt{a}}, nil
}

func (f *fake) WatchDeliveries(
	req *fanfarev1.WatchDeliveriesRequest, stream grpc.ServerStreamingServer[fanfarev1.WatchDeliveriesResponse],
) error {
	const room = 64 // more than any test sends
	changes := make(chan watched, room)
	f.mu.Lock()
	f.watchers = append(f.watchers, changes)
	f.mu.Unlock()
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	f.opened <- struct{}{}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case next := <-changes:
			if next.change == nil {
				return next.end
			}
			if !strings.HasSuffix(next.change.GetDelivery().GetSubscription(), req.GetSubscription()) {
				continue
			}
			if err := stream.Send(next.change); err != nil {
				return err
			}
		}
	}
}

func (f *fake) CreateTenant(_ context.Context, req *fanfarev1.CreateTenantRequest) (*fanfarev1.Tenant, error) {
	if _, ok := f.tenants[req.GetTenantId()]; ok {
		return nil, status.Errorf(codes.AlreadyExists, "tenant %s exists", req.GetTenantId())
	}
	t := proto.CloneOf(req.GetTenant())
	t.Name, t.CreateTime = "tenants/"+req.GetTenantId(), f.now()
	f.tenants[req.GetTenantId()] = t
	return t, nil
}

func (f *fake) GetTenant(_ context.Context, req *fanfarev1.GetTenantRequest) (*fanfarev1.Tenant, error) {
	t, ok := f.tenants[lastPart(req.GetName())]
	if !ok {
		return nil, notFound(req.GetName())
	}
	return t, nil
}

func (f *fake) ListTenants(_ context.Context, req *fanfarev1.ListTenantsRequest) (*fanfarev1.ListTenantsResponse, error) {
	var all []*fanfarev1.Tenant
	for _, id := range slices.Sorted(maps.Keys(f.tenants)) {
		all = append(all, f.tenants[id])
	}
	page, next, err := pageOf(all, req.GetPageSize(), req.GetPageToken())
	return &fanfarev1.ListTenantsResponse{Tenants: page, NextPageToken: next}, err
}

func (f *fake) DeleteTenant(_ context.Context, req *fanfarev1.DeleteTenantRequest) (*emptypb.Empty, error) {
	id := lastPart(req.GetName())
	if _, ok := f.tenants[id]; !ok {
		return nil, notFound(req.GetName())
	}
	if id == "default" {
		return nil, status.Error(codes.FailedPrecondition, "the tenant default stays")
	}
	delete(f.tenants, id)
	return &emptypb.Empty{}, nil
}

// DrainMember knows one member.
func (f *fake) DrainMember(_ context.Context, r *fanfarev1.DrainMemberRequest) (*fanfarev1.Member, error) {
	if r.GetMember() != "worker-1" {
		return nil, status.Errorf(codes.NotFound, "member %q does not exist", r.GetMember())
	}
	return &fanfarev1.Member{Id: "worker-1", Role: "worker", Draining: !r.GetUndo(), Shards: 2}, nil
}

// DescribeCluster always answers the same.
func (f *fake) DescribeCluster(context.Context, *fanfarev1.DescribeClusterRequest) (*fanfarev1.Cluster, error) {
	const cluster = `{
		"members": [
			{"id": "coord-1", "role": "coordinator", "address": "127.0.0.1:7400", "version": "1.2.3", "startTime": "2026-01-02T15:00:00Z",
			 "partitions": 1},
			{"id": "worker-1", "role": "worker", "version": "1.2.3", "startTime": "2026-01-02T15:00:01Z", "draining": true, "shards": 2}
		],
		"partitions": [
			{"id": 0, "leader": "coord-1", "epoch": 3, "firstSequence": 7, "lastSequence": 1024, "logBytes": 5767168,
			 "tenants": 1, "subscriptions": 12, "outstanding": 4, "inFlight": 2, "oldestOutstandingTime": "2026-01-02T15:00:02Z"},
			{"id": 1, "chosen": "coord-1"}
		],
		"shards": [
			{"partition": 0, "slot": 0, "worker": "worker-1", "epoch": 9, "attached": true, "subscriptions": 5, "inFlight": 1},
			{"partition": 0, "slot": 1, "worker": "worker-1", "epoch": 9, "attached": false, "subscriptions": 7, "inFlight": 1},
			{"partition": 1, "slot": 0}
		],
		"engines": [{"name": "nats", "description": "embedded", "sync": "always"}],
		"problems": ["partition 1 has no leader"]
	}`
	c := &fanfarev1.Cluster{}
	return c, protojson.Unmarshal([]byte(cluster), c)
}

package serve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	"github.com/fanfare-dev/fanfare/internal/telemetry"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Of the world's two partitions, acme and default are in different ones.
const (
	partitions = 2
	slots      = 2
	tenant     = "tenants/default"
)

// world is a coordinator in a bubble, on a log and a cluster in memory and a
// history in SQLite, and its clients. Time passes only while everybody waits.
type world struct {
	*testing.T
	logs    *eventlog.Memory
	members *cluster.MemoryClient
	conn    *grpc.ClientConn
	client  *http.Client

	events        fanfarev1.EventServiceClient
	subscriptions fanfarev1.SubscriptionServiceClient
	deliveries    fanfarev1.DeliveryServiceClient
	tenants       fanfarev1.TenantServiceClient
	cluster       fanfarev1.ClusterServiceClient

	tested testedEndpoint

	ends []func() error // in the order of beginning
}

// inWorld runs a test in a world of its own.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.end()
		test(w)
	})
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, logs: eventlog.NewMemory(), members: cluster.NewMemory().Client()}
	store, err := history.OpenSQLite(t.Context(), t.TempDir()+"/history.db")
	if err != nil {
		t.Fatal(err)
	}
	w.ends = append(w.ends, store.Close)
	measured, err := telemetry.New(t.Context(), telemetry.Config{Version: "v0-test"})
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := sealed.New(bytes.Repeat([]byte{7}, sealed.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	onGRPC, onHTTP := bufconn.Listen(1<<20), newPipes()
	c := coordinator.New(coordinator.Config{
		Member: cluster.MemberConfig{
			Info:   cluster.Info{ID: "coordinator-1", Role: cluster.Coordinator, Address: "coordinator-1:7400", Version: "v0-test"},
			Clock:  cluster.MonotonicClock(),
			Logger: logger,
		},
		Cluster: w.members, Logs: w.logs, History: store, Secrets: secrets, URLs: onlyHTTPS{}, Tester: &w.tested, Logger: logger,
		Meter: measured.Meter(), Metrics: measured.Handler(), GRPC: onGRPC, HTTP: onHTTP,
		Partitions: partitions, Slots: slots,
		Engines: func() ([]*fanfarev1.Engine, []string) {
			return []*fanfarev1.Engine{{Name: "nats", Description: "memory", Sync: "never"}}, nil
		},
	})
	w.run(c)
	w.connect(onGRPC, onHTTP)
	<-c.Ready()
	// Both ways in are open.
	must[*fanfarev1.Cluster](w)(w.cluster.DescribeCluster(w.Context(), &fanfarev1.DescribeClusterRequest{}))
	w.do(http.MethodGet, "/v1/cluster", "")
	return w
}

func (w *world) run(c *coordinator.Coordinator) {
	// It ends in its turn, not with the test's context.
	ctx, stop := context.WithCancel(context.WithoutCancel(w.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	w.ends = append(w.ends, func() error { stop(); return <-ended })
}

func (w *world) connect(onGRPC *bufconn.Listener, onHTTP *pipes) {
	w.Helper()
	dial := func(ctx context.Context, _ string) (net.Conn, error) { return onGRPC.DialContext(ctx) }
	conn, err := grpc.NewClient("passthrough:///world",
		grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.Fatal(err)
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return onHTTP.dial(ctx) },
	}
	w.ends = append(w.ends, conn.Close, func() error { transport.CloseIdleConnections(); return nil })
	w.conn, w.client = conn, &http.Client{Transport: transport}
	w.events = fanfarev1.NewEventServiceClient(conn)
	w.subscriptions = fanfarev1.NewSubscriptionServiceClient(conn)
	w.deliveries = fanfarev1.NewDeliveryServiceClient(conn)
	w.tenants = fanfarev1.NewTenantServiceClient(conn)
	w.cluster = fanfarev1.NewClusterServiceClient(conn)
}

func (w *world) end() {
	w.Helper()
	for _, end := range slices.Backward(w.ends) {
		if err := end(); err != nil {
			w.Errorf("ending the world: %v", err)
		}
	}
}

// pipes is a listener of connections that are net.Pipes. Those of bufconn do
// not keep to deadlines that are set and taken back at once, as net/http does.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once // guards the closing of closed
}

func newPipes() *pipes { return &pipes{dialled: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.dialled <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialled:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "pipes"} }

// onlyHTTPS allows https, to everywhere but one host.
type onlyHTTPS struct{}

func (onlyHTTPS) CheckURL(url string) error {
	if !strings.HasPrefix(url, "https://") || strings.HasPrefix(url, "https://denied.") {
		return errors.New("endpoints are elsewhere")
	}
	return nil
}

// must fails the test if there is an error, and returns what there is else.
func must[T any](w *world) func(T, error) T {
	return func(value T, err error) T {
		w.Helper()
		if err != nil {
			w.Fatal(err)
		}
		return value
	}
}

// publish publishes events of these types and returns their ids.
func (w *world) publish(parent string, types ...string) []string {
	w.Helper()
	request := &fanfarev1.PublishRequest{Parent: parent}
	for _, eventType := range types {
		request.Events = append(request.Events, &fanfarev1.Event{Type: eventType, Data: []byte(`{}`)})
	}
	ids := make([]string, 0, len(types))
	for _, result := range must[*fanfarev1.PublishResponse](w)(w.events.Publish(w.Context(), request)).GetResults() {
		ids = append(ids, result.GetId())
	}
	return ids
}

// subscribe makes a subscription.
func (w *world) subscribe(parent string, patterns ...string) *fanfarev1.Subscription {
	w.Helper()
	return must[*fanfarev1.Subscription](w)(w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
		Parent: parent, Subscription: &fanfarev1.Subscription{Url: "https://example.com/hook", EventTypes: patterns},
	}))
}

// refused checks that an error has a code, names a field, and says something.
func (w *world) refused(what string, err error, code codes.Code, field string) {
	w.Helper()
	s, ok := status.FromError(err)
	if !ok || s.Code() != code || s.Message() == "" {
		w.Errorf("%s: %v, want %s", what, err, code)
		return
	}
	got := ""
	for _, detail := range s.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			got = bad.GetFieldViolations()[0].GetField()
		}
	}
	if got != field {
		w.Errorf("%s: %v names the field %q, want %q", what, err, got, field)
	}
}

// answer is what came back over HTTP.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// do makes a request; headers are names and values.
func (w *world) do(method, path, body string, headers ...string) answer {
	w.Helper()
	request, err := http.NewRequestWithContext(w.Context(), method, "http://world"+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := w.client.Do(request)
	if err != nil {
		w.Fatal(err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		w.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, read}
}

// object returns the answer's body, a JSON object.
func (a answer) object(w *world) map[string]any {
	w.Helper()
	var object map[string]any
	if err := json.Unmarshal(a.body, &object); err != nil {
		w.Fatalf("the body %q is no JSON object: %v", a.body, err)
	}
	return object
}

// list returns a list of objects in the answer's body.
func (a answer) list(w *world, name string) []map[string]any {
	w.Helper()
	var lists map[string]json.RawMessage
	var list []map[string]any
	if err := errors.Join(json.Unmarshal(a.body, &lists), json.Unmarshal(lists[name], &list)); a.code >= http.StatusBadRequest || err != nil {
		w.Fatalf("%d %s has no list %s: %v", a.code, a.body, name, err)
	}
	return list
}

// refusedHTTP checks that an answer is an error as the gateway writes it.
func (w *world) refusedHTTP(what string, a answer, code int, field string) {
	w.Helper()
	var body struct {
		Code    int
		Message string
		Details []struct {
			FieldViolations []struct{ Field string }
		}
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Message == "" || body.Code == 0 {
		w.Errorf("%s: the body is %q", what, a.body)
		return
	}
	got := ""
	if len(body.Details) > 0 && len(body.Details[0].FieldViolations) > 0 {
		got = body.Details[0].FieldViolations[0].Field
	}
	if a.code != code || got != field {
		w.Errorf("%s: %d %s (field %q), want %d and the field %q", what, a.code, body.Message, got, code, field)
	}
}

// attach runs a worker for one partition, until the test ends: each delivery
// is made what the last segment of its event's type says: delivered, dead, or
// retried in an hour; else it stays in hand.
func (w *world) attach(partition int32) {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	stream := must[grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]](w)(
		linkv1.NewLinkServiceClient(w.conn).Attach(ctx))
	send := func(request *linkv1.AttachRequest) {
		if err := stream.Send(request); err != nil {
			w.Errorf("worker: %v", err)
		}
	}
	send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{
		Worker: "worker-1", Incarnation: "a", Partition: partition, CreditCount: 100, CreditBytes: 1 << 20,
	}}})
	for slot := range int32(slots) {
		send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Claim{Claim: &linkv1.Claim{Slot: slot, Epoch: 1}}})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for number := uint64(1); ; {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			if outcomes := judge(response.GetDispatch()); len(outcomes) > 0 {
				send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Outcomes{Outcomes: &linkv1.OutcomeBatch{Number: number, Outcomes: outcomes}}})
				number++
			}
		}
	}()
	w.ends = append(w.ends, func() error { stop(); <-ended; return nil })
}

// judge returns what a worker reports of a dispatch.
func judge(dispatch *linkv1.Dispatch) []*linkv1.Outcome {
	event := new(fanfarev1.Event)
	if err := proto.Unmarshal(dispatch.GetEvent(), event); err != nil {
		return nil
	}
	verdict := event.GetType()[strings.LastIndex(event.GetType(), ".")+1:]
	var outcomes []*linkv1.Outcome
	for _, target := range dispatch.GetTargets() {
		now := time.Now()
		outcome := &linkv1.Outcome{
			Subscription: target.GetSubscription(), Sequence: dispatch.GetSequence(), Index: dispatch.GetIndex(),
			Attempt: target.GetAttempt(), StartTimeUnixMs: now.UnixMilli(), LatencyUs: 1500,
		}
		switch verdict {
		case "delivered":
			outcome.Kind, outcome.StatusCode, outcome.ResponseBody = linkv1.Outcome_DELIVERED, 204, []byte("thanks")
		case "dead":
			outcome.Kind, outcome.StatusCode, outcome.ErrorClass = linkv1.Outcome_DEAD, 400, "status"
		case "retry":
			outcome.Kind, outcome.ErrorClass, outcome.Error = linkv1.Outcome_RETRY, "timeout", "took too long"
			outcome.NextTimeUnixMs = now.Add(time.Hour).UnixMilli()
		default:
			continue
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes
}

var _ serve.URLPolicy = onlyHTTPS{}

type linkHello = linkv1.Hello

// hello opens a session, and returns the first that the leader says.
func (w *world) hello(hello *linkHello) (*linkv1.AttachResponse, error) {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	defer stop()
	stream := must[grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]](w)(
		linkv1.NewLinkServiceClient(w.conn).Attach(ctx))
	request := &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Release{Release: &linkv1.Release{}}}
	if hello != nil {
		request.Message = &linkv1.AttachRequest_Hello{Hello: hello}
	}
	if err := stream.Send(request); err != nil {
		return nil, err
	}
	return stream.Recv()
}

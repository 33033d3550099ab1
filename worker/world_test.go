package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// patience is how long a test waits, in virtual time, for what must come.
const patience = time.Hour

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// world is a bubble with a cluster in memory, leaders that tests speak for,
// endpoints, and one worker.
type world struct {
	t      *testing.T
	memory *cluster.Memory
	assign *cluster.MemoryClient // the test's own way to the store
	store  *cluster.MemoryClient // the worker's
	client *egress.Client
	stop   context.CancelFunc // ends the worker's Run
	done   chan error         // receives what Run returned

	mu    sync.Mutex
	dials map[string]func(context.Context) (net.Conn, error) // guarded by mu; by address
}

// newWorld makes a world. It must be called in a bubble, and everything in it
// ends with the bubble.
func newWorld(t *testing.T) *world {
	memory := cluster.NewMemory()
	w := &world{
		t: t, memory: memory, assign: memory.Client(), store: memory.Client(),
		done: make(chan error, 1), dials: make(map[string]func(context.Context) (net.Conn, error)),
	}
	w.client = egress.NewClient(egress.Config{
		Policy: egress.Policy{AllowHTTP: true},
		Dial:   func(ctx context.Context, _, address string) (net.Conn, error) { return w.dial(ctx, address) },
	})
	t.Cleanup(w.client.CloseIdle)
	return w
}

func (w *world) dial(ctx context.Context, address string) (net.Conn, error) {
	w.mu.Lock()
	dial, ok := w.dials[address]
	w.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Err: errors.New("nobody listens at " + address)}
	}
	return dial(ctx)
}

func (w *world) listen(address string, dial func(context.Context) (net.Conn, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials[address] = dial
}

// start runs a worker named w1 until the test ends or calls finish.
func (w *world) start(change func(*Config)) {
	config := Config{
		ID:      "w1",
		Version: "1.2",
		Store:   w.store,
		Client:  w.client,
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(w.dial),
		},
		LeaseClock: cluster.MonotonicClock(),
		Logger:     slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Random:     low,
	}
	if change != nil {
		change(&config)
	}
	worker, err := New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	w.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.done <- worker.Run(ctx)
	}()
	w.t.Cleanup(func() { stop(); <-ended })
}

// finish ends the worker politely and waits for it.
func (w *world) finish() {
	w.t.Helper()
	w.stop()
	w.await(w.done)
}

func (w *world) await(done <-chan error) {
	w.t.Helper()
	if err := <-done; err != nil {
		w.t.Errorf("Run: %v", err)
	}
}

// lease waits until the worker has joined with a lease other than before, and
// returns it.
func (w *world) lease(before cluster.LeaseID) cluster.LeaseID {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for view := range w.assign.Watch(ctx, cluster.MembersPrefix) {
		if len(view) == 1 && view[0].Lease != before {
			return view[0].Lease
		}
	}
	w.t.Fatal("the worker has not joined")
	return 0
}

// member returns what the worker says of itself.
func (w *world) member() cluster.Info {
	w.t.Helper()
	view, err := w.assign.List(w.t.Context(), cluster.MemberKey("w1"))
	if err != nil || len(view) != 1 {
		w.t.Fatalf("the member's keys are %v, %v", view, err)
	}
	info, err := cluster.DecodeValue[cluster.Info](view[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return info
}

// give gives shards to the worker, on its lease, and returns the epoch of the
// last.
func (w *world) give(lease cluster.LeaseID, partition int, slots ...int) int64 {
	w.t.Helper()
	var epoch int64
	for _, slot := range slots {
		epoch = w.put(cluster.ShardKey(cluster.Shard{Partition: partition, Slot: slot}), cluster.MemberID("w1"), lease)
	}
	return epoch
}

// take takes shards away again.
func (w *world) take(partition int, slots ...int) {
	w.t.Helper()
	for _, slot := range slots {
		key := cluster.ShardKey(cluster.Shard{Partition: partition, Slot: slot})
		if _, err := w.assign.Delete(w.t.Context(), key, w.revision(key)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) revision(key string) int64 {
	w.t.Helper()
	view, err := w.assign.List(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, entry := range view {
		if entry.Key == key {
			return entry.Revision
		}
	}
	return 0
}

// put sets a key to a value, whatever it was.
func (w *world) put(key string, value any, lease cluster.LeaseID) int64 {
	w.t.Helper()
	var encoded []byte
	var err error
	switch v := value.(type) {
	case cluster.MemberID:
		encoded, err = cluster.EncodeValue(v)
	case cluster.PartitionReady:
		encoded, err = cluster.EncodeValue(v)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	revision, ok, err := w.assign.Put(w.t.Context(), key, encoded, lease, w.revision(key))
	if err != nil || !ok {
		w.t.Fatalf("Put(%s) = %v, %v", key, ok, err)
	}
	return revision
}

// leader serves LinkService for one partition at one address. Its sessions are
// taken, one after the other, by accept.
type leader struct {
	linkv1.UnimplementedLinkServiceServer
	w         *world
	partition int
	epoch     uint64
	sessions  chan *peer
	refuse    chan error // an error here refuses one session
}

// lead starts a leader and makes it ready.
func (w *world) lead(partition int, address string, epoch uint64) *leader {
	w.t.Helper()
	const buffer = 1 << 20
	l := &leader{w: w, partition: partition, epoch: epoch, sessions: make(chan *peer), refuse: make(chan error, 1)}
	listener := bufconn.Listen(buffer)
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval / 2}))
	linkv1.RegisterLinkServiceServer(server, l)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	w.t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			w.t.Errorf("Serve: %v", err)
		}
	})
	w.listen(address, listener.DialContext)
	w.put(cluster.PartitionReadyKey(partition), cluster.PartitionReady{Address: address, Epoch: epoch}, cluster.NoLease)
	return l
}

// Attach passes the session to the test and lasts until the test cuts it or
// the worker goes.
func (l *leader) Attach(stream grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	select {
	case err := <-l.refuse:
		return err
	default:
	}
	p := &peer{t: l.w.t, stream: stream, received: make(chan *linkv1.AttachRequest), cut: make(chan error, 1), gone: make(chan error, 1)}
	select {
	case l.sessions <- p:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	var receiver sync.WaitGroup
	receiver.Go(p.receive)
	select {
	case err := <-p.cut:
		return err
	case err := <-p.gone:
		p.ended(err)
		receiver.Wait()
		return nil
	}
}

// peer is the leader's end of a session, in the hands of the test.
type peer struct {
	t        *testing.T
	stream   grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]
	received chan *linkv1.AttachRequest // closed when the worker has gone
	cut      chan error                 // ends the session with this error
	gone     chan error                 // how the worker's side ended

	mu  sync.Mutex
	end error // guarded by mu; io.EOF: the worker said goodbye
}

func (p *peer) receive() {
	defer close(p.received)
	for {
		m, err := p.stream.Recv()
		if err != nil {
			p.gone <- err
			return
		}
		select {
		case p.received <- m:
		case <-p.stream.Context().Done():
			p.gone <- p.stream.Context().Err()
			return
		}
	}
}

func (p *peer) ended(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = err
}

// accept waits for the next session and its Hello.
func (l *leader) accept() (*peer, *linkv1.Hello) {
	l.w.t.Helper()
	select {
	case p := <-l.sessions:
		hello := p.next().GetHello()
		if hello == nil {
			l.w.t.Fatal("the first message is no Hello")
		}
		return p, hello
	case <-time.After(patience):
		l.w.t.Fatal("the worker has not attached")
		return nil, nil
	}
}

// welcome accepts a session, takes n claims, and answers each with the given
// endpoints of its slot.
func (l *leader) welcome(claims int, endpoints map[int32][]*linkv1.Endpoint) (*peer, []*linkv1.Claim) {
	l.w.t.Helper()
	p, _ := l.accept()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{
		Epoch: l.epoch, OutcomeIntervalMs: 20, OutcomeBatch: 256,
	}}})
	var list []*linkv1.Claim
	for range claims {
		claim := p.claim()
		list = append(list, claim)
		p.snapshot(claim, endpoints[claim.GetSlot()]...)
	}
	return p, list
}

// next waits for the worker's next message.
func (p *peer) next() *linkv1.AttachRequest {
	p.t.Helper()
	select {
	case m, ok := <-p.received:
		if !ok {
			p.t.Fatal("the worker has ended the session")
		}
		return m
	case <-time.After(patience):
		p.t.Fatal("the worker says nothing")
		return nil
	}
}

func (p *peer) claim() *linkv1.Claim {
	p.t.Helper()
	m := p.next()
	if m.GetClaim() == nil {
		p.t.Fatalf("message is %v, want a Claim", m)
	}
	return m.GetClaim()
}

func (p *peer) release() *linkv1.Release {
	p.t.Helper()
	m := p.next()
	if m.GetRelease() == nil {
		p.t.Fatalf("message is %v, want a Release", m)
	}
	return m.GetRelease()
}

func (p *peer) outcomes() *linkv1.OutcomeBatch {
	p.t.Helper()
	m := p.next()
	if m.GetOutcomes() == nil {
		p.t.Fatalf("message is %v, want outcomes", m)
	}
	return m.GetOutcomes()
}

// collect takes outcome batches until it has n outcomes, says that they are
// durable, and returns the outcomes.
func (p *peer) collect(n int) []*linkv1.Outcome {
	p.t.Helper()
	var list []*linkv1.Outcome
	for len(list) < n {
		batch := p.outcomes()
		list = append(list, batch.GetOutcomes()...)
		p.durable(batch.GetNumber())
	}
	return list
}

// silent checks that the worker says nothing for d.
func (p *peer) silent(d time.Duration) {
	p.t.Helper()
	select {
	case m, ok := <-p.received:
		p.t.Fatalf("the worker said %v (%v)", m, ok)
	case <-time.After(d):
	}
}

// goodbye waits until the worker has ended the session politely.
func (p *peer) goodbye() {
	p.t.Helper()
	select {
	case m, ok := <-p.received:
		if ok {
			p.t.Fatalf("message is %v, want the end of the session", m)
		}
	case <-time.After(patience):
		p.t.Fatal("the worker has not ended the session")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil && !errors.Is(p.end, io.EOF) {
		p.t.Errorf("the session ended with %v, want EOF", p.end)
	}
}

// broken waits until the worker has torn the session down.
func (p *peer) broken() {
	p.t.Helper()
	for {
		select {
		case _, ok := <-p.received:
			if !ok {
				return
			}
		case <-time.After(patience):
			p.t.Fatal("the worker has not ended the session")
		}
	}
}

func (p *peer) send(m *linkv1.AttachResponse) {
	p.t.Helper()
	if err := p.stream.Send(m); err != nil {
		p.t.Fatalf("Send: %v", err)
	}
}

func (p *peer) snapshot(c *linkv1.Claim, endpoints ...*linkv1.Endpoint) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Snapshot{Snapshot: &linkv1.ShardSnapshot{
		Slot: c.GetSlot(), Epoch: c.GetEpoch(), Endpoints: endpoints, Complete: true,
	}}})
}

func (p *peer) change(delta *linkv1.SubscriptionDelta) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Delta{Delta: delta}})
}

// dispatch sends event number sequence to subscriptions, as their first
// attempt.
func (p *peer) dispatch(sequence uint64, subscriptions ...uint64) {
	p.t.Helper()
	d := pingDispatch(p.t, sequence)
	for _, subscription := range subscriptions {
		d.Targets = append(d.Targets, &linkv1.Target{Subscription: subscription, Attempt: 1, Step: 1})
	}
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Dispatch{Dispatch: d}})
}

// pingDispatch is a dispatch of event evt_<sequence>, without targets.
func pingDispatch(t *testing.T, sequence uint64) *linkv1.Dispatch {
	t.Helper()
	d := dispatchOf(t, &fanfarev1.Event{Id: "evt_" + strconv.FormatUint(sequence, 10), Type: "ping", Data: []byte(`{"n":1}`)})
	d.Sequence = sequence
	return d
}

func (p *peer) durable(number uint64) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Durable{Durable: &linkv1.Durable{Number: number}}})
}

// pipes is a listener without sockets.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// serve runs an HTTP server at http://host.
func (w *world) serve(host string, handler http.Handler) {
	w.t.Helper()
	listener := newPipes()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	w.t.Cleanup(func() {
		w.client.CloseIdle()
		if err := server.Close(); err != nil {
			w.t.Errorf("Close: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			w.t.Errorf("Serve: %v", err)
		}
	})
	w.listen(host+":80", listener.dial)
}

// hook is an endpoint that answers every request as the test says: it passes
// each to the test and waits for the status.
type hook struct {
	t        *testing.T
	requests chan *hooked
}

// hooked is a request that waits for its answer.
type hooked struct {
	header http.Header
	body   []byte
	answer chan int
}

// hook serves a hook at http://host.
func (w *world) hook(host string) *hook {
	h := &hook{t: w.t, requests: make(chan *hooked)}
	w.serve(host, h)
	return h
}

func (h *hook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		h.t.Errorf("reading request: %v", err)
	}
	request := &hooked{header: r.Header, body: body, answer: make(chan int, 1)}
	select {
	case h.requests <- request:
	case <-r.Context().Done():
		return
	}
	select {
	case status := <-request.answer:
		rw.WriteHeader(status)
	case <-r.Context().Done():
	}
}

// next waits for a request.
func (h *hook) next() *hooked {
	h.t.Helper()
	select {
	case r := <-h.requests:
		return r
	case <-time.After(patience):
		h.t.Fatal("no request came")
		return nil
	}
}

// silent checks that no request comes for d.
func (h *hook) silent(d time.Duration) {
	h.t.Helper()
	select {
	case r := <-h.requests:
		h.t.Fatalf("request %s came", r.header.Get("Webhook-Id"))
	case <-time.After(d):
	}
}

// kinds tells outcomes as "sequence KIND", in order of sequence.
func kinds(outcomes []*linkv1.Outcome) []string {
	var list []string
	for _, o := range outcomes {
		list = append(list, strconv.FormatUint(o.GetSequence(), 10)+" "+o.GetKind().String())
	}
	slices.Sort(list)
	return list
}

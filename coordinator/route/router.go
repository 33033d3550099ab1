package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// DefaultPatience is how long an entry looks for a leader that takes the
	// call: longer than a handover, shorter than a failover.
	DefaultPatience = 2 * time.Second
	// MaxHops is how often one call is forwarded at most.
	MaxHops = 2
	// DefaultForwardTimeout bounds a forwarded call that has no deadline and is
	// no stream.
	DefaultForwardTimeout = 30 * time.Second

	// lookAgain is the longest wait before the entry looks again although it
	// has heard nothing of a change.
	lookAgain = 100 * time.Millisecond
	// wayBack is what an entry keeps of a call's time for itself, at most; of a
	// short one it keeps a tenth.
	wayBack = 100 * time.Millisecond

	// hopsHeader counts how often a call was forwarded.
	hopsHeader = "fanfare-hops"
	// principalHeader says for whom it was: for logs and traces, since the
	// entry has decided already that they may.
	principalHeader = "fanfare-principal"
	// ownPrefix is what Fanfare's own metadata begins with. None of a client's
	// is passed on.
	ownPrefix = "fanfare-"
)

// Directory knows where partitions are led.
type Directory interface {
	Locate(partition int) Place
}

// Place is where a partition is led.
type Place struct {
	Here    bool   // in this process, or nobody else could say more
	Address string // elsewhere; empty: nobody leads it, as far as is known
	// Moved is closed when any of this is no longer so.
	Moved <-chan struct{}
}

// Config is what a router needs. Zero values of the limits are the defaults.
type Config struct {
	Directory   Directory
	Partitions  int
	PartitionOf func(tenant string) int
	// DialOptions are how other coordinators are dialled: transport credentials
	// at the least. Without any, nothing is forwarded.
	DialOptions     []grpc.DialOption
	MaxReceiveBytes int // of an answer
	Patience        time.Duration
	ForwardTimeout  time.Duration
	// Principal returns the name of who makes a call; nil: it is not passed on.
	Principal func(context.Context) string
	// NewID makes an id for an event that has none.
	NewID func() (string, error)
}

// Router forwards calls. Its interceptors belong after those that decide who
// may call, and before the one that makes statuses of the handlers' errors.
type Router struct {
	config  Config
	methods map[string]*method
	pool    *pool
}

// New returns a router. Close must be called.
func New(config Config) *Router {
	config.Patience = cmp.Or(config.Patience, DefaultPatience)
	config.ForwardTimeout = cmp.Or(config.ForwardTimeout, DefaultForwardTimeout)
	return &Router{config: config, methods: methods(), pool: newPool(config.DialOptions, config.MaxReceiveBytes)}
}

// Close ends the connections to others, and what is under way on them.
func (r *Router) Close() error { return r.pool.close() }

// Unary is the interceptor of calls that are no streams.
func (r *Router) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m := r.methods[info.FullMethod]
	message, ok := request.(proto.Message)
	if m == nil || !ok {
		return handler(ctx, request)
	}
	partition, ok := m.about(message, r.config)
	if !ok {
		return handler(ctx, request)
	}
	c := &call{router: r, method: m, name: info.FullMethod, partition: partition, hops: hopsOf(ctx)}
	var response any
	err := c.insist(ctx, c.repeatable(message), func(place Place) (o outcome) {
		if place.Here {
			response, o.err = handler(ctx, request)
			o.sent = true
			return o
		}
		response, o = c.forward(ctx, place, message)
		return o
	})
	return response, err
}

// call is one call on its way to the leader.
type call struct {
	router    *Router
	method    *method
	name      string
	partition int
	hops      int
	named     []int // events that were given their ids here
}

// repeatable returns whether the call may be made twice, which for events
// depends on their ids.
func (c *call) repeatable(request proto.Message) func() bool {
	if !c.method.publishes {
		return func() bool { return c.method.safe }
	}
	return func() bool {
		for _, event := range request.(*fanfarev1.PublishRequest).GetEvents() {
			if event.GetId() == "" {
				return false
			}
		}
		return true
	}
}

// insist tries until it succeeds, fails for good, or Patience is over.
func (c *call) insist(ctx context.Context, safe func() bool, try func(Place) outcome) error {
	patience := time.NewTimer(c.router.config.Patience)
	defer patience.Stop()
	for {
		place := c.router.config.Directory.Locate(c.partition)
		o := c.refuse(place)
		if o.err == nil {
			if o = try(place); o.err == nil || !o.again(safe()) {
				return o.err
			}
		}
		if c.hops > 0 { // whoever sent it looks again
			return o.err
		}
		again := time.NewTimer(lookAgain)
		select {
		case <-place.Moved:
		case <-again.C:
		case <-patience.C:
			again.Stop()
			return o.err
		case <-ctx.Done():
			again.Stop()
			return o.err
		}
		again.Stop()
	}
}

// refuse says why a call cannot be made just now; nothing if it can.
func (c *call) refuse(place Place) outcome {
	switch {
	case place.Here:
		return outcome{}
	case place.Address == "":
		return outcome{err: Unavailable(ReasonNotLeader, fmt.Sprintf("partition %d has no leader just now; try again", c.partition))}
	case c.hops >= MaxHops || len(c.router.config.DialOptions) == 0:
		return outcome{err: Unavailable(ReasonNotLeader, fmt.Sprintf("partition %d is led at %s", c.partition, place.Address))}
	default:
		return outcome{}
	}
}

// forward makes the call at a leader elsewhere.
func (c *call) forward(ctx context.Context, place Place, request proto.Message) (any, outcome) {
	conn, err := c.router.pool.get(place.Address)
	if err != nil {
		return nil, outcome{err: Unavailable("", err.Error())}
	}
	if err := c.nameEvents(request); err != nil {
		return nil, outcome{err: status.Error(codes.Internal, err.Error())}
	}
	outgoing, cancel := c.outgoing(ctx, place)
	defer cancel()
	bounded, stop := c.router.budget(outgoing)
	defer stop()
	response := c.method.response.New().Interface()
	var at peer.Peer
	var header, trailer metadata.MD
	err = conn.Invoke(bounded, c.name, request, response, grpc.Peer(&at), grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		return nil, outcome{err: explain(outgoing, c.partition, place.Address, err), sent: at.Addr != nil}
	}
	_ = grpc.SetHeader(ctx, passable(header)) // fails only where there is nobody to be told
	_ = grpc.SetTrailer(ctx, trailer)
	c.unmark(response)
	return response, outcome{sent: true}
}

// nameEvents gives ids to events that have none, once: with them the call may be
// made again.
func (c *call) nameEvents(request proto.Message) error {
	if !c.method.publishes {
		return nil
	}
	for i, event := range request.(*fanfarev1.PublishRequest).GetEvents() {
		if event == nil || event.GetId() != "" {
			continue
		}
		id, err := c.router.config.NewID()
		if err != nil {
			return err
		}
		event.Id = id
		c.named = append(c.named, i)
	}
	return nil
}

// unmark takes back that an event was a duplicate which got its id here: it
// is one of this very call.
func (c *call) unmark(response proto.Message) {
	published, ok := response.(*fanfarev1.PublishResponse)
	for _, i := range c.named {
		if ok && i < len(published.GetResults()) {
			published.Results[i].Duplicate = false
		}
	}
}

// outgoing returns the context of a forwarded call. It ends when the place is
// no longer right, with errMoved as its cause: another leader is ready, and
// this one will do nothing more that counts.
func (c *call) outgoing(ctx context.Context, place Place) (context.Context, context.CancelFunc) {
	md, _ := metadata.FromIncomingContext(ctx)
	md = passable(md)
	md.Set(hopsHeader, strconv.Itoa(c.hops+1))
	if principal := c.router.config.Principal; principal != nil {
		if c.hops > 0 { // said by the entry
			md.Set(principalHeader, metadata.ValueFromIncomingContext(ctx, principalHeader)...)
		} else {
			md.Set(principalHeader, principal(ctx))
		}
	}
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(ctx, md))
	go func() {
		select {
		case <-place.Moved:
			cancel(errMoved)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// budget bounds a call so that its answer is back in time.
func (r *Router) budget(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, r.config.ForwardTimeout)
	}
	left := time.Until(deadline)
	return context.WithTimeout(ctx, left-min(left/10, wayBack))
}

// passable returns a copy of a call's metadata without what belongs to one
// connection: the trace context, among others, goes on.
func passable(md metadata.MD) metadata.MD {
	out := make(metadata.MD, len(md))
	for key, values := range md {
		switch {
		case strings.HasPrefix(key, ":"), strings.HasPrefix(key, ownPrefix), strings.HasPrefix(key, "grpc-") && key != "grpc-trace-bin",
			key == "content-type", key == "user-agent", key == "authorization", key == "te":
		default:
			out[key] = values
		}
	}
	return out
}

// hopsOf returns how often a call was forwarded to here.
func hopsOf(ctx context.Context) int {
	values := metadata.ValueFromIncomingContext(ctx, hopsHeader)
	if len(values) == 0 {
		return 0
	}
	hops, err := strconv.Atoi(values[0])
	if err != nil || hops < 0 {
		return MaxHops
	}
	return hops
}

// Stream is the interceptor of streams.
func (r *Router) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m := r.methods[info.FullMethod]
	if m == nil {
		return handler(server, stream)
	}
	first := m.request.New().Interface()
	received := stream.RecvMsg(first)
	partition, ok := 0, false
	if received == nil {
		partition, ok = m.about(first, r.config)
	}
	if !ok {
		return handler(server, &begun{ServerStream: stream, first: first, err: received})
	}
	c := &call{router: r, method: m, name: info.FullMethod, partition: partition, hops: hopsOf(stream.Context())}
	return c.insist(stream.Context(), func() bool { return false }, func(place Place) outcome {
		if place.Here {
			here := &begun{ServerStream: stream, first: first}
			err := handler(server, here)
			return outcome{err: err, sent: true, final: m.streamsIn || here.said}
		}
		return c.relay(stream, place, first)
	})
}

// begun is a stream whose first message was received already.
type begun struct {
	grpc.ServerStream

	first proto.Message // nil once it was passed on
	err   error         // what came instead of it
	said  bool          // the client has been told something
}

// SendHeader implements grpc.ServerStream.
func (b *begun) SendHeader(header metadata.MD) error {
	b.said = true
	return b.ServerStream.SendHeader(header)
}

// SendMsg implements grpc.ServerStream.
func (b *begun) SendMsg(m any) error {
	b.said = true
	return b.ServerStream.SendMsg(m)
}

// RecvMsg implements grpc.ServerStream.
func (b *begun) RecvMsg(m any) error {
	if b.first == nil {
		return b.ServerStream.RecvMsg(m)
	}
	first := b.first
	b.first = nil
	if b.err != nil {
		return b.err
	}
	into, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "receiving into a %T", m)
	}
	proto.Merge(into, first)
	return nil
}

// relay joins a client's stream to one at the leader, until either ends.
func (c *call) relay(stream grpc.ServerStream, place Place, first proto.Message) outcome {
	conn, err := c.router.pool.get(place.Address)
	if err != nil {
		return outcome{err: Unavailable("", err.Error())}
	}
	outgoing, cancel := c.outgoing(stream.Context(), place)
	defer cancel()
	var at peer.Peer
	far, err := conn.NewStream(outgoing, &grpc.StreamDesc{ServerStreams: true, ClientStreams: c.method.streamsIn}, c.name, grpc.Peer(&at))
	if err != nil {
		return outcome{err: explain(outgoing, c.partition, place.Address, err)}
	}
	begun, err := c.converse(stream, far, first)
	return outcome{err: explain(outgoing, c.partition, place.Address, err), sent: at.Addr != nil, final: begun}
}

// converse passes messages on in both directions. It reports whether the
// client may have been told anything, or have said more than was kept.
func (c *call) converse(stream grpc.ServerStream, far grpc.ClientStream, first proto.Message) (begun bool, err error) {
	if err := far.SendMsg(first); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if c.method.streamsIn {
		begun = true
		go pump(stream, far, c.method) // receiving ends with the stream, which ends when this returns
	} else if err := far.CloseSend(); err != nil {
		return false, err
	}
	for {
		if !begun {
			header, err := far.Header()
			if err != nil {
				return false, err
			}
			if header != nil { // else Recv says why the leader sent none
				begun = true
				if err := stream.SendHeader(passable(header)); err != nil {
					return true, err
				}
			}
		}
		message := c.method.response.New().Interface()
		if err := far.RecvMsg(message); err != nil {
			stream.SetTrailer(far.Trailer())
			if errors.Is(err, io.EOF) {
				return true, nil
			}
			return begun, err
		}
		if err := stream.SendMsg(message); err != nil {
			return true, err
		}
		begun = true
	}
}

// pump passes on what the client sends, until it has sent all or the stream
// has ended.
func pump(stream grpc.ServerStream, far grpc.ClientStream, m *method) {
	for {
		message := m.request.New().Interface()
		if stream.RecvMsg(message) != nil {
			_ = far.CloseSend() // if it is not what the client did, the stream has ended anyway
			return
		}
		if far.SendMsg(message) != nil {
			return // Recv says why
		}
	}
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

const (
	// minBackoff and maxBackoff bound the pause before the next session after
	// one that failed. It doubles from one to the other, and is varied like
	// the waits of a schedule. After a session of at least maxBackoff it
	// begins anew.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
	// connectTimeout bounds connecting to a leader.
	connectTimeout = 5 * time.Second
	// welcomeTimeout bounds the wait for Welcome, connecting included.
	welcomeTimeout = 10 * time.Second
	// closeTimeout bounds the wait for the leader to end a session in which
	// the worker has nothing left to say.
	closeTimeout = time.Second
	// pingInterval and pingTimeout find connections whose other end has gone
	// without a word. The leader's server must permit pings as frequent.
	pingInterval = 20 * time.Second
	pingTimeout  = 10 * time.Second

	// defaultOutcomeInterval and defaultOutcomeBatch are the pace of outcomes
	// where the leader sets none.
	defaultOutcomeInterval = 20 * time.Millisecond
	defaultOutcomeBatch    = 256

	// slack times its credit is what a worker takes. A leader spends credit
	// again when it knows that an outcome is durable, which may be a moment
	// before the worker does, and it learns what an event weighs only when it
	// sends it.
	slack = 2
	// overrun times its credit is how many deliveries a leader may send before
	// the worker ends the session: it pays no heed to credit at all.
	overrun = 4
	// idleWait is how long a session sleeps with nothing to send; anything
	// that changes that rouses it.
	idleWait = time.Hour
)

// errProtocol: the leader has said something that the protocol does not allow.
var errProtocol = errors.New("protocol broken")

// session is one Attach stream. Any error ends it whole.
type session struct {
	agent  *agent
	cancel context.CancelCauseFunc
	wake   chan struct{} // capacity 1; has send look again

	closing atomic.Bool // the worker has said all

	// The rest is guarded by the agent's mu.

	welcomed bool                    // the leader has answered
	outgoing []*linkv1.AttachRequest // in the order in which they must be sent
	interval time.Duration           // 0: the default
	batch    int                     // 0: the default

	granted     uint64 // bytes that the leader was last told
	takesCredit bool   // it can be told anew
}

// run keeps a session with the partition's leader open whenever there is a
// reason to, until ctx ends.
func (a *agent) run(ctx context.Context) {
	pause := minBackoff
	for ctx.Err() == nil {
		select {
		case <-a.wake: // what it was for is about to be seen
		default:
		}
		leader, wanted := a.wanted()
		if !wanted {
			pause = minBackoff
			a.sleep(ctx, idleWait)
			continue
		}
		begin := time.Now()
		err := a.attach(ctx, leader.Address)
		if errors.Is(err, errLeaderMoved) || errors.Is(err, errNothingLeft) || ctx.Err() != nil {
			pause = minBackoff
			continue
		}
		if time.Since(begin) >= maxBackoff {
			pause = minBackoff
		}
		a.link.logger.WarnContext(ctx, "link broken", "leader", leader.Coordinator, "address", leader.Address, "error", err)
		a.sleep(ctx, a.link.jitter.spread(pause))
		pause = min(2*pause, maxBackoff)
	}
}

// sleep waits until something changes that run should know of, at most for d.
func (a *agent) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.wake:
	case <-ctx.Done():
	}
}

// attach opens one session and returns why it ended.
func (a *agent) attach(ctx context.Context, address string) error {
	conn, err := grpc.NewClient("passthrough:///"+address, a.options()...)
	if err != nil {
		return fmt.Errorf("dialling leader: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	err = a.converse(ctx, cancel, linkv1.NewLinkServiceClient(conn))
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	if closeErr := conn.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("closing connection: %w", closeErr)
	}
	return err
}

// options returns how a leader is dialled. The caller's come last, and win.
func (a *agent) options() []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
	}, a.link.dialOptions...)
}

// converse runs one session: one goroutine sends, this one receives.
func (a *agent) converse(ctx context.Context, cancel context.CancelCauseFunc, client linkv1.LinkServiceClient) error {
	late := time.AfterFunc(welcomeTimeout, func() { cancel(errors.New("leader sent no welcome in time")) })
	defer late.Stop()
	stream, err := client.Attach(ctx)
	if err != nil {
		return fmt.Errorf("attaching: %w", err)
	}
	s := a.begin(cancel)
	defer a.finish()
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() { s.send(ctx, stream) })

	err = s.receive(stream, late)
	cancel(err) // ends send
	return err
}

// send sends what the agent has to say until the stream breaks, which receive
// hears the reason of, or there is nothing left to say.
func (s *session) send(ctx context.Context, stream linkv1.LinkService_AttachClient) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		messages, wait, done := s.agent.next(s)
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				s.cancelUnlessReceived(err)
				return
			}
		}
		if done {
			s.close(ctx, stream)
			return
		}
		if len(messages) > 0 {
			continue // there may be more by now
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// cancelUnlessReceived ends the session after an error of Send. io.EOF means
// that the stream has ended, and that Recv returns why.
func (s *session) cancelUnlessReceived(err error) {
	if !errors.Is(err, io.EOF) {
		s.cancel(fmt.Errorf("sending: %w", err))
	}
}

// close says goodbye and gives the leader a moment to do so too, since ending
// a stream at once may overtake what was sent last.
func (s *session) close(ctx context.Context, stream linkv1.LinkService_AttachClient) {
	s.closing.Store(true)
	if err := stream.CloseSend(); err != nil {
		s.cancel(fmt.Errorf("closing stream: %w", err))
		return
	}
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	s.cancel(errNothingLeft)
}

// receive handles what the leader says until the stream ends, which is always
// for a reason.
func (s *session) receive(stream linkv1.LinkService_AttachClient, late *time.Timer) error {
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("receiving welcome: %w", err)
	}
	late.Stop()
	if first.GetWelcome() == nil {
		return fmt.Errorf("%w: first message of the leader is %T", errProtocol, first.GetMessage())
	}
	if err := s.agent.welcome(s, first.GetWelcome()); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) && s.closing.Load() {
			return errNothingLeft
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		if err := s.agent.handle(m); err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
	}
}

// handle takes one message of the leader's after the first.
func (a *agent) handle(response *linkv1.AttachResponse) error {
	switch m := response.GetMessage().(type) {
	case *linkv1.AttachResponse_Snapshot:
		a.snapshot(m.Snapshot)
	case *linkv1.AttachResponse_Delta:
		a.change(m.Delta)
	case *linkv1.AttachResponse_Dispatch:
		return a.dispatchAll(m.Dispatch)
	case *linkv1.AttachResponse_Dispatches:
		return a.dispatchAll(m.Dispatches.GetDispatches()...)
	case *linkv1.AttachResponse_Durable:
		return a.durable(m.Durable.GetNumber())
	case *linkv1.AttachResponse_Welcome:
		return errors.New("second welcome")
	case nil:
		// A kind of message that this version does not know: the leader is
		// newer, and sends nothing that old workers cannot do without.
	}
	return nil
}

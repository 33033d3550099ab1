package sim

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/test/bufconn"
)

// pipeBytes is how much a connection of gRPC holds in each direction. Without
// any its two ends, which both begin by writing, would wait for one another.
const pipeBytes = 64 << 10

// network joins hosts by pipes. A host is a process or an endpoint, by its
// name. Safe for concurrent use.
type network struct {
	mu        sync.Mutex
	listeners map[string]listener      // guarded by mu; :: address
	conns     map[*conn]struct{}       // guarded by mu; those that are open
	cuts      map[pair]struct{}        // guarded by mu
	stalls    map[string]chan struct{} // guarded by mu; :: host; closed when it goes on
}

// pair is two hosts, in either order; cut puts both orders in.
type pair struct{ from, to string }

// listener is where a host can be reached.
type listener struct {
	host string
	dial func(context.Context) (net.Conn, error)
}

func newNetwork() *network {
	return &network{
		listeners: make(map[string]listener),
		conns:     make(map[*conn]struct{}),
		cuts:      make(map[pair]struct{}),
		stalls:    make(map[string]chan struct{}),
	}
}

// listenGRPC makes a listener of a host at an address, in place of an earlier
// one.
func (n *network) listenGRPC(host, address string) net.Listener {
	l := bufconn.Listen(pipeBytes)
	n.place(address, listener{host, l.DialContext})
	return l
}

// listenHTTP is listenGRPC for HTTP servers, which depend on deadlines that are
// exact, as those of net.Pipe are and those of bufconn are not.
func (n *network) listenHTTP(host, address string) net.Listener {
	l := newPipes()
	n.place(address, listener{host, l.dial})
	return l
}

func (n *network) place(address string, l listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[address] = l
}

// dial connects a host to an address.
func (n *network) dial(ctx context.Context, from, address string) (net.Conn, error) {
	n.mu.Lock()
	l, found := n.listeners[address]
	n.mu.Unlock()
	if !found {
		return nil, refused(address)
	}
	inner, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, network: n, between: pair{from, l.host}, closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, cut := n.cuts[c.between]; cut {
		_ = inner.Close() // nobody has it yet
		return nil, refused(address)
	}
	n.conns[c] = struct{}{}
	return c, nil
}

func refused(address string) error {
	return &net.OpError{Op: "dial", Net: "pipe", Err: fmt.Errorf("nobody can be reached at %s", address)}
}

// cut breaks all connections between two hosts, and allows no new ones.
func (n *network) cut(a, b string) {
	n.mu.Lock()
	n.cuts[pair{a, b}] = struct{}{}
	n.cuts[pair{b, a}] = struct{}{}
	var broken []*conn
	for c := range n.conns {
		if c.between == (pair{a, b}) || c.between == (pair{b, a}) {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		_ = c.Close() // breaking it is all there is to do
	}
}

// mend is the inverse of cut.
func (n *network) mend(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, pair{a, b})
	delete(n.cuts, pair{b, a})
}

// stall lets nothing pass that goes to or comes from a host.
func (n *network) stall(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stalls[host] == nil {
		n.stalls[host] = make(chan struct{})
	}
}

// unstall is the inverse of stall.
func (n *network) unstall(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if stalled := n.stalls[host]; stalled != nil {
		close(stalled)
		delete(n.stalls, host)
	}
}

func (n *network) stalled(host string) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stalls[host]
}

// conn is the dialler's end of a connection.
type conn struct {
	net.Conn
	network *network
	between pair
	once    sync.Once
	closed  chan struct{}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.pass()
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	c.pass()
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
	return c.Conn.Close()
}

// pass waits while one of the two hosts is stalled.
func (c *conn) pass() {
	for _, host := range []string{c.between.from, c.between.to} {
		if stalled := c.network.stalled(host); stalled != nil {
			select {
			case <-stalled:
			case <-c.closed:
			}
		}
	}
}

// pipes is a listener whose connections are those of net.Pipe.
type pipes struct {
	conns  chan net.Conn // capacity 0: a connection is made when it is accepted
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

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

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

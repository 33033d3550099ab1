package sim

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/test/bufconn"
)

// pipeBytes is how much a connection holds in each direction.
const pipeBytes = 64 << 10

// network joins hosts by pipes. A host is a process or an endpoint, by its
// name. Safe for concurrent use.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener     // guarded by mu; :: address
	conns     map[*conn]struct{}       // guarded by mu; those that are open
	cuts      map[pair]struct{}        // guarded by mu
	stalls    map[string]chan struct{} // guarded by mu; :: host; closed when it goes on
}

// pair is two hosts, in either order; cut puts both orders in.
type pair struct{ from, to string }

type listener struct {
	*bufconn.Listener
	host string
}

func newNetwork() *network {
	return &network{
		listeners: make(map[string]*listener),
		conns:     make(map[*conn]struct{}),
		cuts:      make(map[pair]struct{}),
		stalls:    make(map[string]chan struct{}),
	}
}

// listen makes a listener of a host at an address, in place of an earlier one.
func (n *network) listen(host, address string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{bufconn.Listen(pipeBytes), host}
	n.listeners[address] = l
	return l
}

// dial connects a host to an address.
func (n *network) dial(ctx context.Context, from, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, refused(address)
	}
	inner, err := l.DialContext(ctx)
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

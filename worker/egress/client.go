package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// What a Client does unless its Config says otherwise.
const (
	// DefaultDialTimeout bounds resolving a name and connecting, over all its
	// addresses.
	DefaultDialTimeout = 10 * time.Second
	// DefaultTLSHandshakeTimeout bounds the TLS handshake.
	DefaultTLSHandshakeTimeout = 10 * time.Second
	// DefaultIdleTimeout is less than the 60 s after which common load
	// balancers drop an idle connection, so that it is this end that closes
	// it, and no request is sent into a connection that is just going away.
	DefaultIdleTimeout = 50 * time.Second
	// DefaultMaxIdle is the number of idle connections kept in all, by each of
	// the two ways to send: directly, and by net/http.
	DefaultMaxIdle = 2048
	// DefaultMaxIdlePerHost is the number of idle connections kept for one
	// host and port.
	DefaultMaxIdlePerHost = 64
	// DefaultMaxConnsPerHost is the number of connections to one host and
	// port. Requests beyond it wait for one to become free.
	DefaultMaxConnsPerHost = 256
	// DefaultMaxResponseHeaderBytes bounds the head of a response.
	DefaultMaxResponseHeaderBytes = 64 << 10
)

// Limits that are not for configuration.
const (
	// pingAfter and pingTimeout find HTTP/2 connections whose other end has
	// gone without a word. Without them every request to that host would
	// share the dead connection until TCP gives it up after many minutes.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
	// tlsSessions is how many hosts' TLS sessions are kept for resumption.
	tlsSessions = 1024
)

// DialFunc connects to address, a host and port, over network, which is "tcp".
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config is how a Client is made. The zero value is the default; numbers and
// durations that are not positive stand for the constant of the same name.
type Config struct {
	// Policy says where requests may go.
	Policy Policy

	DialTimeout            time.Duration
	TLSHandshakeTimeout    time.Duration
	IdleTimeout            time.Duration
	MaxIdle                int
	MaxIdlePerHost         int
	MaxConnsPerHost        int
	MaxResponseHeaderBytes int64

	// RootCAs are the authorities trusted to vouch for endpoints. nil means
	// the system's.
	RootCAs *x509.CertPool
	// Resolver looks names up. nil means the system's. What it answers is
	// checked by the Policy like every other address.
	Resolver *net.Resolver
	// Dial replaces the network, for tests without sockets. The Policy then
	// sees only hosts that are addresses: what a name leads to is up to Dial.
	Dial DialFunc
	// Proxy is the way to all endpoints; nil means that there is none. The
	// environment is never asked for one.
	Proxy *Proxy
	// MeterProvider takes the client's metrics; nil takes none.
	MeterProvider metric.MeterProvider
}

// Observer is told of each host and port that a connection is to be made to, and
// of the address at which.
type Observer = func(host string, at netip.Addr)

// Client sends requests to endpoints and keeps connections to them for the
// next ones. It speaks HTTP/1.1 and HTTP/2, TLS from version 1.2 on, and takes
// a proxy from its Config only. It is safe for concurrent use.
type Client struct {
	config    Config
	dial      DialFunc // guarded
	observer  atomic.Pointer[Observer]
	transport *http.Transport
	direct    *direct // nil: everything goes by the transport
	requests  metric.Int64Counter
	dials     metric.Int64Counter
	open      metric.Int64UpDownCounter
}

// NewClient returns a Client. It does no work: connections are made as they
// are needed.
func NewClient(cfg Config) *Client {
	c := &Client{config: cfg}
	c.dial = c.guardedDial()
	c.measure()
	c.transport = c.newTransport(nil)
	if canBeQuiet && cfg.Proxy == nil {
		c.direct = c.newDirect()
	}
	return c
}

// newDirect returns what sends requests directly, within the same limits.
func (c *Client) newDirect() *direct {
	return &direct{
		dial:        c.connectDirect,
		headBytes:   c.transport.MaxResponseHeaderBytes,
		perHost:     c.transport.MaxConnsPerHost,
		idlePerHost: c.transport.MaxIdleConnsPerHost,
		idleMost:    c.transport.MaxIdleConns,
		idleTimeout: c.transport.IdleConnTimeout,
		hosts:       make(map[origin]*directHost),
		first:       make(map[string]struct{}),
	}
}

// connectDirect makes a connection that speaks HTTP/1.1.
func (c *Client) connectDirect(ctx context.Context, to origin) (net.Conn, error) {
	if !to.secure {
		return c.connect(ctx, "tcp", to.address)
	}
	conn, err := c.connectTLS(ctx, "tcp", to.address, c.transport.TLSClientConfig)
	if err != nil {
		return nil, err
	}
	if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
		return nil, errors.Join(errHTTP2, secure.NetConn().Close())
	}
	return conn, nil
}

// Observe has f called whenever a connection is about to be made, after the
// guard has allowed it, by the goroutine that makes it. It takes the place of an
// earlier one.
func (c *Client) Observe(f Observer) { c.observer.Store(&f) }

func (c *Client) observe(host string, at netip.Addr) {
	if f := c.observer.Load(); f != nil {
		(*f)(host, at)
	}
}

// measure makes the client's metrics. How often a connection is used again is
// what requests exceed connections by.
func (c *Client) measure() {
	provider := c.config.MeterProvider
	if provider == nil {
		provider = noop.NewMeterProvider()
	}
	meter := provider.Meter("github.com/fanfare-dev/fanfare/worker/egress")
	var errs [3]error
	c.requests, errs[0] = meter.Int64Counter("fanfare.egress.requests",
		metric.WithDescription("Requests to endpoints."), metric.WithUnit("{request}"))
	c.dials, errs[1] = meter.Int64Counter("fanfare.egress.connections",
		metric.WithDescription("Connections made to endpoints, or not, by what came of it."), metric.WithUnit("{connection}"))
	c.open, errs[2] = meter.Int64UpDownCounter("fanfare.egress.open_connections",
		metric.WithDescription("Connections to endpoints that are open, in use or idle."), metric.WithUnit("{connection}"))
	for _, err := range errs {
		if err != nil {
			otel.Handle(err) // of a name that cannot be; the instrument works all the same
		}
	}
}

// newTransport returns a transport for a Profile, which may be nil, with
// connections of its own.
func (c *Client) newTransport(p *Profile) *http.Transport {
	cfg := c.config
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            cfg.RootCAs,
		ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessions),
		NextProtos:         []string{"h2", "http/1.1"},
	}
	if p != nil && p.RootCAs != nil {
		config.RootCAs = p.RootCAs
	}
	if p != nil && p.Certificate != nil {
		config.Certificates = []tls.Certificate{*p.Certificate}
	}
	return &http.Transport{
		Proxy:       nil, // a Config.Proxy is asked where connections are made
		DialContext: c.connect,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.connectTLS(ctx, network, address, config)
		},
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		TLSClientConfig:        config,
		IdleConnTimeout:        positive(cfg.IdleTimeout, DefaultIdleTimeout),
		MaxIdleConns:           positive(cfg.MaxIdle, DefaultMaxIdle),
		MaxIdleConnsPerHost:    positive(cfg.MaxIdlePerHost, DefaultMaxIdlePerHost),
		MaxConnsPerHost:        positive(cfg.MaxConnsPerHost, DefaultMaxConnsPerHost),
		MaxResponseHeaderBytes: positive(cfg.MaxResponseHeaderBytes, DefaultMaxResponseHeaderBytes),
		DisableCompression:     true, // nobody wants the body enough to unpack it
	}
}

// connect makes a connection, and counts it.
func (c *Client) connect(ctx context.Context, network, address string) (net.Conn, error) {
	timeout, _ := profileOf(ctx).timeouts()
	ctx = context.WithValue(ctx, dialledKey{}, address)
	limited, cancel := context.WithTimeout(ctx, positive(timeout, positive(c.config.DialTimeout, DefaultDialTimeout)))
	defer cancel()
	conn, err := c.dial(limited, network, address)
	if err != nil {
		c.dialled(ctx, err)
		return nil, err
	}
	c.dialled(ctx, nil)
	c.open.Add(ctx, 1)
	return &countedConn{Conn: conn, closed: func() { c.open.Add(context.WithoutCancel(ctx), -1) }}, nil
}

func (c *Client) dialled(ctx context.Context, err error) {
	result := "ok"
	if err != nil {
		result = string(Classify(err))
	}
	c.dials.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
}

// countedConn is a connection that says once when it is closed.
type countedConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// connectTLS makes a connection and does the TLS handshake on it.
func (c *Client) connectTLS(ctx context.Context, network, address string, config *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &DeniedError{Target: address, Reason: "it is not a host and port"}
	}
	conn, err := c.connect(ctx, network, address)
	if err != nil {
		return nil, err
	}
	_, timeout := profileOf(ctx).timeouts()
	limited, cancel := context.WithTimeout(ctx, positive(timeout, positive(c.config.TLSHandshakeTimeout, DefaultTLSHandshakeTimeout)))
	defer cancel()
	config = config.Clone() // shares the sessions
	config.ServerName = host
	secure := tls.Client(conn, config)
	if err := handshake(limited, secure); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if c.direct != nil {
		c.direct.learn(address, secure.ConnectionState().NegotiatedProtocol)
	}
	return secure, nil
}

// handshake does the TLS handshake, and tells who traces the request, as the
// transport would.
func handshake(ctx context.Context, conn *tls.Conn) error {
	traced := httptrace.ContextClientTrace(ctx)
	if traced != nil && traced.TLSHandshakeStart != nil {
		traced.TLSHandshakeStart()
	}
	err := conn.HandshakeContext(ctx)
	if traced != nil && traced.TLSHandshakeDone != nil {
		traced.TLSHandshakeDone(conn.ConnectionState(), err)
	}
	return err
}

// Do sends a request and returns the response, whatever its status: a redirect
// is an answer like any other and is not followed. The request's context
// bounds everything, reading the response's body included; Do itself sets no
// time limit. The caller closes the body, and if it has read it to its end the
// connection is used again.
//
// Do may send a request a second time only if the server can not have acted on
// the first, because the connection was closed before a byte of it was
// written, or the server says that it did not look at it. Of what an error is,
// see Classify; a *DeniedError means that nothing was sent.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	// Checked again here, since the policy may be stricter than it was when
	// the subscription was made.
	err := c.config.Policy.checkScheme(req.URL.Scheme)
	if err == nil {
		err = c.config.Policy.CheckHost(req.URL.Hostname())
	}
	if err != nil {
		if req.Body != nil {
			err = errors.Join(err, req.Body.Close()) // as the transport would
		}
		return nil, err
	}
	c.requests.Add(req.Context(), 1)
	profile := profileOf(req.Context())
	if c.direct != nil && !profile.ownTransport() && c.direct.takes(req) {
		resp, err := c.direct.roundTrip(req)
		if !errors.Is(err, errHTTP2) {
			return resp, err
		}
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	// The transport itself and not an http.Client around it, which would
	// follow redirects and put the URL, with what secrets it has, into every
	// error.
	return c.transportOf(profile).RoundTrip(req)
}

// CloseIdle closes the connections that no request uses just now.
func (c *Client) CloseIdle() {
	c.transport.CloseIdleConnections()
	if c.direct != nil {
		c.direct.closeIdle()
	}
}

// dialledKey is what the context of a dial has the host and port under that are
// dialled, for those who only hear of addresses.
type dialledKey struct{}

// guardedDial returns the function that makes connections, with the guard in
// it. What it is called with bounds how long it takes.
func (c *Client) guardedDial() DialFunc {
	cfg := c.config
	if cfg.Proxy != nil {
		return cfg.proxyDialer(c.observe).connect
	}
	if cfg.Dial != nil {
		return cfg.dialReplaced(c.observe)
	}
	dialer := &net.Dialer{Resolver: cfg.Resolver, ControlContext: c.control}
	return dialer.DialContext
}

func (cfg Config) proxyDialer(observe Observer) *proxyDialer {
	resolver := cfg.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	dial := cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &proxyDialer{
		proxy: cfg.Proxy, policy: cfg.Policy, lookup: resolver.LookupNetIP, dial: dial, observe: observe,
		tls: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs, ServerName: cfg.Proxy.host},
	}
}

// dialReplaced guards what can be guarded when the network is not ours.
func (cfg Config) dialReplaced(observe Observer) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if target, err := netip.ParseAddrPort(address); err == nil {
			if err := cfg.Policy.CheckAddr(target.Addr()); err != nil {
				return nil, err
			}
			observe(address, target.Addr())
		}
		return cfg.Dial(ctx, network, address)
	}
}

// control is called by net.Dialer for every socket, before it connects, with
// the address that it is to connect to.
func (c *Client) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return &DeniedError{Target: address, Reason: "it is not an address and port"}
	}
	if err := c.config.Policy.CheckAddr(target.Addr()); err != nil {
		return err
	}
	if host, ok := ctx.Value(dialledKey{}).(string); ok {
		c.observe(host, target.Addr())
	}
	return nil
}

// positive returns value, or fallback if value is not positive.
func positive[T cmp.Ordered](value, fallback T) T {
	var zero T
	if value > zero {
		return value
	}
	return fallback
}

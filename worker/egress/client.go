package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
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
	// DefaultMaxIdle is the number of idle connections kept in all.
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
}

// Client sends requests to endpoints and keeps connections to them for the
// next ones. It speaks HTTP/1.1 and HTTP/2, TLS from version 1.2 on, and takes
// no proxy from the environment. It is safe for concurrent use.
type Client struct {
	policy    Policy
	transport *http.Transport
}

// NewClient returns a Client. It does no work: connections are made as they
// are needed.
func NewClient(cfg Config) *Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &Client{
		policy: cfg.Policy,
		transport: &http.Transport{
			Proxy:                  nil, // a proxy would connect where the guard does not see it
			DialContext:            cfg.dial(),
			Protocols:              protocols,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
			TLSClientConfig:        cfg.tls(),
			TLSHandshakeTimeout:    positive(cfg.TLSHandshakeTimeout, DefaultTLSHandshakeTimeout),
			IdleConnTimeout:        positive(cfg.IdleTimeout, DefaultIdleTimeout),
			MaxIdleConns:           positive(cfg.MaxIdle, DefaultMaxIdle),
			MaxIdleConnsPerHost:    positive(cfg.MaxIdlePerHost, DefaultMaxIdlePerHost),
			MaxConnsPerHost:        positive(cfg.MaxConnsPerHost, DefaultMaxConnsPerHost),
			MaxResponseHeaderBytes: positive(cfg.MaxResponseHeaderBytes, DefaultMaxResponseHeaderBytes),
			DisableCompression:     true, // nobody wants the body enough to unpack it
		},
	}
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
	if err := c.policy.checkScheme(req.URL.Scheme); err != nil {
		if req.Body != nil {
			err = errors.Join(err, req.Body.Close()) // as the transport would
		}
		return nil, err
	}
	// The transport itself and not an http.Client around it, which would
	// follow redirects and put the URL, with what secrets it has, into every
	// error.
	return c.transport.RoundTrip(req)
}

// CloseIdle closes the connections that no request uses just now.
func (c *Client) CloseIdle() {
	c.transport.CloseIdleConnections()
}

// dial returns the function that makes connections, with the guard in it.
func (cfg Config) dial() DialFunc {
	timeout := positive(cfg.DialTimeout, DefaultDialTimeout)
	if cfg.Dial != nil {
		return cfg.dialReplaced(timeout)
	}
	dialer := &net.Dialer{
		Timeout:        timeout,
		Resolver:       cfg.Resolver,
		ControlContext: cfg.Policy.control,
	}
	return dialer.DialContext
}

// dialReplaced guards what can be guarded when the network is not ours.
func (cfg Config) dialReplaced(timeout time.Duration) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if target, err := netip.ParseAddrPort(address); err == nil {
			if err := cfg.Policy.CheckAddr(target.Addr()); err != nil {
				return nil, err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return cfg.Dial(ctx, network, address)
	}
}

// control is called by net.Dialer for every socket, before it connects, with
// the address that it is to connect to.
func (p Policy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return &DeniedError{Target: address, Reason: "it is not an address and port"}
	}
	return p.CheckAddr(target.Addr())
}

func (cfg Config) tls() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            cfg.RootCAs,
		ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessions),
	}
}

// positive returns value, or fallback if value is not positive.
func positive[T cmp.Ordered](value, fallback T) T {
	var zero T
	if value > zero {
		return value
	}
	return fallback
}

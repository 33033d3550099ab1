package egress

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

const (
	// maxProxyAnswer bounds the head of a proxy's answer.
	maxProxyAnswer = 16 << 10
	// maxAddresses is how many addresses of a name are tried through a proxy.
	maxAddresses = 16
)

// ErrProxy is wrapped by every error of ParseProxy.
var ErrProxy = errors.New("invalid egress proxy")

// Proxy is the way to all endpoints where there is only one. It is told
// addresses, never names: the names are resolved here and the addresses
// checked, so that the guard holds as it does without a proxy. The proxy
// itself is the operator's choice, and no Policy applies to it.
type Proxy struct {
	scheme  string // http, https or socks5
	address string // host:port
	host    string
	user    *url.Userinfo // nil: none
}

// ParseProxy reads the URL of a proxy: http:// or https:// for one that knows
// CONNECT (RFC 9110, section 9.3.6), socks5:// for SOCKS 5 (RFC 1928), with
// user:password@ if it wants them. Errors do not quote those.
func ParseProxy(text string) (*Proxy, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a URL", ErrProxy)
	}
	port, known := map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	switch {
	case !known:
		return nil, fmt.Errorf("%w: its scheme is none of http, https and socks5", ErrProxy)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%w: it has no host", ErrProxy)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: it has more than a host and a port", ErrProxy)
	}
	if err := checkPort(u); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProxy, err)
	}
	return &Proxy{
		scheme: u.Scheme, host: u.Hostname(), user: u.User,
		address: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)),
	}, nil
}

// String returns the proxy's URL without user and password.
func (p *Proxy) String() string { return p.scheme + "://" + p.address }

// lookupFunc resolves a name.
type lookupFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

// proxyDialer connects by way of the proxy to addresses that the policy allows.
type proxyDialer struct {
	proxy  *Proxy
	policy Policy
	lookup lookupFunc
	dial   DialFunc // to the proxy
	tls    *tls.Config

	observe Observer
}

// connect is a DialFunc.
func (d *proxyDialer) connect(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &DeniedError{Target: address, Reason: "it is not a host and port"}
	}
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	err = &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	for _, addr := range addrs[:min(len(addrs), maxAddresses)] {
		if err = d.policy.CheckAddr(addr); err != nil {
			continue
		}
		d.observe(address, addr)
		conn, failed := d.tunnel(ctx, net.JoinHostPort(addr.Unmap().String(), port))
		if failed == nil {
			return conn, nil
		}
		if err = failed; ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (d *proxyDialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	return d.lookup(ctx, "ip", host)
}

// tunnel asks the proxy for a connection to an address and port.
func (d *proxyDialer) tunnel(ctx context.Context, target string) (net.Conn, error) {
	conn, err := d.ask(ctx, target)
	if err != nil {
		// Of the kind that a failure to connect is.
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connecting by proxy: %w", err)}
	}
	return conn, nil
}

func (d *proxyDialer) ask(ctx context.Context, target string) (net.Conn, error) {
	if d.proxy.scheme == "socks5" {
		return d.socks(ctx, target)
	}
	conn, err := d.dial(ctx, "tcp", d.proxy.address)
	if err != nil {
		return nil, err
	}
	// Whatever the proxy does or does not, ctx ends it.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	through := conn
	if d.proxy.scheme == "https" {
		through = tls.Client(conn, d.tls)
	}
	err = d.handshake(through, target)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return through, nil
}

// handshake asks for a tunnel by CONNECT.
func (d *proxyDialer) handshake(conn net.Conn, target string) error {
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if d.proxy.user != nil {
		password, _ := d.proxy.user.Password()
		request += "Proxy-Authorization: Basic " +
			base64.StdEncoding.EncodeToString([]byte(d.proxy.user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	return readConnectAnswer(conn)
}

// readConnectAnswer reads what a proxy answers to CONNECT: nil means that what
// follows comes from the other end.
func readConnectAnswer(conn io.Reader) error {
	buffered := bufio.NewReader(io.LimitReader(conn, maxProxyAnswer))
	response, err := http.ReadResponse(buffered, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("the proxy's answer is not HTTP: %w", err)
	}
	_ = response.Body.Close() // nothing of it is read: the connection is given up, or is the tunnel
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("the proxy answered %d", response.StatusCode)
	}
	if buffered.Buffered() > 0 {
		// Neither TLS nor HTTP lets the other end speak first.
		return errors.New("the proxy sent more than its answer")
	}
	return nil
}

func (d *proxyDialer) socks(ctx context.Context, target string) (net.Conn, error) {
	var auth *proxy.Auth
	if d.proxy.user != nil {
		password, _ := d.proxy.user.Password()
		auth = &proxy.Auth{User: d.proxy.user.Username(), Password: password}
	}
	socks, err := proxy.SOCKS5("tcp", d.proxy.address, auth, contextDialer(d.dial))
	if err != nil {
		return nil, err
	}
	dialer, ok := socks.(proxy.ContextDialer)
	if !ok {
		return nil, errors.New("the SOCKS dialer takes no context")
	}
	return dialer.DialContext(ctx, "tcp", target)
}

// contextDialer makes a DialFunc what package proxy asks for.
type contextDialer DialFunc

// Dial implements proxy.Dialer.
func (d contextDialer) Dial(network, address string) (net.Conn, error) {
	return d(context.Background(), network, address)
}

// DialContext implements proxy.ContextDialer.
func (d contextDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

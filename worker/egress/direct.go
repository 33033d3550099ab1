package egress

import (
	"bufio"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// directBody is how large a body may be that is sent directly: what
	// certainly fits into the buffers between the two ends, so that an endpoint
	// which answers before it has read it all is heard.
	directBody = 64 << 10
	// directBuffer is how much of a connection is read at a time, and how much
	// a request's buffer begins with.
	directBuffer = 4 << 10
	// maxInformational is how many 1xx answers may come before the one that
	// counts. net/http takes as many.
	maxInformational = 5
)

// direct sends requests over HTTP/1.1 connections of its own.
//
// net/http gives each connection two goroutines, through both of which every
// request and every answer pass, so that it can do what nobody asks for here:
// read an answer while it still writes, and finish a dial for another request.
// Here whoever sends a request writes it in one piece and reads the answer
// itself. Over loopback that is more than a third of what an attempt costs.
//
// What it cannot do as well it does not take, and net/http does it: HTTP/2, and
// so what is sent by TLS as long as it is not known that the other end speaks
// HTTP/1.1; bodies that are large or of unknown length; requests that are not
// valid, about which net/http has the words.
//
// Connections are made by the Client, guard included. A connection that the
// endpoint has closed, or on which it has said something unasked, is not used
// again.
type direct struct {
	dial        func(ctx context.Context, to origin) (net.Conn, error)
	headBytes   int64 // of an answer's head, 1xx answers included
	perHost     int   // connections
	idlePerHost int
	idleMost    int
	idleTimeout time.Duration
	requests    sync.Pool // of *requestBuffer

	mu    sync.Mutex
	hosts map[origin]*directHost // guarded by mu; while it has a user or a connection
	first map[string]struct{}    // guarded by mu; addresses that choose HTTP/1.1 when TLS lets them choose
	idle  list.List              // guarded by mu; of *directConn, who is idle longest first
	sweep *time.Timer            // guarded by mu; closes who is idle for too long; nil while nobody is
}

// origin is what connections are made to.
type origin struct {
	secure  bool   // by TLS
	address string // host and port
}

// directHost is an origin that requests are sent to.
type directHost struct {
	origin
	slots chan struct{} // taken by each request; its capacity bounds the connections
	users int           // requests that have a slot or wait for one; guarded by direct.mu
	idle  []*directConn // the newest last; guarded by direct.mu
}

// directConn is one connection. Whoever has taken it out of idle owns it.
type directConn struct {
	net.Conn
	socket  net.Conn // which Conn is, or is a TLS connection over
	host    *directHost
	reader  *bufio.Reader // of the directConn itself, for the sake of left
	left    int64         // how much may be read still
	used    bool          // by an earlier request
	quiet   func() bool   // reports whether the other end has neither closed nor said anything
	place   *list.Element // in direct.idle; guarded by direct.mu
	expires time.Time     // guarded by direct.mu
}

// Read implements net.Conn, within what may be read still.
func (c *directConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLongHead
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// Close implements net.Conn. It takes no time: TLS would say goodbye first,
// which an endpoint that reads nothing can hold up.
func (c *directConn) Close() error { return c.socket.Close() }

var errLongHead = errors.New("server response headers exceeded the limit")

// errHTTP2: the other end has chosen HTTP/2. Nothing was sent.
var errHTTP2 = errors.New("the endpoint speaks HTTP/2")

// maxFirst bounds the addresses that are known to choose HTTP/1.1. Beyond it
// all are learned anew.
const maxFirst = 4096

// learn notes what an address has chosen that speaks TLS.
func (d *direct) learn(address, protocol string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if protocol == "h2" {
		delete(d.first, address)
		return
	}
	if len(d.first) >= maxFirst {
		clear(d.first)
	}
	d.first[address] = struct{}{}
}

// speaks reports whether an origin speaks HTTP/1.1.
func (d *direct) speaks(to origin) bool {
	if !to.secure {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, first := d.first[to.address]
	return first
}

// takes reports whether a request can be sent directly. One whose phases
// somebody wants to hear of goes by net/http, which tells them.
func (d *direct) takes(req *http.Request) bool {
	return httptrace.ContextClientTrace(req.Context()) == nil &&
		canBeDirect(req.URL) && req.Host == req.URL.Host &&
		req.Method == http.MethodPost && req.Body != nil && req.GetBody != nil &&
		req.ContentLength > 0 && req.ContentLength <= directBody &&
		len(req.TransferEncoding) == 0 && len(req.Trailer) == 0 && !req.Close &&
		req.Header["Connection"] == nil && req.Header["Expect"] == nil && req.Header["Upgrade"] == nil &&
		validHeader(req.Header) && d.speaks(originOf(req.URL))
}

// canBeDirect reports whether a URL is one that is sent as it is.
func canBeDirect(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Opaque == "" && u.Host != "" &&
		!strings.Contains(u.Host, "%") && printable(u.Host) && printable(u.RawQuery)
}

// printable reports whether a part of a URL is of ASCII that can be sent as it is.
func printable(part string) bool {
	for i := range len(part) {
		if part[i] <= ' ' || part[i] > '~' {
			return false
		}
	}
	return true
}

func validHeader(header http.Header) bool {
	for name, values := range header {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return false
			}
		}
	}
	return true
}

// roundTrip is Client.Do for a request that it takes.
func (d *direct) roundTrip(req *http.Request) (*http.Response, error) {
	request, ok := d.requests.Get().(*requestBuffer)
	if !ok {
		request = &requestBuffer{make([]byte, 0, directBuffer)}
	}
	defer d.requests.Put(request)
	if err := request.write(req); err != nil {
		return nil, err
	}
	ctx := req.Context()
	host, err := d.enter(ctx, originOf(req.URL))
	if err != nil {
		return nil, err
	}
	for {
		conn, err := d.connection(ctx, host)
		if err != nil {
			d.leave(host)
			return nil, err
		}
		resp, written, err := d.exchange(req, conn, request.bytes)
		if err == nil {
			return resp, nil
		}
		if conn.used && written == 0 && ctx.Err() == nil {
			continue // it was closed just now, before it heard anything
		}
		d.leave(host)
		return nil, err
	}
}

// originOf returns what a URL's connections are made to.
func originOf(u *url.URL) origin {
	to := origin{u.Scheme == "https", u.Host}
	switch {
	case strings.LastIndexByte(u.Host, ':') > strings.LastIndexByte(u.Host, ']'): // it has a port
	case to.secure:
		to.address += ":443"
	default:
		to.address += ":80"
	}
	return to
}

// enter waits for a host to have room for one more request.
func (d *direct) enter(ctx context.Context, to origin) (*directHost, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	host := d.hosts[to]
	if host == nil {
		host = &directHost{origin: to, slots: make(chan struct{}, d.perHost)}
		d.hosts[to] = host
	}
	host.users++
	d.mu.Unlock()
	select {
	case host.slots <- struct{}{}:
		return host, nil
	case <-ctx.Done():
		d.mu.Lock()
		defer d.mu.Unlock()
		host.users--
		d.forget(host)
		return nil, ctx.Err()
	}
}

// leave is the inverse of enter.
func (d *direct) leave(host *directHost) {
	<-host.slots
	d.mu.Lock()
	defer d.mu.Unlock()
	host.users--
	d.forget(host)
}

// forget lets go of a host that nobody needs. Called with mu held.
func (d *direct) forget(host *directHost) {
	if host.users == 0 && len(host.idle) == 0 {
		delete(d.hosts, host.origin)
	}
}

// connection returns an idle connection to a host, or a new one.
func (d *direct) connection(ctx context.Context, host *directHost) (*directConn, error) {
	for {
		c := d.takeIdle(host)
		if c == nil {
			break
		}
		if c.quiet() {
			return c, nil
		}
		_ = c.Close() // the other end has done so, or broken the protocol
	}
	conn, err := d.dial(ctx, host.origin)
	if err != nil {
		return nil, cause(ctx, err)
	}
	c := &directConn{Conn: conn, socket: conn, host: host, quiet: quietness(conn)}
	if secure, ok := conn.(*tls.Conn); ok {
		c.socket = secure.NetConn()
	}
	c.reader = bufio.NewReaderSize(c, directBuffer)
	return c, nil
}

func (d *direct) takeIdle(host *directHost) *directConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(host.idle) == 0 {
		return nil
	}
	c := host.idle[len(host.idle)-1]
	d.remove(c)
	return c
}

// remove takes a connection out of idle. Called with mu held.
func (d *direct) remove(c *directConn) {
	d.idle.Remove(c.place)
	idle := c.host.idle
	for i, other := range slices.Backward(idle) { // most often it is the last
		if other == c {
			copy(idle[i:], idle[i+1:])
			idle[len(idle)-1] = nil
			c.host.idle = idle[:len(idle)-1]
			return
		}
	}
}

// putIdle keeps a connection for the next request, or closes it.
func (d *direct) putIdle(c *directConn) {
	d.mu.Lock()
	var surplus *directConn
	if len(c.host.idle) >= d.idlePerHost {
		surplus = c
	} else {
		if d.idle.Len() >= d.idleMost {
			surplus, _ = d.idle.Front().Value.(*directConn)
			d.remove(surplus)
			d.forget(surplus.host)
		}
		c.used, c.expires = true, time.Now().Add(d.idleTimeout)
		c.host.idle = append(c.host.idle, c)
		c.place = d.idle.PushBack(c)
		if d.sweep == nil {
			d.sweep = time.AfterFunc(d.idleTimeout, d.closeExpired)
		}
	}
	d.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close() // nothing is on it
	}
}

// closeExpired closes who is idle for too long, and comes again for the next.
func (d *direct) closeExpired() {
	d.mu.Lock()
	now := time.Now()
	expired := d.takeAll(func(c *directConn) bool { return !c.expires.After(now) })
	d.sweep = nil
	if next := d.idle.Front(); next != nil {
		c, _ := next.Value.(*directConn) // nothing else is put there
		d.sweep = time.AfterFunc(c.expires.Sub(now), d.closeExpired)
	}
	d.mu.Unlock()
	for _, c := range expired {
		_ = c.Close() // nothing is on it
	}
}

// closeIdle closes the connections that no request uses.
func (d *direct) closeIdle() {
	d.mu.Lock()
	all := d.takeAll(func(*directConn) bool { return true })
	if d.sweep != nil {
		d.sweep.Stop()
		d.sweep = nil
	}
	d.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // nothing is on it
	}
}

// takeAll takes connections out of idle, from who is idle longest on, as long
// as which says so. Called with mu held.
func (d *direct) takeAll(which func(*directConn) bool) (taken []*directConn) {
	for d.idle.Len() > 0 {
		c, _ := d.idle.Front().Value.(*directConn) // nothing else is put there
		if !which(c) {
			break
		}
		d.remove(c)
		d.forget(c.host)
		taken = append(taken, c)
	}
	return taken
}

// exchange sends a request and reads the head of the answer. On an error the
// connection is closed, and written is how much of the request was sent. Else
// connection and slot are given back at the end of the body.
func (d *direct) exchange(req *http.Request, c *directConn, request []byte) (resp *http.Response, written int, err error) {
	ctx := req.Context()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // which ends what waits for it
	written, err = c.Write(request)
	if err == nil {
		resp, err = c.readHead(req, d.headBytes)
	}
	if err != nil {
		stop()
		_ = c.Close() // the error says it all
		return nil, written, cause(ctx, err)
	}
	body := &directAnswer{body: resp.Body, direct: d, conn: c, ctx: ctx, stop: stop, again: !resp.Close}
	if resp.Body == http.NoBody {
		body.end(resp.StatusCode != http.StatusSwitchingProtocols)
	} else {
		resp.Body = body
	}
	return resp, written, nil
}

// cause is the error of a connection that is closed when a context ends.
func cause(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	return err
}

// readHead reads the head of the answer.
func (c *directConn) readHead(req *http.Request, most int64) (*http.Response, error) {
	c.left = most
	for range maxInformational + 1 {
		resp, err := http.ReadResponse(c.reader, req)
		if errors.Is(err, errLongHead) {
			return nil, fmt.Errorf("server response headers exceeded %d bytes", most)
		}
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 != 1 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.left = math.MaxInt64
			return resp, nil
		}
	}
	return nil, fmt.Errorf("malformed HTTP response: more than %d informational ones", maxInformational)
}

// directAnswer is the body of an answer. Once it is read to its end its
// connection may be used again.
type directAnswer struct {
	body   io.ReadCloser
	direct *direct
	conn   *directConn
	ctx    context.Context //nolint:containedctx // as a request's, it bounds the reading of the answer
	stop   func() bool
	again  bool // the connection can be used again
	ended  error
}

// Read implements io.Reader.
func (b *directAnswer) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	n, err := b.body.Read(p)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = cause(b.ctx, err)
		}
		b.ended = err
		b.end(err == io.EOF) //nolint:errorlint // as io.Reader has it
	}
	return n, err
}

// Close implements io.Closer. What was not read closes the connection.
func (b *directAnswer) Close() error {
	if b.ended == nil {
		b.ended = http.ErrBodyReadAfterClose
		b.end(false)
	}
	return nil
}

// end gives the connection and its slot back. whole: the answer was read to its
// end. It is called once.
func (b *directAnswer) end(whole bool) {
	host := b.conn.host
	// Nothing may be left of it: the next answer would begin with that.
	if b.stop() && whole && b.again && b.conn.reader.Buffered() == 0 {
		b.direct.putIdle(b.conn)
	} else {
		_ = b.conn.Close() // what it can say is known
	}
	b.direct.leave(host)
}

// requestBuffer is a request as it is sent.
type requestBuffer struct{ bytes []byte }

// write makes the request's bytes, and closes its body.
func (b *requestBuffer) write(req *http.Request) error {
	out := append(b.bytes[:0], "POST "...)
	out = append(out, req.URL.RequestURI()...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, req.URL.Host...)
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, req.ContentLength, 10)
	out = append(out, "\r\n"...)
	for name, values := range req.Header {
		if name == "Host" || name == "Content-Length" {
			continue // they are said already
		}
		for _, value := range values {
			out = append(out, name...)
			out = append(out, ": "...)
			out = append(out, strings.TrimSpace(value)...)
			out = append(out, "\r\n"...)
		}
	}
	out = append(out, "\r\n"...)
	head, size := len(out), int(req.ContentLength)
	if cap(out) < head+size {
		out = append(make([]byte, 0, head+size), out...)
	}
	out = out[:head+size]
	b.bytes = out
	_, err := io.ReadFull(req.Body, out[head:])
	return errors.Join(err, req.Body.Close())
}

package egress_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// refusedURL returns the URL of a port where nobody listens any more.
func refusedURL(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return "http://" + listener.Addr().String()
}

// serveRaw calls serve with each connection, the request's head read from it,
// and closes it afterwards. It returns the URL.
func serveRaw(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			readHead(conn)
			serve(conn)
			_ = conn.Close() // serve may have done so
		}
	})
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
	})
	return "http://" + listener.Addr().String()
}

// readHead reads up to the empty line, or to the end.
func readHead(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() && lines.Text() != "" {
		continue
	}
}

// answering returns a function for serveRaw that writes text.
func answering(text string) func(net.Conn) {
	return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
}

// reset makes closing conn send a RST.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// request sends a POST and reads the response to its end; the first error of
// either is returned.
func request(ctx context.Context, client *egress.Client, url string) error {
	return exchange(ctx, client.Do, url, []byte("{}"))
}

func TestClassifyRealFailures(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	plainServer := httptest.NewServer(http.NotFoundHandler())
	defer plainServer.Close()
	tlsServer, roots := newTLSServer(t, false, http.NotFound)
	h2Server, h2Roots := newTLSServer(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	defer old.Close()
	names := newNameServer(t)
	names.set("other.test", "127.0.0.1")
	names.set("empty.test")

	tests := []struct {
		name   string
		config egress.Config
		url    string
		want   egress.Class
	}{
		{"no failure", egress.Config{}, plainServer.URL, egress.ClassNone},
		{"no such name", egress.Config{Resolver: names.resolver()}, "http://missing.test/", egress.ClassDNS},
		{"name without address", egress.Config{Resolver: names.resolver()}, "http://empty.test/", egress.ClassDNS},
		{"nobody listens", egress.Config{}, refusedURL(t), egress.ClassConnect},
		{"private address", egress.Config{}, "http://10.0.0.1/", egress.ClassEgressDenied},
		{"unknown scheme", egress.Config{}, "ftp://127.0.0.1/", egress.ClassOther},
		{"untrusted certificate", egress.Config{}, tlsServer.URL, egress.ClassTLS},
		{
			"certificate of another",
			egress.Config{RootCAs: roots, Resolver: names.resolver()},
			"https://other.test" + portOf(t, tlsServer), egress.ClassTLS,
		},
		{"TLS 1.1 only", egress.Config{RootCAs: roots}, old.URL, egress.ClassTLS},
		{"no TLS at all", egress.Config{}, strings.Replace(plainServer.URL, "http:", "https:", 1), egress.ClassTLS},
		{"closed without an answer", egress.Config{}, serveRaw(t, answering("")), egress.ClassReset},
		{"reset without an answer", egress.Config{}, serveRaw(t, reset), egress.ClassReset},
		{"closed in the head", egress.Config{}, serveRaw(t, answering(ok+"X: y\r\n")), egress.ClassReset},
		{"closed in the body", egress.Config{}, serveRaw(t, answering(ok+"Content-Length: 9\r\n\r\nabc")), egress.ClassReset},
		{
			"closed in a chunk",
			egress.Config{},
			serveRaw(t, answering(ok+"Transfer-Encoding: chunked\r\n\r\n9\r\nabc")), egress.ClassReset,
		},
		{"HTTP/2 stream reset", egress.Config{RootCAs: h2Roots}, h2Server.URL, egress.ClassReset},
		{"not HTTP", egress.Config{}, serveRaw(t, answering("220 smtp.example ESMTP\r\n")), egress.ClassProtocol},
		{"not a status", egress.Config{}, serveRaw(t, answering("HTTP/1.1 OK 200\r\n\r\n")), egress.ClassProtocol},
		{"not a header", egress.Config{}, serveRaw(t, answering(ok+"no colon\r\n\r\n")), egress.ClassProtocol},
		{"not a length", egress.Config{}, serveRaw(t, answering(ok+"Content-Length: x\r\n\r\n")), egress.ClassProtocol},
		{
			"two lengths",
			egress.Config{},
			serveRaw(t, answering(ok+"Content-Length: 1\r\nContent-Length: 2\r\n\r\n")), egress.ClassProtocol,
		},
		{
			"unknown encoding",
			egress.Config{},
			serveRaw(t, answering(ok+"Transfer-Encoding: brotli\r\n\r\n")), egress.ClassProtocol,
		},
		{
			"not a chunk",
			egress.Config{},
			serveRaw(t, answering(ok+"Transfer-Encoding: chunked\r\n\r\nxyz\r\n")), egress.ClassProtocol,
		},
		{
			"head over the limit",
			egress.Config{},
			serveRaw(t, answering(ok+"X: "+strings.Repeat("a", 2*egress.DefaultMaxResponseHeaderBytes))), egress.ClassProtocol,
		},
		{
			"head over a set limit",
			egress.Config{MaxResponseHeaderBytes: 1000},
			serveRaw(t, answering(ok+"X: "+strings.Repeat("a", 16<<10))), egress.ClassProtocol,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := test.config
			config.Policy = local
			client := egress.NewClient(config)
			defer client.CloseIdle()
			err := request(t.Context(), client, test.url)
			if got := egress.Classify(err); got != test.want {
				t.Errorf("got class %q, want %q: %v", got, test.want, err)
			}
			wrapped := fmt.Errorf("sending attempt: %w", err)
			if got := egress.Classify(wrapped); err != nil && got != test.want {
				t.Errorf("wrapped: got class %q, want %q", got, test.want)
			}
		})
	}
}

func TestClassifyImpossibleRequest(t *testing.T) {
	client := egress.NewClient(egress.Config{Policy: local})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Tenant", "a\nb")
	resp, err := client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	if got := egress.Classify(err); got != egress.ClassOther {
		t.Errorf("got class %q: %v", got, err)
	}
}

// pipe is a network of one server without sockets, for bubbles.
type pipe struct {
	serve func(net.Conn) // called once for each connection; owns it
	group sync.WaitGroup
}

func (p *pipe) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p.group.Go(func() { p.serve(far) })
	return near, nil
}

// Everything that can hang ends when the context does, to the nanosecond.
func TestContextBoundsEverything(t *testing.T) {
	const limit = 15 * time.Second
	drain := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	tests := []struct {
		name  string
		url   string
		serve func(net.Conn)
	}{
		{"no answer", "http://hang.test/", drain},
		{"no TLS handshake", "https://hang.test/", drain},
		{"half a head", "http://hang.test/", func(conn net.Conn) {
			readHead(conn)
			answering("HTTP/1.1 200 OK\r\nContent-")(conn)
			drain(conn)
		}},
		{"half a body", "http://hang.test/", func(conn net.Conn) {
			readHead(conn)
			answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")(conn)
			drain(conn)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := &pipe{serve: test.serve}
				client := egress.NewClient(egress.Config{
					Policy: local, Dial: network.dial, TLSHandshakeTimeout: 2 * limit,
				})
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				err := request(ctx, client, test.url)
				if got := egress.Classify(err); got != egress.ClassTimeout {
					t.Errorf("got class %q: %v", got, err)
				}
				if took := time.Since(start); took != limit {
					t.Errorf("took %v, want %v", took, limit)
				}

				start = time.Now()
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(limit/2, cancel)
				err = request(ctx, client, test.url)
				if got := egress.Classify(err); got != egress.ClassCanceled {
					t.Errorf("got class %q: %v", got, err)
				}
				if took := time.Since(start); took != limit/2 {
					t.Errorf("took %v, want %v", took, limit/2)
				}
				synctest.Wait()      // until every dial has been made
				network.group.Wait() // a handshake outlives the request that began it
			})
		})
	}
}

// A dial outlives the request that asked for it, so it has its own limit, and
// so has the handshake.
func TestDialTimeouts(t *testing.T) {
	tests := []struct {
		name string
		dial egress.DialFunc
		want time.Duration
	}{
		{"dial", func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		}, egress.DefaultDialTimeout},
		{
			"handshake", (&pipe{serve: func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }}).dial,
			egress.DefaultTLSHandshakeTimeout,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := egress.NewClient(egress.Config{Policy: local, Dial: test.dial})
				start := time.Now()
				err := request(t.Context(), client, "https://hang.test/")
				if got := egress.Classify(err); got != egress.ClassTimeout {
					t.Errorf("got class %q: %v", got, err)
				}
				if took := time.Since(start); took != test.want {
					t.Errorf("took %v, want %v", took, test.want)
				}
			})
		})
	}
}

// With the network replaced, the guard still judges hosts that are addresses.
func TestReplacedDialIsGuarded(t *testing.T) {
	dialled := errors.New("dialled")
	client := egress.NewClient(egress.Config{
		Policy: egress.Policy{AllowHTTP: true},
		Dial:   func(context.Context, string, string) (net.Conn, error) { return nil, dialled },
	})
	for url, want := range map[string]egress.Class{
		"http://10.0.0.1/":          egress.ClassEgressDenied,
		"http://[::ffff:7f00:1]:9/": egress.ClassEgressDenied,
		"http://8.8.8.8/":           egress.ClassOther,
		"http://a.test/":            egress.ClassOther,
	} {
		err := request(t.Context(), client, url)
		if got := egress.Classify(err); got != want {
			t.Errorf("%s: got class %q, want %q: %v", url, got, want, err)
		}
	}
}

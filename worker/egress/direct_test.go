package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// scripted is a network on which every connection is served by a script.
type scripted struct {
	serve   func(net.Conn, *bufio.Reader) // it ends with the connection
	sockets bool                          // connections are of loopback, not in memory
	dials   atomic.Int32
	serving sync.WaitGroup
}

func (s *scripted) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	s.dials.Add(1)
	near, far := net.Pipe()
	if s.sockets {
		var err error
		if near, far, err = socketPair(ctx); err != nil {
			return nil, err
		}
	}
	s.serving.Go(func() {
		defer func() { _ = far.Close() }()
		s.serve(far, bufio.NewReader(far))
	})
	return near, nil
}

func socketPair(ctx context.Context) (near, far net.Conn, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = listener.Close() }()
	if near, err = new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	far, err = listener.Accept()
	return near, far, err
}

// hear reads one request whole.
func hear(from *bufio.Reader) bool {
	request, err := http.ReadRequest(from)
	if err == nil {
		_, err = io.Copy(io.Discard, request.Body)
	}
	return err == nil
}

const noContent = "HTTP/1.1 204 No Content\r\n\r\n"

// exchanged is what came of one request.
type exchanged struct {
	status int
	header http.Header
	body   string
	class  egress.Class
}

// directly sends a POST with a body of known bytes over plain HTTP, which a
// Client sends itself, or has net/http send it.
func directly(ctx context.Context, client *egress.Client, byTransport bool) (got exchanged) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hook.test/path?q=1", strings.NewReader("hello"))
	if err != nil {
		return exchanged{class: egress.ClassOther}
	}
	req.Header.Set("User-Agent", "test")
	if byTransport {
		req.GetBody = nil
	}
	resp, err := client.Do(req)
	if err != nil {
		return exchanged{class: egress.Classify(err)}
	}
	body, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	return exchanged{resp.StatusCode, resp.Header, string(body), egress.Classify(err)}
}

func TestDirectRequest(t *testing.T) {
	heard := make(chan []byte, 2)
	network := &scripted{serve: func(conn net.Conn, from *bufio.Reader) {
		request, err := http.ReadRequest(from)
		if err != nil {
			return
		}
		var copied bytes.Buffer
		body, _ := io.ReadAll(request.Body)
		fmt.Fprintf(&copied, "%s %s %s %s %s %d %v %s", request.Method, request.RequestURI, request.Proto,
			request.Host, request.UserAgent(), request.ContentLength, request.TransferEncoding, body)
		heard <- copied.Bytes()
		_, _ = io.WriteString(conn, noContent)
	}}
	client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial})
	defer network.serving.Wait()
	defer client.CloseIdle()
	const want = "POST /path?q=1 HTTP/1.1 hook.test test 5 [] hello"
	for _, byTransport := range []bool{true, false} {
		if got := directly(t.Context(), client, byTransport); got.status != http.StatusNoContent {
			t.Errorf("by transport %v: got %+v", byTransport, got)
		}
		if got := string(<-heard); got != want {
			t.Errorf("by transport %v: heard %q, want %q", byTransport, got, want)
		}
	}
}

// When a connection is used again, and when it is not.
func TestDirectReuse(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(net.Conn, *bufio.Reader)
		dials int32 // of three requests
	}{
		{"kept", func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}, 1},
		{"kept, chunked", func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
			}
		}, 1},
		{"informational answers first", func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				_, _ = io.WriteString(conn, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5)+noContent)
			}
		}, 1},
		{"closed after the answer, without a word", func(conn net.Conn, from *bufio.Reader) {
			_ = hear(from)
			_, _ = io.WriteString(conn, noContent)
		}, 3},
		{"announced to be closed", func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			}
		}, 3},
		{"until it is closed", func(conn net.Conn, from *bufio.Reader) {
			_ = hear(from)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nok")
		}, 3},
		{"more said than was asked", func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				_, _ = io.WriteString(conn, noContent+"HTTP/1.1 500 Later\r\nContent-Length: 0\r\n\r\n")
			}
		}, 3},
	} {
		for _, sockets := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, sockets %v", test.name, sockets), func(t *testing.T) {
				network := &scripted{serve: test.serve, sockets: sockets}
				client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial})
				defer network.serving.Wait()
				defer client.CloseIdle()
				for range 3 {
					if got := directly(t.Context(), client, false); got.status/100 != 2 || got.class != egress.ClassNone {
						t.Errorf("got %+v", got)
					}
					if test.dials > 1 {
						network.serving.Wait() // it has been closed
					}
				}
				if got := network.dials.Load(); got != test.dials {
					t.Errorf("3 requests took %d connections, want %d", got, test.dials)
				}
			})
		}
	}
}

// What a direct answer may not be.
func TestDirectRefusals(t *testing.T) {
	for _, test := range []struct {
		answer string
		want   egress.Class
	}{
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 100), egress.ClassProtocol},
		{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 7), egress.ClassProtocol},
		{"nonsense\r\n\r\n", egress.ClassProtocol},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", egress.ClassReset},
		{"HTTP/1.1 200 OK\r\n", egress.ClassReset},
		{"", egress.ClassReset},
	} {
		network := &scripted{serve: func(conn net.Conn, from *bufio.Reader) {
			if hear(from) {
				_, _ = io.WriteString(conn, test.answer)
			}
		}}
		client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial})
		for _, byTransport := range []bool{false, true} {
			if got := directly(t.Context(), client, byTransport); got.class != test.want && !byTransport {
				t.Errorf("%.40q: got %+v, want class %q", test.answer, got, test.want)
			}
		}
		client.CloseIdle()
		network.serving.Wait()
	}
}

// Connections that nobody uses are closed when their time is over, one after
// the other.
func TestDirectIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 2)
		begin := time.Now()
		network := &scripted{serve: func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				<-time.After(3 * time.Second)
				_, _ = io.WriteString(conn, noContent)
			}
			ended <- time.Since(begin)
		}}
		client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial})
		var requests sync.WaitGroup
		for i := range 2 {
			requests.Go(func() {
				<-time.After(time.Duration(i) * time.Second)
				if got := directly(t.Context(), client, false); got.status != http.StatusNoContent {
					t.Errorf("got %+v", got)
				}
			})
		}
		requests.Wait()
		for i := range 2 {
			if got, want := <-ended, time.Duration(3+i)*time.Second+egress.DefaultIdleTimeout; got != want {
				t.Errorf("connection %d was closed after %v, want %v", i, got, want)
			}
		}
		network.serving.Wait()
	})
}

// Who finds all connections to a host in use waits for one, and no longer than
// it may.
func TestDirectConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, requests = 2, 6
		network := &scripted{serve: func(conn net.Conn, from *bufio.Reader) {
			for hear(from) {
				<-time.After(time.Second)
				_, _ = io.WriteString(conn, noContent)
			}
		}}
		client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial, MaxConnsPerHost: most})
		begin := time.Now()
		var group sync.WaitGroup
		for range requests {
			group.Go(func() {
				if got := directly(t.Context(), client, false); got.status != http.StatusNoContent {
					t.Errorf("got %+v", got)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if got := directly(ctx, client, false); got.class != egress.ClassTimeout || time.Since(begin) != time.Second/2 {
			t.Errorf("got %+v after %v", got, time.Since(begin))
		}
		group.Wait()
		if got := time.Since(begin); got != requests/most*time.Second {
			t.Errorf("%d requests of 1 s over %d connections took %v", requests, most, got)
		}
		if got := network.dials.Load(); got != most {
			t.Errorf("%d connections were made, want %d", got, most)
		}
		client.CloseIdle()
		network.serving.Wait()
	})
}

// An answer that is not read to its end gives up its connection, not its place.
func TestDirectAnswerNotRead(t *testing.T) {
	network := &scripted{serve: func(conn net.Conn, from *bufio.Reader) {
		_ = hear(from)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000000))
	}}
	client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial, MaxConnsPerHost: 1})
	for range 3 {
		if status, err := post(t.Context(), client, "http://hook.test/"); err != nil || status != http.StatusOK {
			t.Errorf("got %d, %v", status, err)
		}
	}
	network.serving.Wait()
	if got := network.dials.Load(); got != 3 {
		t.Errorf("%d connections were made, want 3", got)
	}
}

// Whatever an endpoint answers, it is understood as net/http understands it.
func FuzzDirectAnswer(f *testing.F) {
	for _, answer := range []string{
		noContent,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
		"HTTP/1.0 404 Not Found\r\n\r\nnothing here",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"HTTP/1.1 -1 \r\n\r\n", "\x15\x03\x01", "",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		if bytes.Contains(answer, []byte(" 101")) {
			t.Skip("net/http hands the connection over, which nobody wants")
		}
		network := &scripted{serve: func(conn net.Conn, from *bufio.Reader) {
			if hear(from) {
				_, _ = conn.Write(answer)
			}
		}}
		client := egress.NewClient(egress.Config{Policy: local, Dial: network.dial})
		direct, other := directly(t.Context(), client, false), directly(t.Context(), client, true)
		client.CloseIdle()
		network.serving.Wait()
		// What kind of nonsense it is they may see differently.
		if (direct.class == egress.ClassNone) != (other.class == egress.ClassNone) ||
			direct.class == egress.ClassNone && (direct.status != other.status || direct.body != other.body ||
				fmt.Sprint(direct.header) != fmt.Sprint(other.header)) {
			t.Errorf("directly %+v, by net/http %+v", direct, other)
		}
	})
}

// An endpoint that speaks HTTP/1.1 by TLS is sent to directly once that is
// known, and by net/http again when it has come to speak HTTP/2.
func TestDirectTLS(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Protocol", r.Proto)
		_, _ = io.Copy(w, r.Body)
	})
	old, roots := newTLSServer(t, false, handler)
	renewed, _ := newTLSServer(t, true, handler)
	roots.AddCert(renewed.Certificate())
	var address atomic.Value
	address.Store(old.Listener.Addr().String())
	client := egress.NewClient(egress.Config{
		Policy: local, RootCAs: roots,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			to, _ := address.Load().(string)
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	})
	defer client.CloseIdle()
	for i, want := range []string{"HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/2.0", "HTTP/2.0"} {
		if i == 3 {
			client.CloseIdle()
			address.Store(renewed.Listener.Addr().String())
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.com/", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || string(body) != "hello" || resp.Header.Get("X-Protocol") != want {
			t.Errorf("request %d: %q by %s, %v; want %s", i, body, resp.Header.Get("X-Protocol"), err, want)
		}
	}
}

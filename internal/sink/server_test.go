package sink_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/sink"
)

// served is a sink behind a listener on loopback.
type served struct {
	url  string
	stop context.CancelFunc
	done chan error // one value, when Serve has returned
}

func serve(t *testing.T, s *sink.Sink) served {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener, slog.New(slog.DiscardHandler)) }()
	return served{url: "http://" + listener.Addr().String(), stop: stop, done: done}
}

// post sends an empty webhook over a connection of its own.
func post(ctx context.Context, url string) (int, error) {
	return postOver(ctx, &http.Transport{DisableKeepAlives: true}, url)
}

func postOver(ctx context.Context, transport *http.Transport, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func TestServe(t *testing.T) {
	s := sink.New(sink.Config{Status: 202})
	server := serve(t, s)
	if status, err := post(t.Context(), server.url); err != nil || status != 202 {
		t.Errorf("got %d, %v", status, err)
	}
	server.stop()
	if err := <-server.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := post(t.Context(), server.url); err == nil {
		t.Error("still answering after Serve has returned")
	}
}

// pipes is a listener without sockets, for bubbles.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{} // closed by Close
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Requests under way are answered before Serve returns, if that does not take
// too long; those that do take long are cut off and counted.
func TestServeEndsInItsOwnTime(t *testing.T) {
	for _, test := range []struct {
		name   string
		config sink.Config
		status int // 0: cut off
		within time.Duration
	}{
		{"soon", sink.Config{Delay: 2 * time.Second}, 200, 3 * time.Second},
		{"late", sink.Config{Delay: time.Minute}, 0, 4 * time.Second},
		{"never", sink.Config{Hang: true}, 0, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sink.New(test.config)
				network := newPipes()
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.Serve(ctx, network, slog.New(slog.DiscardHandler)) }()
				status := make(chan int, 1)
				go func() {
					transport := &http.Transport{DialContext: network.dial, DisableKeepAlives: true}
					got, _ := postOver(t.Context(), transport, "http://sink.test/") // 0 with an error
					status <- got
				}()
				synctest.Wait()
				stopped := time.Now()
				stop()
				if err := <-done; err != nil {
					t.Errorf("Serve: %v", err)
				}
				if took := time.Since(stopped); took > test.within {
					t.Errorf("took %v to end", took)
				}
				if got := <-status; got != test.status {
					t.Errorf("status %d, want %d", got, test.status)
				}
				want := sink.Stats{Received: 1, Abandoned: 1}
				if test.status != 0 {
					want = sink.Stats{Received: 1, Accepted: 1, WithoutID: 1}
				}
				if diff := cmp.Diff(want, s.Stats(), untimed); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestServeFails(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	err = sink.New(sink.Config{}).Serve(t.Context(), listener, slog.New(slog.DiscardHandler))
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed listener: %v", err)
	}
}

func TestWriteCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sink.New(sink.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var out strings.Builder
		done := make(chan error)
		go func() { done <- s.WriteCounts(ctx, &out) }()
		<-time.After(1500 * time.Millisecond) // nothing yet
		for _, id := range []string{"1", "2", "2"} {
			send(t.Context(), s, webhook{path: "/", id: id})
		}
		<-time.After(10 * time.Second) // one line, not ten
		send(t.Context(), s, webhook{path: "/", id: "0"})
		<-time.After(10 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := `received 3, accepted 3, failed 0, bad signatures 0, abandoned 0, distinct 2, duplicates 1, out of order 0
received 4, accepted 4, failed 0, bad signatures 0, abandoned 0, distinct 3, duplicates 1, out of order 1
`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Error(diff)
		}
	})
}

// brokenWriter fails every write.
type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestWriteCountsFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sink.New(sink.Config{})
		send(t.Context(), s, webhook{path: "/"})
		broken := errors.New("pipe is gone")
		if err := s.WriteCounts(t.Context(), brokenWriter{broken}); !errors.Is(err, broken) {
			t.Errorf("got error %v", err)
		}
		if err := s.Stats().Write(brokenWriter{broken}); !errors.Is(err, broken) {
			t.Errorf("got error %v", err)
		}
	})
}

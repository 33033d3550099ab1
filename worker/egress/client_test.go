package egress_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// local is the policy of tests whose servers are on loopback.
var local = egress.Policy{AllowHTTP: true, AllowLoopback: true}

// newTLSServer starts a server whose certificate the returned pool trusts.
func newTLSServer(t testing.TB, http2 bool, handler http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server, roots
}

func TestProtocols(t *testing.T) {
	for _, test := range []struct {
		name  string
		http2 bool
		want  string
	}{
		{"HTTP/2", true, "HTTP/2.0"},
		{"HTTP/1.1", false, "HTTP/1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, roots := newTLSServer(t, test.http2, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(w, r.Body); err != nil {
					t.Error(err)
				}
			})
			client := egress.NewClient(egress.Config{Policy: local, RootCAs: roots})
			defer client.CloseIdle()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "hello" {
				t.Errorf("body %q, %v", body, err)
			}
			if resp.Proto != test.want {
				t.Errorf("got %s, want %s", resp.Proto, test.want)
			}
		})
	}
}

func TestConnectionsAreReused(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var conns atomic.Int32
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.EnableHTTP2 = http2
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				conns.Add(1)
			}
		}
		server.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		client := egress.NewClient(egress.Config{Policy: local, RootCAs: roots})
		for range 10 {
			if _, err := post(t.Context(), client, server.URL); err != nil {
				t.Error(err)
			}
		}
		want := int32(1)
		if !http2 {
			want = 2 // that it is not HTTP/2 was found out on the first
		}
		if got := conns.Load(); got != want {
			t.Errorf("HTTP/2 %v: 10 requests took %d connections, want %d", http2, got, want)
		}
		client.CloseIdle()
		server.Close()
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var elsewhere bool
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				elsewhere = true
				return
			}
			http.Redirect(w, r, "/elsewhere", status)
		}))
		client := egress.NewClient(egress.Config{Policy: local})
		got, err := post(t.Context(), client, server.URL+"/")
		if err != nil || got != status {
			t.Errorf("got %d, %v, want %d", got, err, status)
		}
		if elsewhere {
			t.Errorf("a %d was followed", status)
		}
		client.CloseIdle()
		server.Close()
	}
}

// The response is handed on as it is: a small body that unpacks to a large one
// stays small.
func TestResponseIsNotUnpacked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "" {
			t.Errorf("Accept-Encoding: %s", got)
		}
		w.Header().Set("Content-Encoding", "gzip")
		if _, err := w.Write([]byte("not gzip at all")); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	client := egress.NewClient(egress.Config{Policy: local})
	defer client.CloseIdle()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "not gzip at all" {
		t.Errorf("got %q, %v", body, err)
	}
}

// closeRecorder notes whether a request's body was closed.
type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error {
	c.closed = true
	return nil
}

// The policy is asked again when a request is sent, as it may have become
// stricter since the subscription was made.
func TestPlainHTTPIsDeniedWhenSending(t *testing.T) {
	client := egress.NewClient(egress.Config{Policy: egress.Policy{AllowLoopback: true}})
	body := &closeRecorder{Reader: strings.NewReader("x")}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:1/", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	if _, ok := errors.AsType[*egress.DeniedError](err); !ok {
		t.Errorf("got error %v, want denied", err)
	}
	if !body.closed {
		t.Error("the request's body was not closed")
	}
}

// An error goes into the history: it must not show a token in the URL.
func TestErrorsDoNotShowTheURL(t *testing.T) {
	client := egress.NewClient(egress.Config{Policy: local})
	_, err := post(t.Context(), client, refusedURL(t)+"/?token=topsecret")
	if err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("got error %v", err)
	}
}

func BenchmarkPost(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer server.Close()
	body := bytes.Repeat([]byte{'x'}, 512)
	client := egress.NewClient(egress.Config{Policy: local})
	defer client.CloseIdle()
	plain := &http.Client{Transport: &http.Transport{}}
	defer plain.CloseIdleConnections()
	for name, do := range map[string]func(*http.Request) (*http.Response, error){
		"egress": client.Do, "net-http": plain.Do,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := exchange(b.Context(), do, server.URL, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// exchange is one POST, with its response read to the end.
func exchange(ctx context.Context, do func(*http.Request) (*http.Response, error), url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

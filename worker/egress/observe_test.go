package egress

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// sightings are what an observer was told.
type sightings struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (s *sightings) observe(host string, at netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, host+" at "+at.String())
}

func (s *sightings) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// An observer is told of each connection, and where it leads, and of none that
// the guard denies.
func TestObserve(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	get := func(c *Client, url string) error {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		if closeErr := response.Body.Close(); err == nil {
			err = closeErr
		}
		return err
	}
	client := NewClient(Config{Policy: Policy{AllowHTTP: true, AllowLoopback: true}})
	defer client.CloseIdle()
	var seen sightings
	client.Observe(seen.observe)
	for range 3 { // by one connection
		if err := get(client, server.URL); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := seen.seen(), []string{host + " at 127.0.0.1"}; !slices.Equal(got, want) {
		t.Errorf("seen are %q, want %q", got, want)
	}

	strict := NewClient(Config{Policy: Policy{AllowHTTP: true}})
	var none sightings
	strict.Observe(none.observe)
	if err := get(strict, server.URL); err == nil || len(none.seen()) != 0 {
		t.Errorf("denied: %v, seen are %q", err, none.seen())
	}
}

// By a proxy it is told where the proxy is asked to connect to.
func TestObserveThroughProxy(t *testing.T) {
	var seen sightings
	d := &proxyDialer{
		proxy: &Proxy{scheme: "http", address: "proxy:3128"}, observe: seen.observe,
		lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("203.0.112.7")}, nil
		},
		dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
	}
	if _, err := d.connect(t.Context(), "tcp", "hooks.example.com:443"); err == nil {
		t.Error("connected by a proxy that is not there")
	}
	if got, want := seen.seen(), []string{"hooks.example.com:443 at 203.0.112.7"}; !slices.Equal(got, want) {
		t.Errorf("seen are %q, want %q", got, want)
	}
}

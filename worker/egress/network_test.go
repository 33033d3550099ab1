package egress_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// nameServer answers DNS questions on a loopback socket.
type nameServer struct {
	conn net.PacketConn

	mu    sync.Mutex
	names map[string][]netip.Addr // guarded by mu
}

// newNameServer starts a name server that ends with the test.
func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, names: map[string][]netip.Addr{}}
	var group sync.WaitGroup
	group.Go(s.serve)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
	})
	return s
}

// set makes name stand for addrs.
func (s *nameServer) set(name string, addrs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name+"."] = nil
	for _, addr := range addrs {
		s.names[name+"."] = append(s.names[name+"."], netip.MustParseAddr(addr))
	}
}

func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", s.conn.LocalAddr().String())
		},
	}
}

func (s *nameServer) serve() {
	buffer := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buffer)
		if err != nil {
			return // closed
		}
		var query dnsmessage.Message
		if query.Unpack(buffer[:n]) != nil || len(query.Questions) != 1 {
			continue
		}
		reply, err := s.answer(query)
		if err != nil {
			continue
		}
		if _, err := s.conn.WriteTo(reply, from); err != nil {
			return
		}
	}
}

func (s *nameServer) answer(query dnsmessage.Message) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	question := query.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true},
		Questions: query.Questions,
	}
	addrs, known := s.names[strings.ToLower(question.Name.String())]
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, addr := range addrs {
		header := dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class}
		switch {
		case addr.Is4() && question.Type == dnsmessage.TypeA:
			reply.Answers = append(reply.Answers,
				dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && question.Type == dnsmessage.TypeAAAA:
			reply.Answers = append(reply.Answers,
				dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return reply.Pack()
}

// post sends a small body to url and closes the response.
func post(ctx context.Context, client *egress.Client, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"a":1}`))
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// portOf returns ":" and the port a test server listens on.
func portOf(t *testing.T, server *httptest.Server) string {
	t.Helper()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return ":" + port
}

// A name is judged by what it resolves to, when it is dialled.
func TestDialIsGuarded(t *testing.T) {
	var hits int
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer server.Close()
	names := newNameServer(t)
	names.set("loopback.test", "127.0.0.1")
	names.set("loopback6.test", "::1")
	names.set("mapped.test", "::ffff:127.0.0.1")
	names.set("private.test", "10.1.2.3")
	names.set("metadata.test", "169.254.169.254")
	names.set("nat64.test", "64:ff9b::7f00:1")
	names.set("any.test", "0.0.0.0")
	names.set("several.test", "10.1.2.3", "127.0.0.1", "::1")
	client := egress.NewClient(egress.Config{
		Policy:   egress.Policy{AllowHTTP: true},
		Resolver: names.resolver(),
	})
	defer client.CloseIdle()
	for _, host := range []string{
		"loopback.test", "loopback6.test", "mapped.test", "private.test", "metadata.test", "nat64.test", "any.test",
		"several.test", "LOOPBACK.test", "loopback.test.",
		"localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]",
		"１２７.0.0.1", // which net/http turns into ASCII digits
	} {
		_, err := post(t.Context(), client, "http://"+host+portOf(t, server)+"/")
		if _, ok := errors.AsType[*egress.DeniedError](err); !ok {
			t.Errorf("%s: got error %v, want denied", host, err)
		}
		if got := egress.Classify(err); got != egress.ClassEgressDenied {
			t.Errorf("%s: class %q", host, got)
		}
	}
	// Forms of which it depends on the resolver whether they are anything.
	for _, host := range []string{"127.1", "127.0.0.1.", "2130706433", "0x7f.1", "0177.0.0.1", "0x7f000001"} {
		if _, err := post(t.Context(), client, "http://"+host+portOf(t, server)+"/"); err == nil {
			t.Errorf("%s: connected", host)
		}
	}
	if hits != 0 {
		t.Errorf("the server was reached %d times", hits)
	}
}

// Of several addresses the allowed one is used, and only that.
func TestDialSkipsDeniedAddresses(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	names := newNameServer(t)
	names.set("mixed.test", "10.1.2.3", "127.0.0.1", "192.168.7.7")
	client := egress.NewClient(egress.Config{
		Policy:   egress.Policy{AllowHTTP: true, AllowLoopback: true},
		Resolver: names.resolver(),
	})
	defer client.CloseIdle()
	if status, err := post(t.Context(), client, "http://mixed.test"+portOf(t, server)+"/"); err != nil || status != 200 {
		t.Errorf("got %d, %v", status, err)
	}
}

// A name that was good when the first connection was made is judged anew for
// the second one (DNS rebinding).
func TestDialIsGuardedAgainstRebinding(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	names := newNameServer(t)
	names.set("rebind.test", "127.0.0.1")
	client := egress.NewClient(egress.Config{
		Policy:   egress.Policy{AllowHTTP: true, AllowPrefixes: prefixes("127.0.0.1/32")},
		Resolver: names.resolver(),
	})
	url := "http://rebind.test" + portOf(t, server) + "/"
	if status, err := post(t.Context(), client, url); err != nil || status != 200 {
		t.Fatalf("got %d, %v", status, err)
	}
	client.CloseIdle()
	names.set("rebind.test", "127.0.0.2")
	_, err := post(t.Context(), client, url)
	if got := egress.Classify(err); got != egress.ClassEgressDenied {
		t.Errorf("got class %q, error %v", got, err)
	}
}

// A proxy would connect where the guard does not see it.
func TestProxyIsNotUsed(t *testing.T) {
	var proxied bool
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied = true }))
	defer proxy.Close()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	names := newNameServer(t)
	names.set("direct.test", "127.0.0.1")
	client := egress.NewClient(egress.Config{
		Policy:   egress.Policy{AllowHTTP: true, AllowLoopback: true},
		Resolver: names.resolver(),
	})
	defer client.CloseIdle()
	if _, err := post(t.Context(), client, "http://direct.test"+portOf(t, server)+"/"); err != nil {
		t.Error(err)
	}
	if proxied {
		t.Error("the request went to the proxy")
	}
}

package egress_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

func tricks(t *testing.T) []string {
	t.Helper()
	file, err := os.Open("testdata/tricks.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var hosts []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		host, err := strconv.Unquote(lines.Text())
		if err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// lyingServer says of every name what lie returns for the n-th question about
// it, from 0.
func lyingServer(t *testing.T, lie func(question dnsmessage.Question, n int) []dnsmessage.Resource) *net.Resolver {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { _ = conn.Close(); group.Wait() })
	group.Go(func() {
		asked := map[string]int{}
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return // closed
			}
			var query dnsmessage.Message
			if query.Unpack(buffer[:n]) != nil || len(query.Questions) != 1 {
				continue
			}
			question := query.Questions[0]
			key := question.Name.String() + question.Type.String()
			reply := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true},
				Questions: query.Questions, Answers: lie(question, asked[key]),
			}
			asked[key]++
			if packed, err := reply.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from) // too large a packet is lost, as in life
			}
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// record is an answer to a question: of addr if that has the question's type.
func record(question dnsmessage.Question, addr string) []dnsmessage.Resource {
	header := dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class}
	switch a := netip.MustParseAddr(addr); {
	case a.Is4() && question.Type == dnsmessage.TypeA:
		return []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: a.As4()}}}
	case a.Is6() && question.Type == dnsmessage.TypeAAAA:
		return []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}}
	}
	return nil
}

// Whatever the trick, and though every name there is leads to it: the server on
// loopback is never reached, by a client directly or by a proxy, and what is
// wrong with the URL is said where a subscription is made.
func TestNoTrickReachesLoopback(t *testing.T) {
	hosts := tricks(t)
	if len(hosts) < 200 {
		t.Fatalf("there are %d tricks", len(hosts))
	}
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	resolver := lyingServer(t, func(q dnsmessage.Question, _ int) []dnsmessage.Resource {
		return append(record(q, "127.0.0.1"), record(q, "::1")...)
	})
	policy := egress.Policy{AllowHTTP: true}
	direct := egress.NewClient(egress.Config{Policy: policy, Resolver: resolver})
	defer direct.CloseIdle()
	proxied := egress.NewClient(egress.Config{Policy: policy, Resolver: resolver, Proxy: startProxy(t, "http", "")})
	defer proxied.CloseIdle()
	refused := 0
	for _, host := range hosts {
		url := "http://" + host + portOf(t, server) + "/"
		if policy.CheckURL(url) != nil {
			refused++
		}
		// Those that CheckURL refuses are sent all the same.
		for name, client := range map[string]*egress.Client{"direct": direct, "proxied": proxied} {
			if status, err := post(t.Context(), client, url); err == nil {
				t.Errorf("%s: %q: answered %d", name, host, status)
			}
		}
	}
	if hits.Load() != 0 {
		t.Errorf("the server was reached %d times", hits.Load())
	}
	if most := len(hosts) - 25; refused < most {
		t.Errorf("CheckURL refuses %d of %d tricks; all but the names that only a resolver can judge: %d", refused, len(hosts), most)
	}
}

// A resolver that lies gets a request nowhere but to an address that is
// allowed.
func TestLyingResolver(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	cname := func(q dnsmessage.Question, to string) dnsmessage.Resource {
		return dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeCNAME, Class: q.Class},
			Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)},
		}
	}
	for name, lie := range map[string]func(dnsmessage.Question, int) []dnsmessage.Resource{
		"public first, then loopback": func(q dnsmessage.Question, n int) []dnsmessage.Resource {
			return record(q, []string{"198.51.100.7", "127.0.0.1", "127.0.0.1"}[min(n, 2)])
		},
		"A private, AAAA loopback": func(q dnsmessage.Question, _ int) []dnsmessage.Resource {
			return append(record(q, "10.0.0.1"), record(q, "::1")...)
		},
		"AAAA that is IPv4": func(q dnsmessage.Question, _ int) []dnsmessage.Resource { return record(q, "::ffff:127.0.0.1") },
		"CNAME to localhost": func(q dnsmessage.Question, _ int) []dnsmessage.Resource {
			answer := record(q, "127.0.0.1")
			for i := range answer {
				answer[i].Header.Name = dnsmessage.MustNewName("localhost.")
			}
			return append([]dnsmessage.Resource{cname(q, "localhost.")}, answer...)
		},
		"CNAME in a circle": func(q dnsmessage.Question, _ int) []dnsmessage.Resource {
			return []dnsmessage.Resource{cname(q, q.Name.String())}
		},
		"a huge answer": func(q dnsmessage.Question, _ int) []dnsmessage.Resource {
			var all []dnsmessage.Resource
			for i := range 60 {
				all = append(all, record(q, fmt.Sprintf("10.0.%d.1", i))...)
			}
			return append(all, record(q, "127.0.0.1")...)
		},
		"nothing": func(dnsmessage.Question, int) []dnsmessage.Resource { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			config := egress.Config{
				Policy: egress.Policy{AllowHTTP: true}, Resolver: lyingServer(t, lie), DialTimeout: 10 * time.Second,
			}
			direct := egress.NewClient(config)
			config.Proxy = startProxy(t, "http", "")
			proxied := egress.NewClient(config)
			for range 3 {
				for _, client := range []*egress.Client{direct, proxied} {
					if status, err := post(t.Context(), client, "http://hooks.example.com"+portOf(t, server)+"/"); err == nil {
						t.Errorf("answered %d", status)
					}
				}
			}
		})
	}
	if hits.Load() != 0 {
		t.Errorf("the server was reached %d times", hits.Load())
	}
}

func TestDeniedPrefixes(t *testing.T) {
	policy := egress.Policy{
		AllowLoopback: true, AllowPrefixes: prefixes("10.0.0.0/8", "64:ff9b::/96"),
		DenyPrefixes: prefixes("10.1.0.0/16", "127.0.0.2/32", "8.8.8.0/24", "2606:4700::/32", "::ffff:9.9.9.9/128"),
	}
	for addr, denied := range map[string]bool{
		"10.0.0.1": false, "10.1.0.1": true, "::ffff:10.1.2.3": true, "127.0.0.1": false, "127.0.0.2": true, "8.8.8.8": true, "8.8.4.4": false,
		"64:ff9b::8.8.8.8": true, "64:ff9b::8.8.4.4": false, "2606:4700::1": true, "2607::1": false, "9.9.9.9": true,
	} {
		err := policy.CheckAddr(netip.MustParseAddr(addr))
		if _, ok := errors.AsType[*egress.DeniedError](err); ok != denied {
			t.Errorf("%s: got %v, want denied %v", addr, err, denied)
		}
	}
}

func TestHostLists(t *testing.T) {
	policy := egress.Policy{
		OnlyHosts: []string{"example.com", "*.example.org", "bücher.example", "8.8.8.8", "[2606:4700::1]"},
		DenyHosts: []string{"secret.example.org", "*.deep.example.org."},
	}
	for host, allowed := range map[string]bool{
		"example.com": true, "EXAMPLE.com": true, "example.com.": true, "a.example.com": false, "notexample.com": false,
		"example.org": false, "a.example.org": true, "a.b.example.org": true, "secret.example.org": false, "SECRET.example.org.": false,
		"x.deep.example.org": false, "deep.example.org": true, "xn--bcher-kva.example": true, "bücher.example": true,
		"8.8.8.8": true, "8.8.4.4": false, "2606:4700::1": true, "[2606:4700:0::1]": true, "": false, "ｅxample.com": true,
	} {
		if err := policy.CheckHost(host); (err == nil) != allowed {
			t.Errorf("%q: got %v, want allowed %v", host, err, allowed)
		}
	}
	if err := (egress.Policy{}).CheckHost("anything"); err != nil {
		t.Errorf("without lists: %v", err)
	}
	if err := policy.CheckURL("https://evil.example/"); !errors.Is(err, egress.ErrURL) || !strings.Contains(err.Error(), "evil.example is not allowed") {
		t.Errorf("CheckURL: %v", err)
	}
	// When sending, too: the policy may have become stricter.
	client := egress.NewClient(egress.Config{Policy: policy})
	if _, err := post(t.Context(), client, "https://evil.example/"); egress.Classify(err) != egress.ClassEgressDenied {
		t.Errorf("Do: %v", err)
	}
}

func TestPolicyValidate(t *testing.T) {
	for _, host := range []string{"", "*.", "a b", "http://example.com", "-x.example", "example.com:80", "*"} {
		for field, policy := range map[string]egress.Policy{
			"OnlyHosts": {OnlyHosts: []string{"ok.example", host}}, "DenyHosts": {DenyHosts: []string{host}},
		} {
			if err := policy.Validate(); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%s %q: got %v", field, host, err)
			}
		}
	}
	if err := (egress.Policy{DenyPrefixes: make([]netip.Prefix, 1)}).Validate(); err == nil {
		t.Error("a prefix that is none is taken")
	}
	good := egress.Policy{OnlyHosts: []string{"a.example", "*.b.example", "1.2.3.4", "::1", "bücher.example", "my_host"}, AllowPrefixes: prefixes("10.0.0.0/8")}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

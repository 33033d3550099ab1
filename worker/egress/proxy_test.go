package egress_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// startProxy starts a proxy of a kind on loopback, which wants user:password if
// that is not empty, and connects wherever it is told to.
func startProxy(t *testing.T, kind, user string) *egress.Proxy {
	t.Helper()
	handle := serveConnect
	if kind == "socks5" {
		handle = serveSOCKS
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); group.Wait() })
	ctx := t.Context()
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			group.Go(func() {
				defer func() { _ = conn.Close() }()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				handle(ctx, conn, user)
			})
		}
	})
	text := kind + "://"
	if user != "" {
		text += user + "@"
	}
	proxy, err := egress.ParseProxy(text + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return proxy
}

// join copies both ways until one side ends.
func join(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() { _, _ = io.Copy(pair[0], pair[1]); done <- struct{}{} }()
	}
	<-done
	_, _ = a.Close(), b.Close()
	<-done
}

func serveConnect(ctx context.Context, conn net.Conn, user string) {
	head := headOf(conn)
	lines := strings.Split(head, "\r\n")
	fields := strings.Fields(lines[0])
	if len(fields) != 3 || fields[0] != "CONNECT" {
		_, _ = io.WriteString(conn, "HTTP/1.1 405 Method Not Allowed\r\n\r\n")
		return
	}
	if _, err := netip.ParseAddrPort(fields[1]); err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Not An Address\r\n\r\n")
		return
	}
	if user != "" && !strings.Contains(head, "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n") {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return
	}
	target, err := new(net.Dialer).DialContext(ctx, "tcp", fields[1])
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\nVia: test\r\n\r\n")
	join(conn, target)
}

// headOf reads up to the empty line.
func headOf(conn net.Conn) string {
	var head strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
		if _, err := conn.Read(one); err != nil {
			break
		}
		head.WriteByte(one[0])
	}
	return head.String()
}

// serveSOCKS knows CONNECT to IPv4 addresses of SOCKS 5 (RFC 1928, RFC 1929).
func serveSOCKS(ctx context.Context, conn net.Conn, user string) {
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(conn, b)
		return b
	}
	read(int(read(2)[1])) // the methods it knows
	if user == "" {
		_, _ = conn.Write([]byte{5, 0})
	} else {
		_, _ = conn.Write([]byte{5, 2})
		name := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(name)+":"+string(password) != user {
			_, _ = conn.Write([]byte{1, 1})
			return
		}
		_, _ = conn.Write([]byte{1, 0})
	}
	request := read(4)
	if request[3] != 1 {
		_, _ = conn.Write([]byte{5, 8, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	addr, port := netip.AddrFrom4([4]byte(read(4))), binary.BigEndian.Uint16(read(2))
	target, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		_, _ = conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	join(conn, target)
}

func TestProxies(t *testing.T) {
	names := newNameServer(t)
	names.set("hooks.test", "10.1.2.3", "127.0.0.1")
	names.set("example.com", "127.0.0.1") // what the certificate of httptest is for
	names.set("inside.test", "10.1.2.3")
	secure, roots := newTLSServer(t, true, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer plain.Close()
	for _, kind := range []string{"http", "socks5"} {
		for _, user := range []string{"", "user:pass"} {
			t.Run(kind+" "+user, func(t *testing.T) {
				client := egress.NewClient(egress.Config{
					Policy: local, Resolver: names.resolver(), RootCAs: roots, Proxy: startProxy(t, kind, user),
				})
				defer client.CloseIdle()
				for _, url := range []string{"http://hooks.test" + portOf(t, plain), plain.URL, "https://example.com" + portOf(t, secure)} {
					if status, err := post(t.Context(), client, url); err != nil || status != 200 {
						t.Errorf("%s: %d, %v", url, status, err)
					}
				}
				for url, want := range map[string]egress.Class{
					"http://inside.test" + portOf(t, plain): egress.ClassEgressDenied,
					"http://10.1.2.3" + portOf(t, plain):    egress.ClassEgressDenied,
					"http://nowhere.test/":                  egress.ClassDNS,
					refusedURL(t):                           egress.ClassConnect,
				} {
					if _, err := post(t.Context(), client, url); egress.Classify(err) != want {
						t.Errorf("%s: class %q of %v, want %q", url, egress.Classify(err), err, want)
					}
				}
			})
		}
	}
}

// A proxy whose password is wrong, that answers nonsense, or that does not
// answer, makes attempts fail, in time, and shows no password.
func TestProxiesThatFail(t *testing.T) {
	serve := func(handle func(net.Conn)) *egress.Proxy {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go handle(conn)
			}
		}()
		proxy, err := egress.ParseProxy("http://user:pa55word@" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return proxy
	}
	for name, test := range map[string]struct {
		answer string
		want   egress.Class
	}{
		"refuses":        {"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", egress.ClassConnect},
		"speaks":         {"HTTP/1.1 200 OK\r\n\r\nSSH-2.0", egress.ClassConnect},
		"is no HTTP":     {"220 mail.example.com ESMTP\r\n", egress.ClassConnect},
		"is endless":     {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 4096), egress.ClassConnect},
		"closes":         {"", egress.ClassConnect},
		"says nothing":   {"-", egress.ClassTimeout},
		"stops half way": {"HTTP/1.1 20", egress.ClassConnect},
	} {
		proxy := serve(func(conn net.Conn) {
			headOf(conn)
			if test.answer == "-" {
				_, _ = io.Copy(io.Discard, conn)
			}
			_, _ = io.WriteString(conn, test.answer)
			_ = conn.Close()
		})
		client := egress.NewClient(egress.Config{Policy: local, Proxy: proxy, DialTimeout: 300 * time.Millisecond})
		_, err := post(t.Context(), client, "http://127.0.0.1:1/")
		if got := egress.Classify(err); got != test.want || strings.Contains(fmt.Sprint(err), "pa55word") {
			t.Errorf("%s: class %q of %v, want %q", name, got, err, test.want)
		}
	}
}

func TestParseProxy(t *testing.T) {
	for text, want := range map[string]string{
		"http://proxy.example": "http://proxy.example:80", "https://proxy.example": "https://proxy.example:443",
		"socks5://10.0.0.1": "socks5://10.0.0.1:1080", "http://u:pw@[::1]:3128/": "http://[::1]:3128",
	} {
		if proxy, err := egress.ParseProxy(text); err != nil || proxy.String() != want {
			t.Errorf("%s: %v, %v", text, proxy, err)
		}
	}
	for _, text := range []string{"", "proxy:3128", "ftp://x", "http://", "http://x:0", "http://x:70000", "http://u:pa55word@x/path", "socks5://x?y", "http://u:pa55word@\x00"} {
		if _, err := egress.ParseProxy(text); !errors.Is(err, egress.ErrProxy) || strings.Contains(err.Error(), "pa55word") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// An endpoint's own authority and certificate are for it alone.
func TestProfileOfAnEndpoint(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	client := egress.NewClient(egress.Config{Policy: local})
	defer client.CloseIdle()
	if _, err := post(t.Context(), client, server.URL); egress.Classify(err) != egress.ClassTLS {
		t.Errorf("without the authority: %v", err)
	}
	trusting := &egress.Profile{RootCAs: roots}
	if status, err := post(egress.WithProfile(t.Context(), trusting), client, server.URL); err != nil || status != http.StatusForbidden {
		t.Errorf("with the authority: %d, %v", status, err)
	}
	known := &egress.Profile{RootCAs: roots, Certificate: &server.TLS.Certificates[0]}
	for range 2 {
		if status, err := post(egress.WithProfile(t.Context(), known), client, server.URL); err != nil || status != http.StatusOK {
			t.Errorf("with a certificate: %d, %v", status, err)
		}
	}
	if status, err := post(egress.WithProfile(t.Context(), trusting), client, server.URL); err != nil || status != http.StatusForbidden {
		t.Errorf("another one's connection is used: %d, %v", status, err)
	}
	if _, err := post(t.Context(), client, server.URL); egress.Classify(err) != egress.ClassTLS {
		t.Errorf("the others trust it now: %v", err)
	}
}

// A listener that accepts and says nothing is given up when the handshake's
// time is over.
func TestTLSTimeout(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client := egress.NewClient(egress.Config{Policy: local})
	ctx := egress.WithProfile(t.Context(), &egress.Profile{TLSTimeout: 50 * time.Millisecond})
	if _, err := post(ctx, client, "https://"+listener.Addr().String()); egress.Classify(err) != egress.ClassTimeout {
		t.Errorf("got %v", err)
	}
}

// The connect timeout covers resolving.
func TestConnectTimeout(t *testing.T) {
	silent := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	client := egress.NewClient(egress.Config{Policy: local, Resolver: silent})
	ctx := egress.WithProfile(t.Context(), &egress.Profile{ConnectTimeout: 50 * time.Millisecond})
	if _, err := post(ctx, client, "http://hooks.example.com/"); err == nil {
		t.Error("it has connected")
	}
}

// Headers without end are cut off.
func TestEndlessHeaders(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		// An answer that comes before the request is another mistake.
		_, err = http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		}
		for err == nil {
			_, err = io.WriteString(conn, "X-Header: "+strings.Repeat("x", 1000)+"\r\n")
		}
	}()
	client := egress.NewClient(egress.Config{Policy: local})
	defer client.CloseIdle()
	if _, err := post(t.Context(), client, "http://"+listener.Addr().String()); egress.Classify(err) != egress.ClassProtocol {
		t.Errorf("got %v", err)
	}
}

package clusterlab_test

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// proxy is a line between two processes that can be cut.
type proxy struct {
	target   string
	listener net.Listener

	mu    sync.Mutex
	cut   bool                  // guarded by mu
	conns map[net.Conn]struct{} // guarded by mu
}

// newProxy begins to pass connections on to a target.
func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, listener: listener, conns: make(map[net.Conn]struct{})}
	go p.accept()
	return p
}

func (p *proxy) close() {
	_ = p.listener.Close() // once
	p.setCut(true)
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.join(near)
	}
}

// join passes one connection on, until one of its ends closes or it is cut.
func (p *proxy) join(near net.Conn) {
	far, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = near.Close()
		return
	}
	if !p.add(near, far) {
		return
	}
	var copying sync.WaitGroup
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		copying.Go(func() {
			_, _ = io.Copy(pair[0], pair[1]) // however it ends, it has ended
			_ = near.Close()
			_ = far.Close()
		})
	}
	copying.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, near)
	delete(p.conns, far)
}

func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.cut {
			_ = c.Close()
		} else {
			p.conns[c] = struct{}{}
		}
	}
	return !p.cut
}

// setCut cuts the line, with all connections on it, or mends it.
func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for c := range p.conns {
		if cut {
			_ = c.Close()
		}
	}
}

func split(address string) (host string, port int) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		panic(err)
	}
	port, err = strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return host, port
}

// freeAddress returns an address on loopback that nobody listens at just now.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String()
}

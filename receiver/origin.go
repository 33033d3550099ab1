package receiver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxHops bounds how many addresses of a forwarding header are looked at.
const maxHops = 32

// Origin says from where requests are taken. The zero value takes them from
// everywhere.
type Origin struct {
	// Allowed are the networks that senders are in; none means any.
	Allowed []netip.Prefix
	// TrustedProxies are the networks of proxies in front of this process: what
	// they say in X-Forwarded-For is believed, and nobody else's is.
	TrustedProxies []netip.Prefix
}

// Client returns the address that a request comes from: the peer's, or, if that
// is a trusted proxy, the last address in X-Forwarded-For that is none.
func (o Origin) Client(r *http.Request) (netip.Addr, error) {
	peer, err := peerOf(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, err
	}
	if !contains(o.TrustedProxies, peer) {
		return peer, nil
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if len(hops) > maxHops {
		hops = hops[len(hops)-maxHops:]
	}
	client := peer
	for _, hop := range slices.Backward(hops) {
		if hop = strings.TrimSpace(hop); hop == "" {
			break
		}
		client, err = parseHop(hop)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("reading X-Forwarded-For: %w", err)
		}
		if !contains(o.TrustedProxies, client) {
			break
		}
	}
	return client, nil
}

// check returns why a request is not taken, or nil.
func (o Origin) check(r *http.Request) error {
	if len(o.Allowed) == 0 {
		return nil
	}
	client, err := o.Client(r)
	if err != nil {
		return err
	}
	if !contains(o.Allowed, client) {
		return fmt.Errorf("%v is in no allowed network", client)
	}
	return nil
}

var errNoAddress = errors.New("the peer has no IP address")

// peerOf reads the address of a connection's other end. A Unix socket has none.
func peerOf(remote string) (netip.Addr, error) {
	if at, err := netip.ParseAddrPort(remote); err == nil {
		return plain(at.Addr()), nil
	}
	return netip.Addr{}, errNoAddress
}

// parseHop reads an address as proxies write it: with a port, or in brackets.
func parseHop(hop string) (netip.Addr, error) {
	if host, _, err := net.SplitHostPort(hop); err == nil {
		hop = host
	}
	address, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	return plain(address), err
}

// plain is an address without what does not tell hosts apart.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func contains(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

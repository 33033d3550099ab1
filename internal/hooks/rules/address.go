package rules

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// ipWhitelist is upstream's ip-whitelist: by the peer of the connection, never
// by a header. A range without a mask is one address; upstream gives an IPv6
// address /32 and admits half a continent.
func ipWhitelist(m *spec.Match) matcher {
	return func(in Input) (bool, error) {
		peer, err := netip.ParseAddrPort(in.Request.RemoteAddr)
		if err != nil {
			return false, fmt.Errorf("parsing remote address: %w", err)
		}
		if peer.Addr().Zone() != "" {
			return false, fmt.Errorf("parsing remote address: %s has a zone", peer.Addr())
		}
		ip := net.IP(peer.Addr().Unmap().AsSlice())
		for entry := range strings.FieldsSeq(m.IPRange) {
			ranged, err := parseRange(entry)
			if err != nil {
				return false, err
			}
			if ranged.Contains(ip) {
				return true, nil
			}
		}
		return false, nil
	}
}

// parseRange reads CIDR, or one address.
func parseRange(entry string) (*net.IPNet, error) {
	if !strings.Contains(entry, "/") {
		bits := "/32"
		if strings.Contains(entry, ":") {
			bits = "/128"
		}
		entry += bits
	}
	_, ranged, err := net.ParseCIDR(entry)
	return ranged, err
}

// cidr is the cidr rule: like ip-whitelist, but of the client that the trusted
// proxies name, or of a parameter. No address is in no range.
func cidr(m *spec.Match) matcher {
	var ranges []netip.Prefix
	for entry := range strings.FieldsSeq(m.IPRange) {
		if prefix, err := spec.Prefix(entry); err == nil { // checked when the file was read
			ranges = append(ranges, prefix)
		}
	}
	return func(in Input) (bool, error) {
		client := in.Request.Client
		if m.Parameter.Source != "" {
			value, err := in.Request.Value(m.Parameter)
			if err != nil {
				return false, err
			}
			client, err = netip.ParseAddr(strings.TrimSpace(value))
			if err != nil {
				return false, nil //nolint:nilerr // what is no address is in no range
			}
		}
		return Contains(ranges, client), nil
	}
}

// Contains reports whether addr is in one of the ranges. An IPv4 address that
// is written as IPv6 is the IPv4 address.
func Contains(ranges []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, prefix := range ranges {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

package egress

import (
	"fmt"
	"net/netip"
	"slices"
)

// Policy says where attempts may go. The zero value is the strict one: https
// only, public addresses only. It is safe for concurrent use as long as nobody
// changes it.
type Policy struct {
	// AllowHTTP lets URLs be http:// as well as https://.
	AllowHTTP bool
	// AllowLoopback lets endpoints be on this machine: 127.0.0.0/8 and ::1.
	// It is meant for development.
	AllowLoopback bool
	// AllowPrefixes are networks that are allowed though they are not public,
	// such as 10.20.0.0/16. Three kinds of address need a prefix of their own
	// full length, so that a wide prefix does not open them by accident: cloud
	// metadata services, and the unspecified addresses 0.0.0.0 and ::. An IPv4
	// prefix also allows what reaches the same address by way of IPv6.
	AllowPrefixes []netip.Prefix
}

// DeniedError says that the policy forbids connecting to an address, or
// speaking plain http. No packet was sent to it.
type DeniedError struct {
	Target string // the address or the scheme
	Reason string // as in "it is a private network (RFC 1918)"
}

// Error implements error.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("%s is not allowed: %s", e.Target, e.Reason)
}

// CheckAddr returns nil if attempts may go to addr, otherwise a *DeniedError.
func (p Policy) CheckAddr(addr netip.Addr) error {
	if reason := p.denial(addr); reason != "" {
		return &DeniedError{Target: addr.String(), Reason: reason}
	}
	return nil
}

// denial returns why addr is denied, or "" if it is allowed.
func (p Policy) denial(addr netip.Addr) string {
	if !addr.IsValid() {
		return "it is not an address"
	}
	if addr.Zone() != "" {
		return "it has a zone, so it is not public"
	}
	addr = addr.Unmap()
	if nat64.Contains(addr) {
		// The loopback at the far end of NAT64 is not this machine's.
		if reason := (Policy{AllowPrefixes: p.AllowPrefixes}).denial(lastFour(addr)); reason != "" {
			return "it leads by NAT64 to " + lastFour(addr).String() + ", and " + reason
		}
		return ""
	}
	if i := slices.IndexFunc(onlyAlone, func(d denied) bool { return d.prefix.Contains(addr) }); i >= 0 {
		if p.allowedAlone(addr) {
			return ""
		}
		return onlyAlone[i].reason
	}
	if p.allowed(addr) || p.AllowLoopback && addr.IsLoopback() {
		return ""
	}
	for _, d := range notPublic {
		if d.prefix.Contains(addr) {
			return d.reason
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return "it is not a global unicast address"
	}
	return ""
}

// allowed reports whether a listed prefix contains addr.
func (p Policy) allowed(addr netip.Addr) bool {
	return slices.ContainsFunc(p.AllowPrefixes, func(prefix netip.Prefix) bool {
		return unmapPrefix(prefix).Contains(addr)
	})
}

// allowedAlone reports whether a listed prefix is exactly addr.
func (p Policy) allowedAlone(addr netip.Addr) bool {
	return slices.ContainsFunc(p.AllowPrefixes, func(prefix netip.Prefix) bool {
		return unmapPrefix(prefix) == netip.PrefixFrom(addr, addr.BitLen())
	})
}

// unmapPrefix turns ::ffff:10.0.0.0/104, which contains no address at all in
// the eyes of netip, into the 10.0.0.0/8 that it means.
func unmapPrefix(prefix netip.Prefix) netip.Prefix {
	const mappedBits = 96
	if prefix.Addr().Is4In6() && prefix.Bits() >= mappedBits {
		return netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mappedBits)
	}
	return prefix
}

// lastFour returns the IPv4 address in the last four bytes of addr.
func lastFour(addr netip.Addr) netip.Addr {
	bytes := addr.As16()
	return netip.AddrFrom4([4]byte(bytes[12:]))
}

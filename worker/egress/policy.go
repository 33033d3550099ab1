package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
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
	// DenyPrefixes are networks that are denied, whatever else allows them. An
	// IPv4 prefix also denies what reaches the same address by way of IPv6.
	DenyPrefixes []netip.Prefix
	// OnlyHosts, if there are any, are the only hosts that URLs may name. What
	// they lead to is checked like every other address. A host is a name, as
	// `hooks.example.com`, or an address; `*.example.com` are all names below
	// example.com, without it. Case and a full stop at the end do not count.
	OnlyHosts []string
	// DenyHosts are hosts that URLs may not name, even if OnlyHosts has them.
	DenyHosts []string
}

// CheckHost returns nil if URLs may name the host, otherwise a *DeniedError. It
// does not look at what the host leads to.
func (p Policy) CheckHost(host string) error {
	if len(p.OnlyHosts) == 0 && len(p.DenyHosts) == 0 {
		return nil
	}
	name, err := asciiHost(host)
	switch {
	case err != nil:
		return &DeniedError{Target: strconv.QuoteToASCII(host), Reason: "it is not the name of a host"}
	case inHosts(p.DenyHosts, name):
		return &DeniedError{Target: name, Reason: "it is one of the hosts that are denied here"}
	case len(p.OnlyHosts) > 0 && !inHosts(p.OnlyHosts, name):
		return &DeniedError{Target: name, Reason: "it is none of the hosts that are allowed here"}
	}
	return nil
}

// asciiHost returns the one form of a host: as net/http turns it into what it
// dials, in lower case, without a full stop at the end, and addresses in their
// canonical text.
func asciiHost(host string) (string, error) {
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return addr.Unmap().String(), nil
	}
	name, err := idna.Lookup.ToASCII(host)
	if err != nil {
		if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
			return "", err
		}
		name = host // a name that DNS has and IDNA does not, as one with an underscore
	}
	return strings.TrimRight(strings.ToLower(name), "."), nil
}

// inHosts reports whether a host in its one form is in a list.
func inHosts(list []string, host string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		if parent, ok := strings.CutPrefix(entry, "*."); ok {
			parent, err := asciiHost(parent)
			return err == nil && strings.HasSuffix(host, "."+parent)
		}
		entry, err := asciiHost(entry)
		return err == nil && entry == host
	})
}

// Validate returns an error that names the field which makes no sense: a host
// that can never match would deny or allow nothing, and nobody would notice.
func (p Policy) Validate() error {
	for field, list := range map[string][]string{"OnlyHosts": p.OnlyHosts, "DenyHosts": p.DenyHosts} {
		for _, entry := range list {
			name, err := asciiHost(strings.TrimPrefix(entry, "*."))
			if _, notAddr := netip.ParseAddr(name); err == nil && notAddr != nil {
				err = checkName(name)
			}
			if err != nil {
				return fmt.Errorf("egress policy: %s has %q, which is not a host: %w", field, entry, err)
			}
		}
	}
	for field, list := range map[string][]netip.Prefix{"AllowPrefixes": p.AllowPrefixes, "DenyPrefixes": p.DenyPrefixes} {
		for _, prefix := range list {
			if !prefix.IsValid() {
				return fmt.Errorf("egress policy: %s has a prefix that is none", field)
			}
		}
	}
	return nil
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
	if p.deniedHere(addr) {
		return "it is in a network that is denied here"
	}
	if nat64.Contains(addr) {
		// The loopback at the far end of NAT64 is not this machine's.
		far := Policy{AllowPrefixes: p.AllowPrefixes, DenyPrefixes: p.DenyPrefixes}
		if reason := far.denial(lastFour(addr)); reason != "" {
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

// deniedHere reports whether a prefix that is denied contains addr, or the IPv4
// address inside it.
func (p Policy) deniedHere(addr netip.Addr) bool {
	inside, ok := ipv4Inside(addr)
	return slices.ContainsFunc(p.DenyPrefixes, func(prefix netip.Prefix) bool {
		prefix = unmapPrefix(prefix)
		return prefix.Contains(addr) || ok && prefix.Contains(inside)
	})
}

// ipv4Inside returns the IPv4 address to which an IPv6 address of a known form
// of translation or tunnel leads.
func ipv4Inside(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	bytes := addr.As16()
	switch {
	case nat64.Contains(addr), compatible.Contains(addr), translated.Contains(addr):
		return lastFour(addr), true
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(bytes[2:6])), true
	case teredo.Contains(addr): // the client, whose bits are inverted
		return netip.AddrFrom4([4]byte{^bytes[12], ^bytes[13], ^bytes[14], ^bytes[15]}), true
	}
	return netip.Addr{}, false
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

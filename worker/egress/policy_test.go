package egress_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

func prefixes(list ...string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, prefix := range list {
		parsed = append(parsed, netip.MustParsePrefix(prefix))
	}
	return parsed
}

func TestCheckAddr(t *testing.T) {
	var (
		loopback = egress.Policy{AllowLoopback: true}
		networks = egress.Policy{AllowPrefixes: prefixes("10.20.0.0/16", "fd12:3456::/32")}
		everyone = egress.Policy{AllowPrefixes: prefixes("0.0.0.0/0", "::/0")}
		imds     = egress.Policy{AllowPrefixes: prefixes("169.254.169.254/32", "fd00:ec2::254/128", "0.0.0.0/32")}
		mapped   = egress.Policy{AllowPrefixes: prefixes("::ffff:10.20.0.0/112")}
		broken   = egress.Policy{AllowPrefixes: []netip.Prefix{{}}}
	)
	const ok = ""
	tests := []struct {
		policy egress.Policy
		addr   string
		reason string // part of it; ok: allowed
	}{
		// Public, up to the edges of what is not.
		{strict, "1.1.1.1", ok},
		{strict, "8.8.8.8", ok},
		{strict, "1.0.0.0", ok},
		{strict, "9.255.255.255", ok},
		{strict, "11.0.0.0", ok},
		{strict, "100.63.255.255", ok},
		{strict, "100.128.0.0", ok},
		{strict, "126.255.255.255", ok},
		{strict, "128.0.0.0", ok},
		{strict, "169.253.255.255", ok},
		{strict, "169.255.0.0", ok},
		{strict, "172.15.255.255", ok},
		{strict, "172.32.0.0", ok},
		{strict, "192.0.1.0", ok},
		{strict, "192.167.255.255", ok},
		{strict, "192.169.0.0", ok},
		{strict, "198.17.255.255", ok},
		{strict, "198.20.0.0", ok},
		{strict, "223.255.255.255", ok},
		{strict, "2606:4700:4700::1111", ok},
		{strict, "2a00:1450:4001:81b::200e", ok},
		{strict, "2001:200::1", ok},
		{strict, "2001:4860:4860::8888", ok},
		{strict, "2003::1", ok},
		{strict, "::ffff:8.8.8.8", ok},
		{strict, "64:ff9b::8.8.8.8", ok},

		// IPv4 that is not.
		{strict, "0.0.0.0", "unspecified"},
		{strict, "0.0.0.1", "this network"},
		{strict, "0.255.255.255", "this network"},
		{strict, "10.0.0.0", "private"},
		{strict, "10.255.255.255", "private"},
		{strict, "100.64.0.0", "carrier"},
		{strict, "100.127.255.255", "carrier"},
		{strict, "100.100.100.200", "metadata"},
		{strict, "127.0.0.1", "loopback"},
		{strict, "127.1.2.3", "loopback"},
		{strict, "127.255.255.255", "loopback"},
		{strict, "169.254.0.1", "link-local"},
		{strict, "169.254.169.253", "link-local"},
		{strict, "169.254.169.254", "metadata"},
		{strict, "169.254.170.2", "metadata"},
		{strict, "168.63.129.16", "metadata"},
		{strict, "172.16.0.0", "private"},
		{strict, "172.31.255.255", "private"},
		{strict, "192.0.0.1", "protocols"},
		{strict, "192.0.0.192", "metadata"},
		{strict, "192.0.2.1", "documentation"},
		{strict, "192.88.99.1", "6to4"},
		{strict, "192.168.0.0", "private"},
		{strict, "192.168.255.255", "private"},
		{strict, "198.18.0.0", "benchmarks"},
		{strict, "198.19.255.255", "benchmarks"},
		{strict, "198.51.100.7", "documentation"},
		{strict, "203.0.113.7", "documentation"},
		{strict, "224.0.0.1", "multicast"},
		{strict, "239.255.255.255", "multicast"},
		{strict, "240.0.0.1", "reserved"},
		{strict, "255.255.255.255", "reserved"},

		// IPv6 that is not.
		{strict, "::", "unspecified"},
		{strict, "::1", "loopback"},
		{strict, "::2", "IPv4-compatible"},
		{strict, "::127.0.0.1", "IPv4-compatible"},
		{strict, "::8.8.8.8", "IPv4-compatible"},
		{strict, "::ffff:127.0.0.1", "loopback"},
		{strict, "::ffff:10.1.2.3", "private"},
		{strict, "::ffff:169.254.169.254", "metadata"},
		{strict, "::ffff:0.0.0.0", "unspecified"},
		{strict, "::ffff:0:127.0.0.1", "tunnel"},
		{strict, "64:ff9b::127.0.0.1", "leads by NAT64 to 127.0.0.1, and it is loopback"},
		{strict, "64:ff9b::10.0.0.1", "leads by NAT64 to 10.0.0.1"},
		{strict, "64:ff9b::169.254.169.254", "metadata"},
		{strict, "64:ff9b::0.0.0.0", "unspecified"},
		{strict, "64:ff9b:0:0:0:1:808:808", "not a global unicast"},
		{strict, "64:ff9b:1::8.8.8.8", "NAT64 of a local network"},
		{strict, "64:ff9b:1:a00:0:100::", "NAT64 of a local network"},
		{strict, "100::1", "discards"},
		{strict, "2001::1", "Teredo"},
		{strict, "2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"},
		{strict, "2001:2::1", "protocols"},
		{strict, "2001:10::1", "protocols"},
		{strict, "2001:20::1", "protocols"},
		{strict, "2001:1ff:ffff::1", "protocols"},
		{strict, "2001:db8::1", "documentation"},
		{strict, "2002:7f00:1::", "6to4"},
		{strict, "2002:808:808::1", "6to4"},
		{strict, "3fff::1", "documentation"},
		{strict, "3fff:fff::1", "documentation"},
		{strict, "4000::1", "not a global unicast"},
		{strict, "5f00::1", "not a global unicast"},
		{strict, "1::1", "not a global unicast"},
		{strict, "fc00::1", "unique local"},
		{strict, "fd00:ec2::254", "metadata"},
		{strict, "fd00:ec2::253", "unique local"},
		{strict, "fd20:ce::254", "metadata"},
		{strict, "fdff:ffff::1", "unique local"},
		{strict, "fe80::1", "link-local"},
		{strict, "febf::1", "link-local"},
		{strict, "fe80::1%eth0", "zone"},
		{strict, "2606:4700:4700::1111%eth0", "zone"},
		{strict, "fec0::1", "site-local"},
		{strict, "ff02::1", "multicast"},
		{strict, "ff0e::1", "multicast"},

		// Loopback for development opens nothing else.
		{loopback, "127.0.0.1", ok},
		{loopback, "127.8.8.8", ok},
		{loopback, "::1", ok},
		{loopback, "::ffff:127.0.0.1", ok},
		{loopback, "0.0.0.0", "unspecified"},
		{loopback, "::", "unspecified"},
		{loopback, "10.0.0.1", "private"},
		{loopback, "169.254.169.254", "metadata"},
		{loopback, "64:ff9b::127.0.0.1", "loopback"},

		// Allowed networks, and nothing beside them.
		{networks, "10.20.0.1", ok},
		{networks, "10.20.255.255", ok},
		{networks, "::ffff:10.20.0.1", ok},
		{networks, "64:ff9b::10.20.0.1", ok},
		{networks, "fd12:3456::1", ok},
		{networks, "8.8.8.8", ok},
		{networks, "10.21.0.1", "private"},
		{networks, "10.19.255.255", "private"},
		{networks, "fd12:3457::1", "unique local"},
		{networks, "fd12:3456::1%eth0", "zone"},
		{networks, "127.0.0.1", "loopback"},
		{mapped, "10.20.0.1", ok},
		{mapped, "::ffff:10.20.0.1", ok},
		{mapped, "10.21.0.1", "private"},
		{broken, "10.0.0.1", "private"},

		// The widest prefixes do not open metadata services.
		{everyone, "127.0.0.1", ok},
		{everyone, "192.168.1.1", ok},
		{everyone, "fe80::1", ok},
		{everyone, "169.254.169.254", "metadata"},
		{everyone, "::ffff:169.254.169.254", "metadata"},
		{everyone, "64:ff9b::169.254.169.254", "metadata"},
		{everyone, "fd00:ec2::254", "metadata"},
		{everyone, "0.0.0.0", "unspecified"},
		{everyone, "::", "unspecified"},
		{imds, "169.254.169.254", ok},
		{imds, "fd00:ec2::254", ok},
		{imds, "0.0.0.0", ok},
		{imds, "169.254.170.2", "metadata"},
		{imds, "169.254.169.253", "link-local"},
	}
	for _, test := range tests {
		err := test.policy.CheckAddr(netip.MustParseAddr(test.addr))
		if test.reason == ok {
			if err != nil {
				t.Errorf("%s (%+v): %v", test.addr, test.policy, err)
			}
			continue
		}
		denied, is := errors.AsType[*egress.DeniedError](err)
		if !is || !strings.Contains(denied.Reason, test.reason) {
			t.Errorf("%s (%+v): got %v, want denied with %q", test.addr, test.policy, err, test.reason)
		}
	}
	if err := everyone.CheckAddr(netip.Addr{}); err == nil {
		t.Error("no address at all is allowed")
	}
}

// Whatever the form in which an IPv6 address holds a denied IPv4 address, the
// verdict is no better than that of the IPv4 address itself.
func FuzzCheckAddrEmbedded(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{169, 254, 169, 254})
	f.Add([]byte{8, 8, 8, 8})
	f.Fuzz(func(t *testing.T, bytes []byte) {
		if len(bytes) != 4 {
			return
		}
		v4 := netip.AddrFrom4([4]byte(bytes))
		policy := egress.Policy{}
		plain := policy.CheckAddr(v4)
		for _, prefix := range []string{"::ffff:", "64:ff9b::"} {
			embedded := netip.MustParseAddr(prefix + v4.String())
			if got := policy.CheckAddr(embedded); (got == nil) != (plain == nil) {
				t.Errorf("%v: %v, but %v: %v", v4, plain, embedded, got)
			}
		}
		for _, prefix := range []string{"::", "::ffff:0:", "64:ff9b:1::"} {
			embedded := netip.MustParseAddr(prefix + v4.String())
			if policy.CheckAddr(embedded) == nil {
				t.Errorf("%v is allowed", embedded)
			}
		}
	})
}

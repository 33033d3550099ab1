package egress

import "net/netip"

// denied is a network that is not public, and why.
type denied struct {
	prefix netip.Prefix
	reason string // completes "the address is not allowed: …"
}

// The tables below follow the IANA special-purpose address registries for IPv4
// and IPv6 (RFC 6890).

// nat64 is the well-known prefix of RFC 6052: the network translates its
// addresses to the IPv4 address in the last four bytes. Behind DNS64 it is the
// way to every IPv4 host, so it is judged by that address.
var nat64 = netip.MustParsePrefix("64:ff9b::/96") //nolint:gochecknoglobals // a table that nobody writes to

// The forms in which an IPv6 address carries an IPv4 address, beside nat64.
var (
	compatible = netip.MustParsePrefix("::/96")           //nolint:gochecknoglobals // a table that nobody writes to
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") //nolint:gochecknoglobals // likewise
	sixToFour  = netip.MustParsePrefix("2002::/16")       //nolint:gochecknoglobals // likewise
	teredo     = netip.MustParsePrefix("2001::/32")       //nolint:gochecknoglobals // likewise
)

// globalUnicast is the only part of IPv6 from which public addresses are
// given out.
var globalUnicast = netip.MustParsePrefix("2000::/3") //nolint:gochecknoglobals // a table that nobody writes to

// onlyAlone are the addresses which only a prefix of exactly that one address
// allows.
var onlyAlone = []denied{ //nolint:gochecknoglobals // a table that nobody writes to
	{netip.MustParsePrefix("0.0.0.0/32"), unspecified},
	{netip.MustParsePrefix("::/128"), unspecified},
	{netip.MustParsePrefix("169.254.169.254/32"), metadata},     // AWS, Azure, Google and most others
	{netip.MustParsePrefix("169.254.170.2/32"), metadata},       // AWS containers: credentials
	{netip.MustParsePrefix("169.254.170.23/32"), metadata},      // AWS EKS: credentials
	{netip.MustParsePrefix("100.100.100.200/32"), metadata},     // Alibaba
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},         // Oracle
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},       // Azure's host, on a public address
	{netip.MustParsePrefix("169.254.0.23/32"), metadata},        // Tencent
	{netip.MustParsePrefix("169.254.42.42/32"), metadata},       // Scaleway
	{netip.MustParsePrefix("fd00:ec2::254/128"), metadata},      // AWS
	{netip.MustParsePrefix("fd00:ec2::23/128"), metadata},       // AWS EKS: credentials
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},       // Google
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), metadata}, // Oracle
}

const (
	unspecified   = "it is the unspecified address"
	metadata      = "it is a cloud metadata service"
	private       = "it is a private network (RFC 1918)"
	documentation = "it is a network for documentation"
	tunnel        = "it is a tunnel to an IPv4 address"
)

// notPublic are the networks which AllowPrefixes or AllowLoopback open.
var notPublic = []denied{ //nolint:gochecknoglobals // a table that nobody writes to
	{netip.MustParsePrefix("0.0.0.0/8"), "it is this network (RFC 1122)"},
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), "it is shared address space of a carrier (RFC 6598)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "it is loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "it is link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.0.0.0/24"), "it is reserved for protocols (RFC 6890)"},
	{netip.MustParsePrefix("192.0.2.0/24"), documentation},
	{netip.MustParsePrefix("192.31.196.0/24"), "it is the AS112 service (RFC 7535)"},
	{netip.MustParsePrefix("192.52.193.0/24"), "it is for multicast relays (RFC 7450)"},
	{netip.MustParsePrefix("192.88.99.0/24"), "it is a 6to4 relay (RFC 7526)"},
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("192.175.48.0/24"), "it is the AS112 service (RFC 7534)"},
	{netip.MustParsePrefix("198.18.0.0/15"), "it is a network for benchmarks (RFC 2544)"},
	{netip.MustParsePrefix("198.51.100.0/24"), documentation},
	{netip.MustParsePrefix("203.0.113.0/24"), documentation},
	{netip.MustParsePrefix("224.0.0.0/4"), "it is multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "it is reserved (RFC 1112)"},

	{netip.MustParsePrefix("::1/128"), "it is loopback"},
	{netip.MustParsePrefix("::/96"), "it is an IPv4-compatible IPv6 address (RFC 4291)"},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), tunnel + " (RFC 2765)"},
	// Where in these the IPv4 address is depends on the local network, so
	// there is none that could be judged.
	{netip.MustParsePrefix("64:ff9b:1::/48"), "it is NAT64 of a local network (RFC 8215)"},
	{netip.MustParsePrefix("100::/64"), "it discards what it gets (RFC 6666)"},
	{netip.MustParsePrefix("2001::/32"), tunnel + " (Teredo, RFC 4380)"},
	{netip.MustParsePrefix("2001::/23"), "it is reserved for protocols (RFC 2928)"},
	{netip.MustParsePrefix("2001:db8::/32"), documentation},
	{netip.MustParsePrefix("2620:4f:8000::/48"), "it is the AS112 service (RFC 7534)"},
	{netip.MustParsePrefix("2002::/16"), tunnel + " (6to4, RFC 3056)"},
	{netip.MustParsePrefix("3fff::/20"), documentation},
	{netip.MustParsePrefix("fc00::/7"), "it is a private network (unique local, RFC 4193)"},
	{netip.MustParsePrefix("fe80::/10"), "it is link-local"},
	{netip.MustParsePrefix("fec0::/10"), "it is a private network (site-local, RFC 3879)"},
	{netip.MustParsePrefix("ff00::/8"), "it is multicast"},
}

package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// egressFlags say where requests may go, and by which way.
type egressFlags struct {
	allow, deny          prefixesFlag
	onlyHosts, denyHosts []string
	proxy                proxyFlag
}

func (f *egressFlags) register(flags *pflag.FlagSet) {
	flags.Var(&f.allow, "egress-allow", "networks that endpoints may be in though they are not public, as in 10.20.0.0/16,fd00:1::/64")
	flags.Var(&f.deny, "egress-deny", "networks that endpoints may not be in, whatever else allows them")
	flags.StringSliceVar(&f.onlyHosts, "egress-only-hosts", nil, "the only hosts that URLs may name, as in example.com,*.example.com (default all)")
	flags.StringSliceVar(&f.denyHosts, "egress-deny-hosts", nil, "hosts that URLs may not name")
	flags.Var(&f.proxy, "egress-proxy", "send all requests by this proxy: http://, https:// or socks5://[user:password@]host:port")
}

func (f *egressFlags) validate() error {
	if err := f.policy(egress.Policy{}).Validate(); err != nil {
		return usagef("%s", err.Error())
	}
	return nil
}

// policy returns base with what the flags say.
func (f *egressFlags) policy(base egress.Policy) egress.Policy {
	base.AllowPrefixes, base.DenyPrefixes = f.allow.values, f.deny.values
	base.OnlyHosts, base.DenyHosts = f.onlyHosts, f.denyHosts
	return base
}

// prefixesFlag is a list of networks.
type prefixesFlag struct{ values []netip.Prefix }

// String implements pflag.Value.
func (f *prefixesFlag) String() string {
	all := make([]string, len(f.values))
	for i, prefix := range f.values {
		all[i] = prefix.String()
	}
	return strings.Join(all, ",")
}

// Type implements pflag.Value.
func (f *prefixesFlag) Type() string { return "networks" }

// Set implements pflag.Value. An address alone stands for itself.
func (f *prefixesFlag) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if addr, err := netip.ParseAddr(part); err == nil {
			f.values = append(f.values, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return fmt.Errorf("want networks such as 10.20.0.0/16, got %q", part)
		}
		f.values = append(f.values, prefix)
	}
	return nil
}

// proxyFlag is a proxy, or none.
type proxyFlag struct{ value *egress.Proxy }

// String implements pflag.Value. It shows no password.
func (f *proxyFlag) String() string {
	if f.value == nil {
		return ""
	}
	return f.value.String()
}

// Type implements pflag.Value.
func (f *proxyFlag) Type() string { return "url" }

// Set implements pflag.Value.
func (f *proxyFlag) Set(s string) error {
	var err error
	f.value, err = egress.ParseProxy(s)
	return err
}

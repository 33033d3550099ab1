package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/internal/setting"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// egressConfig says where requests may go, and by which way. The zero value is
// the strict one: https and public addresses only.
type egressConfig struct {
	allowHTTP, allowLoopback bool
	allow, deny              prefixesFlag
	onlyHosts, denyHosts     []string
	proxy                    proxyFlag
}

// register adds all flags.
func (c *egressConfig) register(flags *pflag.FlagSet) {
	flags.BoolVar(&c.allowHTTP, "egress-allow-http", false, "let endpoints be http:// as well as https://")
	flags.BoolVar(&c.allowLoopback, "egress-allow-loopback", false, "let endpoints be on the worker's own machine")
	c.registerLists(flags)
}

// registerLists adds those that also a cluster has in which http and this
// machine are allowed.
func (c *egressConfig) registerLists(flags *pflag.FlagSet) {
	flags.Var(&c.allow, "egress-allow-networks",
		"networks that endpoints may be in though they are not public, as in 10.20.0.0/16,fd00:1::/64")
	flags.Var(&c.deny, "egress-deny-networks", "networks that endpoints may not be in, whatever else allows them")
	flags.StringSliceVar(&c.onlyHosts, "egress-only-hosts", nil, "the only hosts that URLs may name, as in example.com,*.example.com (default all)")
	flags.StringSliceVar(&c.denyHosts, "egress-deny-hosts", nil, "hosts that URLs may not name")
	flags.Var(&c.proxy, "egress-proxy", "send all requests by this proxy: http://, https:// or socks5://[user:password@]host:port")
	setting.HideUser(flags, "egress-proxy")
}

func (c *egressConfig) validate() error {
	for name, policy := range map[string]egress.Policy{
		"egress-only-hosts": {OnlyHosts: c.onlyHosts}, "egress-deny-hosts": {DenyHosts: c.denyHosts},
	} {
		if err := policy.Validate(); err != nil {
			return setting.Wrong(name, "cannot be used: %v", err)
		}
	}
	return nil
}

func (c *egressConfig) policy() egress.Policy {
	return egress.Policy{
		AllowHTTP: c.allowHTTP, AllowLoopback: c.allowLoopback,
		AllowPrefixes: c.allow.values, DenyPrefixes: c.deny.values,
		OnlyHosts: c.onlyHosts, DenyHosts: c.denyHosts,
	}
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

// Set implements pflag.Value. An address alone stands for itself; the empty
// string makes the list empty.
func (f *prefixesFlag) Set(s string) error {
	f.values = nil
	if s == "" {
		return nil
	}
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
		f.values = append(f.values, prefix.Masked())
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

// Set implements pflag.Value. The empty string is none.
func (f *proxyFlag) Set(s string) error {
	if s == "" {
		f.value = nil
		return nil
	}
	var err error
	f.value, err = egress.ParseProxy(s)
	return err
}

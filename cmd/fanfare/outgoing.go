package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// egressConfig says where webhooks may go. The zero value is the strict one:
// https and public addresses only.
type egressConfig struct {
	allowHTTP     bool
	allowLoopback bool
	allow         prefixesFlag
}

func (c *egressConfig) register(flags *pflag.FlagSet) {
	flags.BoolVar(&c.allowHTTP, "egress-allow-http", false, "let endpoints be http:// as well as https://")
	flags.BoolVar(&c.allowLoopback, "egress-allow-loopback", false, "let endpoints be on the worker's own machine")
	flags.Var(&c.allow, "egress-allow-networks",
		"networks that endpoints may be in though they are not public, as in 10.20.0.0/16,fd00:1::/64")
}

func (c *egressConfig) policy() egress.Policy {
	return egress.Policy{AllowHTTP: c.allowHTTP, AllowLoopback: c.allowLoopback, AllowPrefixes: c.allow.values}
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

// Set implements pflag.Value. The empty string makes the list empty.
func (f *prefixesFlag) Set(s string) error {
	f.values = nil
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("want networks such as 10.20.0.0/16, got %q", part)
		}
		f.values = append(f.values, prefix.Masked())
	}
	return nil
}

package main

import (
	"regexp"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

// maxOriginBytes is how long a name can be in DNS (RFC 1035).
const maxOriginBytes = 253

// registerOrigin adds the name by which endpoints know this cluster.
func registerOrigin(flags *pflag.FlagSet, origin *string) {
	flags.StringVar(origin, "webhook-origin", serve.DefaultOrigin,
		"name in DNS, the same for every coordinator, that endpoints are asked in for their consent (WebHook-Request-Origin)")
}

// validateOrigin wants what the specification calls a DNS expression; "" is the
// default.
func validateOrigin(origin string) error {
	const labels = `^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*$`
	if origin == "" {
		return nil
	}
	if len(origin) > maxOriginBytes || !regexp.MustCompile(labels).MatchString(origin) {
		return setting.Wrong("webhook-origin", "is %q; want a name in DNS, as in hooks.example.com", origin)
	}
	return nil
}

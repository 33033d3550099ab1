package main

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

// Bounds of a lease. etcd grants no shorter one to an external client than a
// second, and rounds up to whole ones.
const (
	leastTTL = 2 * time.Second
	mostTTL  = 10 * time.Minute
)

// memberConfig is what every member of a cluster of several processes is told.
type memberConfig struct {
	logConfig

	id       string
	leaseTTL time.Duration
	http     string // address
}

func (c *memberConfig) register(flags *pflag.FlagSet, http string) {
	c.logConfig.register(flags)
	flags.StringVar(&c.id, "id", "", "name of this member, as `fanfare cluster` shows it; "+
		"one process at a time has it (default the host's name and something random)")
	flags.DurationVar(&c.leaseTTL, "lease-ttl", cluster.DefaultTTL,
		"how long after its last sign of life a member is taken for dead")
	flags.StringVar(&c.http, "http-address", http, "where to serve health and metrics; a coordinator also REST and CloudEvents")
}

func (c *memberConfig) validate(example string) error {
	info := cluster.MemberConfig{Info: cluster.Info{ID: cluster.MemberID(c.id), Role: cluster.Worker}}
	switch {
	case c.id != "" && info.Validate() != nil:
		return setting.Wrong("id", "is %q; a slash is not allowed", c.id)
	case c.leaseTTL < leastTTL || c.leaseTTL > mostTTL:
		return setting.Wrong("lease-ttl", "is %v; %v to %v are allowed", c.leaseTTL, leastTTL, mostTTL)
	}
	return firstOf(c.logConfig.validate(), validateAddress("http-address", c.http, example))
}

// memberID returns the id that was given, or a new one: who starts again is
// another member, so that it need not wait for its own lease to expire.
func (c *memberConfig) memberID() cluster.MemberID {
	if c.id != "" {
		return cluster.MemberID(c.id)
	}
	const chance = 3 // bytes
	suffix := make([]byte, chance)
	rand.Read(suffix)
	return cluster.MemberID(hostname() + "-" + hex.EncodeToString(suffix))
}

// hostname returns the first part of the host's name.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "fanfare"
	}
	first, _, _ := strings.Cut(name, ".")
	return first
}

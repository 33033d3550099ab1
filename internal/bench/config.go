package bench

import (
	"cmp"
	"fmt"
	"time"
)

// What a Config leaves open.
const (
	DefaultEvents        = 20_000
	DefaultSubscriptions = 1
	DefaultTenants       = 1
	DefaultSize          = 1 << 10
	DefaultBatch         = 100
	DefaultPublishers    = 8
	DefaultConnections   = 64
	DefaultRawTime       = 3 * time.Second
	DefaultSlowDelay     = 10 * time.Second
	DefaultPatience      = time.Minute
)

// What a Config may ask for at most.
const (
	MaxEvents        = 10_000_000
	MaxSubscriptions = 10_000 // of one tenant
	MaxTenants       = 1_000
	MaxSize          = 200 << 10 // leaves room for the other fields of an event
	MaxBatch         = 1_000
	MaxPublishers    = 1_024
	MaxConnections   = 4_096
)

// Config says what is measured. Zero values are the defaults.
type Config struct {
	Events        int     // published in all
	Subscriptions int     // of each tenant: the fan-out
	Tenants       int     // events are spread over
	Size          int     // of an event's data, in bytes
	Batch         int     // events in one Publish
	Publishers    int     // calls of Publish at a time
	Rate          float64 // events a second; 0: as fast as they are taken
	DeadFraction  float64 // of the subscriptions, whose endpoint refuses connections
	SlowFraction  float64 // of the subscriptions, whose endpoint answers after SlowDelay
	SlowDelay     time.Duration
	Verify        bool          // the receivers check every signature
	Patience      time.Duration // without any delivery, after which what is missing is lost

	RawTime     time.Duration // of each baseline; negative: none is measured
	Connections int           // of the baselines

	Listen string // where the receivers listen, a host; 127.0.0.1 if empty
	Host   string // under which the cluster reaches them; Listen if empty
}

func (c Config) resolved() Config {
	c.Events = cmp.Or(c.Events, DefaultEvents)
	c.Subscriptions = cmp.Or(c.Subscriptions, DefaultSubscriptions)
	c.Tenants = cmp.Or(c.Tenants, DefaultTenants)
	c.Size = cmp.Or(c.Size, DefaultSize)
	c.Batch = cmp.Or(c.Batch, DefaultBatch)
	c.Publishers = cmp.Or(c.Publishers, DefaultPublishers)
	c.SlowDelay = cmp.Or(c.SlowDelay, DefaultSlowDelay)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.RawTime = cmp.Or(c.RawTime, DefaultRawTime)
	c.Connections = cmp.Or(c.Connections, DefaultConnections)
	c.Listen = cmp.Or(c.Listen, "127.0.0.1")
	c.Host = cmp.Or(c.Host, c.Listen)
	return c
}

// Validate returns an error that names the field which makes no sense.
func (c Config) Validate() error {
	for _, n := range []struct {
		name  string
		value int
		most  int
	}{
		{"events", c.Events, MaxEvents},
		{"subscriptions", c.Subscriptions, MaxSubscriptions},
		{"tenants", c.Tenants, MaxTenants},
		{"size", c.Size, MaxSize},
		{"batch", c.Batch, MaxBatch},
		{"publishers", c.Publishers, MaxPublishers},
		{"connections", c.Connections, MaxConnections},
	} {
		if n.value < 0 || n.value > n.most {
			return fmt.Errorf("%s is %d; 1 to %d are allowed", n.name, n.value, n.most)
		}
	}
	switch bad := c.DeadFraction + c.SlowFraction; {
	case !(c.Rate >= 0): // so that NaN is refused too
		return fmt.Errorf("rate is %v; it may not be negative", c.Rate)
	case !(c.DeadFraction >= 0 && c.DeadFraction < 1):
		return fmt.Errorf("dead fraction is %v; at least 0 and less than 1 is allowed", c.DeadFraction)
	case !(c.SlowFraction >= 0 && c.SlowFraction < 1):
		return fmt.Errorf("slow fraction is %v; at least 0 and less than 1 is allowed", c.SlowFraction)
	case bad >= 1:
		return fmt.Errorf("dead fraction and slow fraction are %v together; some must be healthy", bad)
	case c.SlowDelay < 0:
		return fmt.Errorf("slow delay is %v; it may not be negative", c.SlowDelay)
	case c.Patience < 0:
		return fmt.Errorf("patience is %v; it may not be negative", c.Patience)
	}
	return nil
}

// mix returns how many of a tenant's subscriptions are of each kind. A
// fraction that is not 0 makes at least one, and at least one stays healthy.
func (c Config) mix() (healthy, dead, slow int) {
	share := func(fraction float64) int {
		if fraction == 0 {
			return 0
		}
		return max(1, int(fraction*float64(c.Subscriptions)+0.5))
	}
	dead, slow = share(c.DeadFraction), share(c.SlowFraction)
	return max(1, c.Subscriptions-dead-slow), dead, slow
}

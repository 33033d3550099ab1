package sim

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/notify"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// Defaults of Config.
const (
	DefaultPartitions = 1
	DefaultSlots      = 4
)

// Patience is how long, in virtual time, helpers wait for what must come.
const Patience = 10 * time.Minute

// Config is what a cluster is made of. Zero values are the defaults.
type Config struct {
	Coordinators int // 1
	Workers      int // 1
	Partitions   int
	Slots        int
	Limits       *linkv1.Limits // of the ledgers
	Seed         uint64         // of the workers' jitter
	MaxLogBytes  uint64         // of each log; 0: no limit
	// Free is what the logs' disk has left, of which Reserve bytes are kept.
	// nil: the logs are on no disk of the coordinators'.
	Free    func() (free, total uint64, err error)
	Reserve uint64
	Silence time.Duration     // of a log, that ends the coordinator; 0: none does
	Told    []notify.Listener // of alerts, by all coordinators
}

// Cluster is a whole cluster in a bubble. It is for the goroutine of the test.
type Cluster struct {
	Coordinators []*Coordinator
	Workers      []*Worker
	Client       *Client

	t       testing.TB
	config  Config
	network *network
	members *cluster.Memory
	logs    *eventlog.Memory
	history history.Store
	secrets *sealed.Box
	policy  egress.Policy
	logger  *slog.Logger

	endpoints []*Endpoint
	ends      []func() error // of endpoints and clients, in the order of making
}

// New starts a cluster and waits until it serves. It must be called in a
// bubble; everything in it ends with the test.
func New(t testing.TB, config Config) *Cluster {
	t.Helper()
	config.Coordinators = cmp.Or(config.Coordinators, 1)
	config.Workers = cmp.Or(config.Workers, 1)
	config.Partitions = cmp.Or(config.Partitions, DefaultPartitions)
	config.Slots = cmp.Or(config.Slots, DefaultSlots)
	store, err := history.OpenSQLite(t.Context(), history.InMemory)
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := sealed.New(bytes.Repeat([]byte{7}, sealed.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{
		t:       t,
		config:  config,
		network: newNetwork(),
		members: cluster.NewMemory(),
		logs:    eventlog.NewMemory(),
		history: store,
		secrets: secrets,
		policy:  egress.Policy{AllowHTTP: true},
		logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: logLevel()})),
	}
	t.Cleanup(c.close)
	for i := range config.Coordinators {
		c.Coordinators = append(c.Coordinators, c.newCoordinator(i+1))
	}
	for i := range config.Workers {
		c.Workers = append(c.Workers, c.newWorker(i+1))
	}
	c.Client = c.newClient()
	for _, coordinator := range c.Coordinators {
		coordinator.Start()
	}
	for _, w := range c.Workers {
		w.Start()
	}
	c.AwaitOwners()
	return c
}

// logLevel keeps the output of many seeds readable.
func logLevel() slog.Level {
	if testing.Verbose() {
		return slog.LevelInfo
	}
	return slog.LevelError + 1
}

// close ends everything: what sends first, what is reported to last.
func (c *Cluster) close() {
	var errs []error
	for _, w := range c.Workers {
		errs = append(errs, w.Stop())
	}
	for _, coordinator := range c.Coordinators {
		errs = append(errs, coordinator.Stop())
	}
	for _, p := range c.processes() {
		p.bury()
	}
	for _, end := range c.ends {
		errs = append(errs, end())
	}
	errs = append(errs, c.history.Close())
	if err := errors.Join(errs...); err != nil {
		c.t.Errorf("ending the cluster: %v", err)
	}
}

func (c *Cluster) processes() []*process {
	var all []*process
	for _, coordinator := range c.Coordinators {
		all = append(all, &coordinator.process)
	}
	for _, w := range c.Workers {
		all = append(all, &w.process)
	}
	return all
}

// Pass lets virtual time pass.
func Pass(d time.Duration) { <-time.After(d) }

// Await waits until something is true, looking again every now and then, and
// fails the test when it has not become true within a limit of virtual time.
func (c *Cluster) Await(what string, limit time.Duration, is func() bool) {
	c.t.Helper()
	const looks = 400
	for range looks {
		if is() {
			return
		}
		Pass(limit / looks)
	}
	c.t.Fatalf("%v have passed without this: %s", limit, what)
}

// AwaitOwners waits until every partition is led and every shard is attached
// to its owner.
func (c *Cluster) AwaitOwners() {
	c.t.Helper()
	missing := ""
	defer func() {
		if missing != "" {
			c.t.Logf("without an owner: %s", missing)
		}
	}()
	c.Await("all partitions and shards have owners", Patience, func() bool {
		missing = c.unowned()
		return missing == ""
	})
}

// unowned says what nobody owns; nothing if there is nothing.
func (c *Cluster) unowned() string {
	described, err := c.Client.Describe()
	if err != nil {
		return err.Error()
	}
	for _, p := range described.GetPartitions() {
		if p.GetLeader() == "" {
			return fmt.Sprintf("partition %d", p.GetId())
		}
	}
	for _, s := range described.GetShards() {
		if !s.GetAttached() {
			return fmt.Sprintf("shard %d/%d", s.GetPartition(), s.GetSlot())
		}
	}
	return ""
}

// AwaitSettled waits until nothing is owed to anybody.
func (c *Cluster) AwaitSettled(limit time.Duration) {
	c.t.Helper()
	c.Await("nothing is owed", limit, func() bool {
		described, err := c.Client.Describe()
		if err != nil {
			return false
		}
		for _, p := range described.GetPartitions() {
			if p.GetEpoch() == 0 || p.GetOutstanding() > 0 || p.GetBehind() > 0 {
				return false
			}
		}
		return true
	})
}

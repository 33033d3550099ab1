package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/pki"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

const coordinatorLong = `Coordinator runs a process that takes events, keeps them, and leads partitions:
one of any number, which share the cluster's etcd and NATS. Workers are
processes of their own (` + "`fanfare worker`" + `).

Without --etcd-endpoints and --nats-url it is the only coordinator, on one
machine: etcd and NATS run in the process, and so do its --workers, since
nothing outside can reach that etcd.

Every setting can also be given as a variable (--lease-ttl as
FANFARE_LEASE_TTL) or in the file that --config names (lease-ttl: 5s).
` + "`fanfare config coordinator`" + ` shows what is in force, and from where.`

const coordinatorExample = `  fanfare coordinator --config /etc/fanfare/coordinator.yaml
  fanfare coordinator --insecure --etcd-endpoints http://127.0.0.1:2379 --nats-url nats://127.0.0.1:4222 \
      --nats-replicas 1 --secrets-key-file secrets.key`

const (
	defaultHTTPAddress = "127.0.0.1:7480"
	// insideWorkers is how many workers run in a process with embedded engines.
	insideWorkers = 2
	// mostPartitions and mostSlots keep the keys in etcd below a number that it
	// serves with ease.
	mostPartitions = 1024
	mostSlots      = 256
)

// coordinatorConfig is what `fanfare coordinator` is told.
type coordinatorConfig struct {
	memberConfig
	securityConfig
	sendingConfig
	observingConfig

	etcd        etcdConfig
	nats        natsConfig
	egress      egressConfig
	dataDir     string
	grpcAddress string
	advertise   string
	history     historyConfig
	secretsKey  string
	partitions  int
	slots       int
	workers     int
	stopTimeout time.Duration
	minFree     bytesFlag
	maxLog      bytesFlag
	origin      string
	alerts      alertConfig
}

func coordinatorCommand() *cobra.Command {
	return roleCommand(&cobra.Command{
		Use:     "coordinator",
		Short:   "Run a coordinator of a cluster",
		Long:    coordinatorLong,
		Example: coordinatorExample,
	}, new(coordinatorConfig))
}

func (c *coordinatorConfig) register(flags *pflag.FlagSet) {
	c.memberConfig.register(flags, defaultHTTPAddress)
	c.securityConfig.register(flags)
	c.sendingConfig.register(flags)
	c.observingConfig.register(flags)
	c.etcd.register(flags)
	c.nats.register(flags)
	c.egress.register(flags)
	flags.StringVar(&c.dataDir, "data-dir", defaultDataDir("coordinator"), "folder for what this process keeps: the history in SQLite, and embedded engines")
	flags.StringVar(&c.grpcAddress, "grpc-address", defaultAddress, "where to serve gRPC")
	flags.StringVar(&c.advertise, "advertise-address", "", "host:port at which workers and other coordinators reach this one "+
		"(default --grpc-address, with the host's name if that is every interface)")
	c.history.register(flags)
	flags.StringVar(&c.secretsKey, "secrets-key-file", "", "key of the signing secrets, the same for every coordinator; `fanfare keys create` makes it "+
		"(embedded: default in --data-dir)")
	flags.IntVar(&c.partitions, "partitions", coordinator.DefaultPartitions, "how many logs to spread tenants over; fixed once the cluster is made")
	flags.IntVar(&c.slots, "slots", lead.DefaultSlots, "how many shards a partition has; fixed once the cluster is made")
	flags.IntVar(&c.workers, "workers", 0, "how many workers to run in this process (embedded: default 2)")
	flags.DurationVar(&c.stopTimeout, "stop-timeout", coordinator.DefaultStopTimeout, "how long calls under way may take when it stops")
	registerSpace(flags, &c.minFree, &c.maxLog)
	registerOrigin(flags, &c.origin)
	c.alerts.register(flags)
}

// embedded reports whether the engines run in the process.
func (c *coordinatorConfig) embedded() bool { return len(c.etcd.endpoints) == 0 && c.nats.url == "" }

func (c *coordinatorConfig) validate() error {
	if err := firstOf(
		c.memberConfig.validate(defaultHTTPAddress),
		c.securityConfig.validate(),
		c.sendingConfig.validate(),
		c.observingConfig.validate(),
		c.egress.validate(),
		c.etcd.validate(c.plainEngines()),
		c.nats.validate(c.plainEngines()),
		validateAddress("grpc-address", c.grpcAddress, defaultAddress),
		c.history.validate(),
		c.alerts.validate(),
		within("partitions", c.partitions, 1, mostPartitions),
		within("slots", c.slots, 1, mostSlots),
		within("workers", c.workers, 0, mostInside),
		validateOrigin(c.origin),
	); err != nil {
		return err
	}
	if c.advertise != "" {
		host, port, err := net.SplitHostPort(c.advertise)
		if err != nil || port == "" || port == "0" || host == "" || isEverything(host) {
			return setting.Wrong("advertise-address", "is %q; want the host and port that others dial", c.advertise)
		}
	}
	switch {
	case c.dataDir == "":
		return setting.Wrong("data-dir", "is empty")
	case c.stopTimeout < 0:
		return setting.Wrong("stop-timeout", "is %v; it cannot be negative", c.stopTimeout)
	case c.maxLog.value > math.MaxInt64:
		return setting.Wrong("max-log-bytes", "is too large")
	}
	return c.validateEngines()
}

// validateEngines checks what depends on where the engines are.
func (c *coordinatorConfig) validateEngines() error {
	switch {
	case len(c.etcd.endpoints) == 0 && c.nats.url != "":
		return setting.Wrong("etcd-endpoints", "is empty, and --nats-url is not; give both, or neither to run both in this process")
	case len(c.etcd.endpoints) > 0 && c.nats.url == "":
		return setting.Wrong("nats-url", "is empty, and --etcd-endpoints is not; give both, or neither to run both in this process")
	case !c.embedded() && c.secretsKey == "":
		return setting.Wrong("secrets-key-file", "is empty; every coordinator needs the same key, which `fanfare keys create` makes once")
	case !c.embedded() && c.minFree.value != 0:
		return setting.Wrong("min-free-space", "is given, but the logs are not on this machine's disk; limit the streams' store in NATS")
	case c.embedded() && c.secretsKey != "":
		return setting.Wrong("secrets-key-file", "is given, but with embedded engines the key is in --data-dir, beside the logs")
	}
	return nil
}

// isEverything reports whether a host stands for every interface.
func isEverything(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// advertised returns where others reach the coordinator that is bound to an
// address; "" for the address itself.
func (c *coordinatorConfig) advertised() string {
	if host, port, err := net.SplitHostPort(c.grpcAddress); c.advertise == "" && err == nil && isEverything(host) && port != "0" {
		return net.JoinHostPort(hostname(), port)
	}
	return c.advertise
}

// run starts the coordinator and waits for its end. It stops as dev does.
func (c *coordinatorConfig) run(cmd *cobra.Command) (err error) {
	ctx, id := cmd.Context(), c.memberID()
	seen, err := c.observe(ctx, id)
	if err != nil {
		return err
	}
	defer seen.end(ctx)
	logger := seen.logger
	secured, err := c.open(pki.Coordinator, logger)
	if err != nil {
		return err
	}
	release, err := lockDataDir(c.dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	engines, err := c.openEngines(ctx, logger)
	if ended(ctx) && errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engines.close()) }()
	n := &node{security: secured, egress: c.egress, leaseTTL: c.leaseTTL, logger: logger, observed: seen}
	if err := c.fill(n, engines, id); err != nil {
		return err
	}
	logger.Info("starting", "id", id, "grpc", n.grpcAddress, "http", n.security.scheme()+n.httpAddress)
	err = n.run(ctx, func(context.Context) error {
		n.sayReady("id", id)
		return nil
	})
	return c.explain(err)
}

func (c *coordinatorConfig) openEngines(ctx context.Context, logger *slog.Logger) (*engines, error) {
	if c.embedded() {
		return embedEngines(ctx, c.dataDir, c.history.url, logger)
	}
	if !strings.HasPrefix(c.history.url, postgresScheme) {
		logger.Warn("the history is in this coordinator's own SQLite: it shows what this coordinator has led, and is made again where a partition moves; " +
			"several coordinators share one in PostgreSQL")
	}
	return joinEngines(ctx, c, logger)
}

// fill adds the coordinator and the workers of its process.
func (c *coordinatorConfig) fill(n *node, e *engines, id cluster.MemberID) error {
	if err := n.addCoordinator(coordinatorPart{
		id: id, grpc: c.grpcAddress, http: c.http, advertise: c.advertised(), engines: e,
		alerts:     c.alerts,
		partitions: c.partitions, slots: c.slots, stopTimeout: c.stopTimeout,
		minFree: c.minFree.value, maxLog: c.maxLog.value, retention: c.history.retention(),
		origin: c.origin, observing: c.observingConfig,
	}); err != nil {
		return err
	}
	workers := c.workers
	if c.embedded() && workers == 0 {
		workers = insideWorkers
	}
	for i := range workers {
		part := c.part()
		part.id, part.store = cluster.MemberID(fmt.Sprintf("%s-worker-%d", id, i+1)), e.store
		if err := n.addWorker(part); err != nil {
			return err
		}
	}
	return nil
}

// explain says in terms of settings what ended the process.
func (c *coordinatorConfig) explain(err error) error {
	if c.embedded() {
		return sameAgain(err, c.dataDir, "--data-dir")
	}
	if secrets, ok := errors.AsType[*cluster.SecretsError](err); ok {
		return fmt.Errorf("--secrets-key-file holds another key than the cluster has: %w; give every coordinator a copy of the same file", secrets)
	}
	return sameAgain(err, "the cluster under "+c.etcd.prefix, "--etcd-prefix and --nats-prefix")
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

const devLong = `Dev runs a whole cluster in one process: embedded etcd, embedded NATS
JetStream that syncs every write, one coordinator, workers that attach to it
over gRPC, SQLite for the history, and the REST gateway.

Endpoints on this machine and plain http are allowed, and nothing asks for a
password, so it listens on loopback unless it is told otherwise. What it knows
is kept in --data-dir: started again, it goes on.`

const devExample = `  fanfare dev
  fanfare dev --demo
  fanfare dev --data-dir ./data --workers 4`

const (
	devTTL = 5 * time.Second
	// devStopGrace, devReportGrace and devStopTimeout are how long a stop may
	// take: requests on the wire, their outcomes, calls of clients. With what
	// the engines need, a stop takes less than 10 s.
	devStopGrace   = 3 * time.Second
	devReportGrace = time.Second
	devStopTimeout = time.Second
	devPartitions  = 4
	// mostInside bounds how many workers a process runs.
	mostInside = 64
)

// devConfig is what `fanfare dev` is told.
type devConfig struct {
	logConfig
	observingConfig

	dataDir     string
	grpcAddress string
	httpAddress string
	workers     int
	partitions  int
	demo        bool
	minFree     bytesFlag // of the disk that dataDir is on; 0: the default
	maxLog      bytesFlag // of each partition's log; 0: no limit
	origin      string    // in whose name endpoints are asked for their consent
	egress      egressConfig
	history     historyConfig
	alerts      alertConfig
}

func devCommand() *cobra.Command {
	return roleCommand(&cobra.Command{
		Use:     "dev",
		Short:   "Run a whole cluster in one process",
		Long:    devLong,
		Example: devExample,
	}, new(devConfig))
}

func (c *devConfig) register(flags *pflag.FlagSet) {
	c.logConfig.register(flags)
	c.observingConfig.register(flags)
	flags.StringVar(&c.dataDir, "data-dir", defaultDataDir("dev"), "folder that everything is kept in")
	flags.StringVar(&c.grpcAddress, "grpc-address", defaultAddress, "where to serve gRPC")
	flags.StringVar(&c.httpAddress, "http-address", defaultHTTPAddress, "where to serve REST, CloudEvents, health and metrics")
	flags.IntVar(&c.workers, "workers", 2, "how many workers to run, 1 to 64")
	flags.IntVar(&c.partitions, "partitions", devPartitions, "how many logs to spread tenants over, 1 to 64; fixed once there is data")
	registerSpace(flags, &c.minFree, &c.maxLog)
	registerOrigin(flags, &c.origin)
	c.egress.registerLists(flags)
	c.history.register(flags)
	c.alerts.register(flags)
	flags.BoolVar(&c.demo, "demo", false, "subscribe two receivers, publish real events, and show what happens")
}

// registerSpace adds the limits of space.
func registerSpace(flags *pflag.FlagSet, minFree, maxLog *bytesFlag) {
	flags.Var(minFree, "min-free-space",
		"refuse events while less of the data folder's disk is free (default 2 % of it, 256 MiB to 1 GiB)")
	flags.Var(maxLog, "max-log-bytes", "refuse events of a partition while its log is larger (default no limit)")
}

func (c *devConfig) validate() error {
	const mostPartitions = 64
	if c.dataDir == "" {
		return setting.Wrong("data-dir", "is empty")
	}
	return firstOf(
		validateAddress("grpc-address", c.grpcAddress, defaultAddress),
		validateAddress("http-address", c.httpAddress, defaultHTTPAddress),
		within("workers", c.workers, 1, mostInside),
		within("partitions", c.partitions, 1, mostPartitions),
		c.egress.validate(),
		validateOrigin(c.origin),
		c.history.validate(),
		c.alerts.validate(),
		c.logConfig.validate(),
		c.observingConfig.validate(),
	)
}

// run starts the process and waits for its end:
//
//	           ┌────────────────── data dir ──────────────────┐
//	           │   etcd        NATS JetStream        SQLite   │
//	           └─────▲──────────────▲───────────────────▲─────┘
//	                 │              │                   │
//	clients ──▶ coordinator ◀── gRPC ── worker 1 … n ──▶ endpoints
//
// It stops from right to left, so that nothing is cut off from what it still
// has to report to: first the workers, then the coordinator, then the engines.
// Being told to stop is success, also while it is still starting.
func (c *devConfig) run(cmd *cobra.Command) (err error) {
	ctx := cmd.Context()
	seen, err := c.observe(ctx, "dev")
	if err != nil {
		return err
	}
	defer seen.end(ctx)
	logger := seen.logger
	release, err := lockDataDir(c.dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	engines, err := embedEngines(ctx, c.dataDir, c.history.url, logger)
	if ended(ctx) && errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engines.close()) }()
	c.egress.allowHTTP, c.egress.allowLoopback = true, true
	n := &node{
		security: new(security),
		egress:   c.egress,
		leaseTTL: devTTL,
		logger:   logger,
		observed: seen,
	}
	if err := c.fill(n, engines); err != nil {
		return err
	}
	err = n.run(ctx, func(ctx context.Context) error {
		n.warnIfOpen()
		n.sayReady("data_dir", c.dataDir, "workers", c.workers)
		if c.demo {
			return runDemo(ctx, cmd.OutOrStdout(), logger, n.grpcAddress, n.httpAddress)
		}
		return nil
	})
	return sameAgain(err, c.dataDir, "--data-dir")
}

// fill adds the coordinator and the workers.
func (c *devConfig) fill(n *node, e *engines) error {
	if err := n.addCoordinator(coordinatorPart{
		id: "coordinator-1", grpc: c.grpcAddress, http: c.httpAddress, engines: e,
		alerts:     c.alerts,
		partitions: c.partitions, slots: lead.DefaultSlots, stopTimeout: devStopTimeout,
		minFree: c.minFree.value, maxLog: c.maxLog.value, retention: c.history.retention(),
		origin: c.origin, observing: c.observingConfig,
	}); err != nil {
		return err
	}
	for i := range c.workers {
		if err := n.addWorker(workerPart{
			id:        cluster.MemberID(fmt.Sprintf("worker-%d", i+1)),
			store:     e.store,
			stopGrace: devStopGrace, reportGrace: devReportGrace,
		}); err != nil {
			return err
		}
	}
	return nil
}

// sameAgain explains that a cluster, kept in some place, was made with other
// settings than this process was given. elsewhere names the settings for
// another place.
func sameAgain(err error, place, elsewhere string) error {
	if shape, ok := errors.AsType[*cluster.ShapeError](err); ok {
		if shape.Want.Partitions == shape.Have.Partitions {
			return fmt.Errorf("--slots is %d, but %s was made with %d, which cannot change; leave it at that, or use another %s",
				shape.Want.Slots, place, shape.Have.Slots, elsewhere)
		}
		return fmt.Errorf("--partitions is %d, but %s was made with %d, which cannot change; leave it at that, or use another %s",
			shape.Want.Partitions, place, shape.Have.Partitions, elsewhere)
	}
	return err
}

// sayReady says that everything serves, and where.
func (n *node) sayReady(more ...any) {
	n.logger.Info("ready", append([]any{"grpc", n.grpcAddress, "http", n.security.scheme() + n.httpAddress}, more...)...)
	if halted := n.coordinator.HaltedPartitions(); len(halted) > 0 {
		n.logger.Warn("not for every tenant: some partitions are halted, for the reasons above", "partitions", halted)
	}
}

// warnIfOpen says so if others than this machine can reach what dev serves.
func (n *node) warnIfOpen() {
	for flag, address := range map[string]string{"--grpc-address": n.grpcAddress, "--http-address": n.httpAddress} {
		if bound, err := netip.ParseAddrPort(address); err == nil && !bound.Addr().IsLoopback() {
			n.logger.Warn("open to all who can reach it: dev asks nobody for a password", "flag", flag, "address", address)
		}
	}
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	embeddedetcd "github.com/fanfare-dev/fanfare/internal/cluster/embedded"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	embeddednats "github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	"github.com/fanfare-dev/fanfare/internal/telemetry"
	"github.com/fanfare-dev/fanfare/internal/version"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker"
	"github.com/fanfare-dev/fanfare/worker/egress"
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
	devSlots       = 16
)

// devConfig is what `fanfare dev` is told.
type devConfig struct {
	dataDir     string
	grpcAddress string
	httpAddress string
	workers     int
	partitions  int
	logFormat   string
	logLevel    slog.Level
	demo        bool
	minFree     bytesFlag // of the disk that dataDir is on; 0: the default
	maxLog      bytesFlag // of each partition's log; 0: no limit
	historyURL  string    // of PostgreSQL; empty: SQLite
	keep        retentionFlags
}

func devCommand() *cobra.Command {
	config := devConfig{}
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run a whole cluster in one process",
		Long:    devLong,
		Example: devExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.validate(); err != nil {
				return err
			}
			return runDev(cmd, config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.dataDir, "data-dir", defaultDataDir(), "folder that everything is kept in")
	flags.StringVar(&config.grpcAddress, "grpc-address", "127.0.0.1:7400", "where to serve gRPC")
	flags.StringVar(&config.httpAddress, "http-address", "127.0.0.1:7480", "where to serve REST, CloudEvents, health and metrics")
	flags.IntVar(&config.workers, "workers", 2, "how many workers to run, 1 to 64")
	flags.IntVar(&config.partitions, "partitions", 4, "how many logs to spread tenants over, 1 to 64; fixed once there is data")
	flags.Var(&config.minFree, "min-free-space",
		"refuse events while less of the data folder's disk is free (default 2 % of it, 256 MiB to 1 GiB)")
	flags.Var(&config.maxLog, "max-log-bytes", "refuse events of a partition while its log is larger (default no limit)")
	flags.StringVar(&config.historyURL, "history", "", "PostgreSQL database for the history, as in postgres://user@host/database (default SQLite in --data-dir)")
	config.keep.register(cmd)
	flags.StringVar(&config.logFormat, "log-format", "text", "text or json")
	flags.TextVar(&config.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.BoolVar(&config.demo, "demo", false, "subscribe two receivers, publish real events, and show what happens")
	return cmd
}

// defaultDataDir is in the user's folder for state (XDG Base Directory).
func defaultDataDir() string {
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "fanfare-dev-data"
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "fanfare", "dev")
}

func (c devConfig) validate() error {
	const most = 64
	switch {
	case c.dataDir == "":
		return usagef("--data-dir is empty")
	case !validAddress(c.grpcAddress):
		return usagef("--grpc-address is %q; want host:port, as in 127.0.0.1:7400", c.grpcAddress)
	case !validAddress(c.httpAddress):
		return usagef("--http-address is %q; want host:port, as in 127.0.0.1:7480", c.httpAddress)
	case c.keep.retention().Validate() != nil:
		return usagef("%w", c.keep.retention().Validate())
	case c.workers < 1 || c.workers > most:
		return usagef("--workers is %d; 1 to %d are allowed", c.workers, most)
	case c.partitions < 1 || c.partitions > most:
		return usagef("--partitions is %d; 1 to %d are allowed", c.partitions, most)
	case c.logFormat != "text" && c.logFormat != "json":
		return usagef("--log-format is %q; text and json are allowed", c.logFormat)
	}
	return nil
}

// validAddress wants a port to be named: an empty address would mean any port
// of every interface.
func validAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port != ""
}

func (c devConfig) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: c.logLevel}
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// runDev starts the process and waits for its end:
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
func runDev(cmd *cobra.Command, config devConfig) (err error) {
	ctx, logger := cmd.Context(), config.logger()
	quietGRPC(logger)
	release, err := lockDataDir(config.dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	engines, err := startEngines(ctx, config, logger)
	if ended(ctx) && errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engines.close()) }()
	parts, err := newDevParts(config, engines, logger)
	if err != nil {
		return err
	}
	err = parts.run(ctx, func(ctx context.Context) error {
		parts.warnIfOpen()
		logger.Info("ready", "grpc", parts.grpcAddress, "http", "http://"+parts.httpAddress,
			"data_dir", config.dataDir, "workers", config.workers)
		if halted := parts.coordinator.HaltedPartitions(); len(halted) > 0 {
			logger.Warn("not for every tenant: some partitions are halted, for the reasons above", "partitions", halted)
		}
		if config.demo {
			return runDemo(ctx, cmd.OutOrStdout(), logger, parts.grpcAddress, parts.httpAddress)
		}
		return nil
	})
	if shape, ok := errors.AsType[*cluster.ShapeError](err); ok {
		return fmt.Errorf("--partitions is %d, but %s was made with %d, which cannot change; leave it at that, or use another --data-dir",
			shape.Want.Partitions, config.dataDir, shape.Have.Partitions)
	}
	return err
}

// quietGRPC sends what gRPC itself has to say to the logger: errors only, since
// calls that fail say so where they are made.
func quietGRPC(logger *slog.Logger) {
	errors := slog.NewLogLogger(logger.With("from", "grpc").Handler(), slog.LevelWarn).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, errors))
}

// lockDataDir makes the folder, and keeps other processes out of it.
func lockDataDir(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making --data-dir: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking --data-dir: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("another fanfare process uses %s; stop it, or give this one its own --data-dir", dir)
	}
	return lock.Unlock, nil
}

// engines is what a process stands on.
type engines struct {
	etcd    *embeddedetcd.Server
	nats    *embeddednats.Server
	logs    eventlog.Store
	history history.Store
	secrets *sealed.Box
	closers []func() error // in the order of opening
}

func startEngines(ctx context.Context, config devConfig, logger *slog.Logger) (_ *engines, err error) {
	e := new(engines)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	in := func(name string) string { return filepath.Join(config.dataDir, name) }
	if e.secrets, err = loadSecrets(in("secrets.key"), in("nats")); err != nil {
		return nil, err
	}
	if e.history, err = openHistory(ctx, config.historyURL, in("history.db")); err != nil {
		return nil, err
	}
	e.closers = append(e.closers, e.history.Close)
	if e.etcd, err = embeddedetcd.Start(ctx, embeddedetcd.Config{Dir: in("etcd"), Logger: logger}); err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	e.closers = append(e.closers, e.etcd.Close)
	if e.nats, err = embeddednats.Start(embeddednats.Config{Dir: in("nats"), Logger: logger}); err != nil {
		return nil, fmt.Errorf("starting NATS: %w", err)
	}
	e.closers = append(e.closers, func() error { e.nats.Close(); return nil })
	conn, err := e.nats.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	e.closers = append(e.closers, func() error { conn.Close(); return nil })
	e.logs, err = eventlog.NewJetStream(conn, eventlog.JetStreamConfig{Logger: logger})
	return e, err
}

// loadSecrets returns the box that the signing secrets in the logs are sealed
// in. A new key is made for new logs only: it would open none of the old ones'.
func loadSecrets(key, logs string) (*sealed.Box, error) {
	_, noKey := os.Stat(key)
	_, noLogs := os.Stat(logs)
	if errors.Is(noKey, os.ErrNotExist) && noLogs == nil {
		return nil, fmt.Errorf("%s is gone, and without it the signing secrets in --data-dir cannot be read; put it back, or use another --data-dir", key)
	}
	return sealed.Load(key)
}

// close ends the engines, the last opened first.
func (e *engines) close() error {
	var errs []error
	for len(e.closers) > 0 {
		last := len(e.closers) - 1
		errs = append(errs, e.closers[last]())
		e.closers = e.closers[:last]
	}
	return errors.Join(errs...)
}

// devParts is the coordinator and the workers of the process.
type devParts struct {
	config      devConfig
	coordinator *coordinator.Coordinator
	workers     []*worker.Worker
	telemetry   *telemetry.Telemetry
	grpcAddress string // as bound
	httpAddress string
	logger      *slog.Logger
}

func newDevParts(config devConfig, e *engines, logger *slog.Logger) (*devParts, error) {
	p := &devParts{config: config, logger: logger}
	store := cluster.NewEtcd(e.etcd.Client(), "/fanfare/")
	var err error
	if p.telemetry, err = telemetry.New(version.String()); err != nil {
		return nil, err
	}
	policy := egress.Policy{AllowHTTP: true, AllowLoopback: true}
	if err := p.addCoordinator(e, store, policy); err != nil {
		return nil, err
	}
	for i := range config.workers {
		if err := p.addWorker(i+1, store, policy); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *devParts) addCoordinator(e *engines, store cluster.Store, policy egress.Policy) error {
	listen := net.ListenConfig{}
	onGRPC, err := listen.Listen(context.Background(), "tcp", p.config.grpcAddress)
	if err != nil {
		return fmt.Errorf("listening on --grpc-address: %w", err)
	}
	onHTTP, err := listen.Listen(context.Background(), "tcp", p.config.httpAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("listening on --http-address: %w", err), onGRPC.Close())
	}
	p.grpcAddress, p.httpAddress = onGRPC.Addr().String(), onHTTP.Addr().String()
	p.coordinator = coordinator.New(coordinator.Config{
		Member: cluster.MemberConfig{
			Info: cluster.Info{
				ID: "coordinator-1", Role: cluster.Coordinator, Address: p.grpcAddress, Version: version.String(),
			},
			TTL: devTTL, Logger: p.logger,
		},
		Cluster: store,
		Logs:    e.logs,
		History: e.history,
		Secrets: e.secrets,
		URLs:    policy,
		Logger:  p.logger,
		Meter:   p.telemetry.Meter(),
		GRPC:    onGRPC,
		HTTP:    onHTTP,
		Metrics: p.telemetry.Handler(),
		ServerOptions: []grpc.ServerOption{
			grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithMeterProvider(p.telemetry.MeterProvider()))),
		},
		Partitions:  p.config.partitions,
		Slots:       devSlots,
		StopTimeout: devStopTimeout,
		MaxLogBytes: p.config.maxLog.value,
		Disk: lead.NewDisk(lead.DiskConfig{
			Free:    func() (free, total uint64, err error) { return embeddednats.Free(p.config.dataDir) },
			Reserve: p.config.minFree.value,
			Logger:  p.logger,
		}),
		Silence: lead.DefaultSilence,
		Abort: func(err error) {
			os.Exit(report(os.Stderr, "fanfare dev", fmt.Errorf("%w; start it again when there is space", err)))
		},
		Engines:   e.describe(),
		Retention: p.config.keep.retention(),
	})
	return nil
}

// openHistory opens a database of PostgreSQL or, without a URL, a file.
func openHistory(ctx context.Context, url, file string) (history.Store, error) {
	if url == "" {
		return history.OpenSQLite(ctx, file)
	}
	return history.OpenPostgres(ctx, url, history.PostgresConfig{})
}

func describeHistory(store history.Store) *fanfarev1.Engine {
	if _, ok := store.(*history.Postgres); ok {
		return &fanfarev1.Engine{Name: "history", Description: "PostgreSQL", Sync: "before the log is purged; it is made again from the log"}
	}
	return &fanfarev1.Engine{Name: "history", Description: "SQLite", Sync: "at checkpoints; it is made again from the log"}
}

func (e *engines) describe() []*fanfarev1.Engine {
	sync := "always"
	if !e.nats.SyncsAlways() {
		sync = "not always: what is acknowledged may be lost with the machine"
	}
	return []*fanfarev1.Engine{
		{Name: "etcd", Description: "embedded", Sync: "always"},
		{Name: "nats", Description: "embedded", Sync: sync},
		describeHistory(e.history),
	}
}

func (p *devParts) addWorker(number int, store cluster.Store, policy egress.Policy) error {
	w, err := worker.New(worker.Config{
		ID:            cluster.MemberID(fmt.Sprintf("worker-%d", number)),
		Version:       version.String(),
		LeaseTTL:      devTTL,
		Store:         store,
		Client:        egress.NewClient(egress.Config{Policy: policy}),
		DialOptions:   []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Logger:        p.logger,
		MeterProvider: p.telemetry.MeterProvider(),
		StopGrace:     devStopGrace,
		ReportGrace:   devReportGrace,
	})
	if err != nil {
		return err
	}
	p.workers = append(p.workers, w)
	return nil
}

// warnIfOpen says so if others than this machine can reach what it serves.
func (p *devParts) warnIfOpen() {
	for flag, address := range map[string]string{"--grpc-address": p.grpcAddress, "--http-address": p.httpAddress} {
		if bound, err := netip.ParseAddrPort(address); err == nil && !bound.Addr().IsLoopback() {
			p.logger.Warn("open to all who can reach it: dev asks nobody for a password", "flag", flag, "address", address)
		}
	}
}

// run runs all parts until ctx ends or one of them fails. atReady is called
// once everything serves; when it fails, everything ends.
func (p *devParts) run(ctx context.Context, atReady func(context.Context) error) error {
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	ended := make(chan error, 1)
	go func() { ended <- p.coordinator.Run(serving) }()

	workers, working := errgroup.WithContext(ctx)
	for _, w := range p.workers {
		workers.Go(func() error { return w.Run(working) })
	}
	workers.Go(func() error {
		<-working.Done()
		p.logger.Info("stopping")
		return nil
	})
	workers.Go(func() error {
		select {
		case <-p.coordinator.Ready():
			return atReady(working)
		case <-working.Done():
			return nil
		}
	})
	workers.Go(func() error {
		select {
		case err := <-ended:
			ended <- nil // for who waits below
			return cmp.Or(err, errors.New("the coordinator ended"))
		case <-working.Done():
			return nil
		}
	})
	err := workers.Wait()
	stopServing()
	err = errors.Join(err, <-ended)
	return errors.Join(err, p.telemetry.Shutdown(context.WithoutCancel(ctx)))
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/access"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/version"
	"github.com/fanfare-dev/fanfare/worker"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// node is what runs in one process, and what it shares. At most one
// coordinator, and any number of workers.
type node struct {
	security *security
	egress   egressConfig // of requests to endpoints
	leaseTTL time.Duration
	logger   *slog.Logger
	observed *observed

	coordinator *coordinator.Coordinator // nil: none
	workers     []*worker.Worker
	ops         *http.Server // of a process without coordinator; nil: none
	onOps       net.Listener
	grpcAddress string // as bound
	httpAddress string
}

// coordinatorPart says how a node's coordinator is made.
type coordinatorPart struct {
	id          cluster.MemberID
	grpc, http  string // where to listen
	advertise   string // where others reach it; "": as bound
	engines     *engines
	alerts      alertConfig
	partitions  int
	slots       int
	stopTimeout time.Duration
	minFree     uint64
	maxLog      uint64
	retention   history.Retention
	origin      string // in whose name endpoints are asked for their consent
	observing   observingConfig
}

// addCoordinator makes the coordinator, and binds its addresses.
func (n *node) addCoordinator(p coordinatorPart) error {
	onGRPC, err := listen(p.grpc, "grpc-address")
	if err != nil {
		return err
	}
	onHTTP, err := listen(p.http, "http-address")
	if err != nil {
		return errors.Join(err, onGRPC.Close())
	}
	n.grpcAddress, n.httpAddress = onGRPC.Addr().String(), onHTTP.Addr().String()
	address := cmp.Or(p.advertise, n.grpcAddress)
	if err := n.security.checkHost(address); err != nil {
		return errors.Join(err, onGRPC.Close(), onHTTP.Close())
	}
	config := coordinator.Config{
		Member: cluster.MemberConfig{
			Info: cluster.Info{
				ID: p.id, Role: cluster.Coordinator, Address: address, Version: version.String(),
			},
			TTL: n.leaseTTL, Logger: n.logger,
		},
		Cluster:            p.engines.store,
		Logs:               p.engines.logs,
		History:            p.engines.history,
		Secrets:            p.engines.secrets,
		SecretsFingerprint: p.engines.secrets.Fingerprint(),
		URLs:               n.egress.policy(),
		Tester:             worker.NewTester(n.client(0), version.String()),
		WebhookOrigin:      p.origin,
		Logger:             n.logger,
		Meter:              n.observed.Meter(),
		Tracer:             n.observed.Tracer(),
		TenantMetrics:      p.observing.tenantMetrics,
		TraceDeliveries:    p.observing.traced(),
		GRPC:               onGRPC,
		HTTP:               n.security.overHTTP(onHTTP),
		Metrics:            n.observed.Handler(),
		ServerOptions:      append(n.security.serverOptions(), grpc.StatsHandler(otelgrpc.NewServerHandler(n.observed.rpc()...))),
		DialOptions:        append(n.security.dialOptions(), grpc.WithStatsHandler(otelgrpc.NewClientHandler(n.observed.rpc()...))),
		Partitions:         p.partitions,
		Slots:              p.slots,
		StopTimeout:        p.stopTimeout,
		MaxLogBytes:        p.maxLog,
		Retention:          p.retention,
		Engines:            p.engines.about,
	}
	config.AlertLink = p.alerts.link
	if config.Told, err = p.alerts.listeners(n.logger, config.Meter); err != nil {
		return errors.Join(err, onGRPC.Close(), onHTTP.Close())
	}
	if n.security.keeper != nil {
		config.CertificateEnds = n.security.keeper.Expires
	}
	if p.engines.free != nil {
		config.Disk = lead.NewDisk(lead.DiskConfig{Free: p.engines.free, Reserve: p.minFree, Logger: n.logger})
		config.Silence = lead.DefaultSilence
		config.Abort = func(err error) {
			os.Exit(report(os.Stderr, "fanfare", fmt.Errorf("%w; start it again when there is space", err)))
		}
	}
	if n.security.guard != nil {
		config.Guard = n.security.guard
		config.Principal = func(ctx context.Context) string {
			caller, _ := access.CallerOf(ctx)
			return caller.Name
		}
	}
	n.coordinator = coordinator.New(config)
	return nil
}

func listen(address, flag string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on --%s: %w", flag, err)
	}
	return listener, nil
}

// client returns a way out to endpoints, with room for so many connections to
// one host, or more.
func (n *node) client(perHost int) *egress.Client {
	return egress.NewClient(egress.Config{
		Policy: n.egress.policy(), Proxy: n.egress.proxy.value, MeterProvider: n.observed.MeterProvider(),
		MaxConnsPerHost: max(perHost, egress.DefaultMaxConnsPerHost),
	})
}

// workerPart says how a node's worker is made; zero values are worker.Config's.
type workerPart struct {
	id          cluster.MemberID
	store       cluster.Store
	weight      int
	creditCount uint32
	creditBytes uint64
	maxBytes    uint64
	maxRequests int
	perHost     int
	perAddress  int
	stopGrace   time.Duration
	reportGrace time.Duration
}

func (n *node) addWorker(p workerPart) error {
	client := n.client(max(p.perHost, p.maxRequests)) // the worker's own limits are the ones that count
	w, err := worker.New(worker.Config{
		ID:            p.id,
		Version:       version.String(),
		Weight:        p.weight,
		LeaseTTL:      n.leaseTTL,
		Store:         p.store,
		Client:        client,
		Observe:       client.Observe,
		DialOptions:   n.security.dialOptions(),
		Logger:        n.logger,
		MeterProvider: n.observed.MeterProvider(),
		Tracer:        n.observed.Tracer(),
		CreditCount:   p.creditCount,
		CreditBytes:   p.creditBytes,
		MaxBytes:      p.maxBytes,
		MaxRequests:   p.maxRequests,

		MaxRequestsPerHost:    p.perHost,
		MaxRequestsPerAddress: p.perAddress,

		StopGrace:   p.stopGrace,
		ReportGrace: p.reportGrace,
	})
	if err != nil {
		return err
	}
	n.workers = append(n.workers, w)
	return nil
}

// run runs all parts until ctx ends or one of them fails: first the workers
// end, then the coordinator, so that nothing is cut off from what it still has
// to report to. atReady is called once everything serves; when it fails,
// everything ends.
func (n *node) run(ctx context.Context, atReady func(context.Context) error) error {
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	ended, ready := n.start(serving)

	workers, working := errgroup.WithContext(ctx)
	for _, w := range n.workers {
		workers.Go(func() error { return w.Run(working) })
	}
	workers.Go(func() error {
		<-working.Done()
		n.logger.Info("stopping")
		return nil
	})
	workers.Go(func() error {
		select {
		case <-ready:
			return atReady(working)
		case <-working.Done():
			return nil
		}
	})
	workers.Go(func() error {
		select {
		case err := <-ended:
			ended <- nil // for who waits below
			return cmp.Or(err, errors.New("the server ended"))
		case <-working.Done():
			return nil
		}
	})
	err := workers.Wait()
	stopServing()
	return errors.Join(err, <-ended)
}

// start runs what serves until ctx ends: the coordinator, or where there is
// none what tells about the workers. ended gets one value; it has room for it.
func (n *node) start(ctx context.Context) (ended chan error, ready <-chan struct{}) {
	ended = make(chan error, 1)
	if n.coordinator != nil {
		go func() { ended <- n.coordinator.Run(ctx) }()
		return ended, n.coordinator.Ready()
	}
	go func() { ended <- n.serveOps(ctx) }()
	now := make(chan struct{})
	close(now)
	return ended, now
}

// serveOps serves HTTP until ctx ends.
func (n *node) serveOps(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = n.ops.Close() })
	defer stop()
	if err := n.ops.Serve(n.onOps); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP: %w", err)
	}
	return nil
}

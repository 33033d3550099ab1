package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Defaults of Config.
const (
	DefaultPartitions  = 16
	DefaultStopTimeout = 3 * time.Second
	headerTimeout      = 10 * time.Second
	minPing            = 5 * time.Second // between two keep-alive pings of a client
	gatewayBuffer      = 1 << 20         // of the gateway's connection inside the process; bytes
	maxReceiveBytes    = serve.MaxRequestBytes + 1<<20
)

// Config is what a coordinator needs. Zero values of the limits are the
// defaults.
type Config struct {
	Member  cluster.MemberConfig // with the id, and the address others reach it at
	Cluster cluster.Store
	Logs    eventlog.Store
	History history.Store
	Secrets serve.Sealer
	URLs    serve.URLPolicy
	Logger  *slog.Logger
	Meter   metric.Meter // nil: nothing is measured

	GRPC          net.Listener
	HTTP          net.Listener // nil: no HTTP
	Metrics       http.Handler // at /metrics
	ServerOptions []grpc.ServerOption

	Partitions  int            // fixed when the cluster is made
	Slots       int            // shards of a partition; fixed when the cluster is made
	Limits      *linkv1.Limits // of the ledgers
	StopTimeout time.Duration  // how long calls under way may take when it stops
	MaxLogBytes uint64         // of each log, from where on events are refused; 0: only the store limits it
	Disk        *lead.Disk     // that the logs are on, if their store is in this process; Run watches it
	Silence     time.Duration  // of a log, after which Run fails with lead.ErrSilent; 0: it is waited for
	// Abort is called before Run fails with lead.ErrSilent, to end the process
	// at once. A goodbye would be written to the disk that failed, on which
	// embedded etcd panics. nil: Run says goodbye.
	Abort func(error)
	// Engines says what the cluster stands on, for those who look.
	Engines []*fanfarev1.Engine
	// Retention says how long the history is kept. Run removes what is older.
	Retention history.Retention
}

// Coordinator is one coordinator process.
type Coordinator struct {
	config Config
	logger *slog.Logger
	api    *serve.Server
	ready  chan struct{} // closed once every partition is settled
	once   sync.Once     // guards the closing of ready
	view   view

	mu       sync.Mutex
	leaders  map[int]*lead.Leader // guarded by mu; those that run here
	troubles map[int]error        // guarded by mu; why a partition cannot be led here
	settled  map[int]bool         // guarded by mu; partitions that were led here, or halted
}

// New returns a coordinator that does not run yet.
func New(config Config) *Coordinator {
	config.Partitions = cmp.Or(config.Partitions, DefaultPartitions)
	config.Slots = cmp.Or(config.Slots, lead.DefaultSlots)
	config.StopTimeout = cmp.Or(config.StopTimeout, DefaultStopTimeout)
	c := &Coordinator{
		config:   config,
		logger:   config.Logger,
		ready:    make(chan struct{}),
		leaders:  make(map[int]*lead.Leader),
		troubles: make(map[int]error),
		settled:  make(map[int]bool),
	}
	c.api = serve.New(serve.Config{
		Directory: c, History: config.History, URLs: config.URLs, Secrets: config.Secrets, Logger: config.Logger,
	})
	return c
}

// Ready is closed once every partition has had a leader here, or was found to
// be halted: see HaltedPartitions.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Run serves until ctx ends, which is no error, or until the process should:
// lead.ErrSilent. It may be called once.
func (c *Coordinator) Run(ctx context.Context) error {
	stopMeasuring, err := c.measure()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if c.config.Disk != nil {
		group.Go(func() error { return c.config.Disk.Run(ctx) })
	}
	keeper := &history.Keeper{Store: c.config.History, Retention: c.config.Retention, Logger: c.config.Logger}
	group.Go(func() error { return keeper.Run(ctx) })
	group.Go(func() error { return c.serve(ctx) })
	group.Go(func() error {
		return cluster.Live(ctx, c.config.Cluster, c.config.Member, c.live)
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, stopMeasuring())
}

// live is one life as a member of the cluster.
func (c *Coordinator) live(life context.Context, member *cluster.Member) error {
	if err := c.ensureShape(life); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(life)
	group.Go(func() error { return c.view.follow(ctx, c.config.Cluster) })
	group.Go(func() error { return c.assign(ctx, member) })
	for partition := range c.config.Partitions {
		group.Go(func() error { return c.hold(ctx, member, partition) })
	}
	err := group.Wait()
	if errors.Is(err, cluster.ErrLeaseGone) {
		// The store told somebody else first. The member hears it when it
		// renews, which ends this life and begins the next.
		<-life.Done()
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// ensureShape compares the cluster's shape with the configured one, when the
// store can be reached: until then nothing else can be done either.
func (c *Coordinator) ensureShape(ctx context.Context) error {
	shape := cluster.Shape{Partitions: c.config.Partitions, Slots: c.config.Slots}
	for {
		err := cluster.EnsureShape(ctx, c.config.Cluster, shape)
		if _, differs := errors.AsType[*cluster.ShapeError](err); err == nil || differs {
			return err
		}
		c.logger.Warn("reading the cluster's shape", "error", err, "again_in", holdRetry)
		select {
		case <-time.After(holdRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve runs the servers until ctx ends.
func (c *Coordinator) serve(ctx context.Context) error {
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxReceiveBytes),
		// Workers and clients may ask whether the connection is alive more
		// often than gRPC allows by default.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(serve.UnaryErrors),
		grpc.ChainStreamInterceptor(serve.StreamErrors),
	}, c.config.ServerOptions...)...)
	c.api.Register(server)
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveOn(server, c.config.GRPC) })
	if c.config.HTTP != nil {
		if err := c.serveHTTP(ctx, group, server); err != nil {
			server.Stop()
			return errors.Join(err, group.Wait())
		}
	}
	group.Go(func() error {
		<-ctx.Done()
		stop(server, c.config.StopTimeout)
		return nil
	})
	return group.Wait()
}

// serveHTTP adds the HTTP server, which reaches the services as any client
// does, but without leaving the process.
func (c *Coordinator) serveHTTP(ctx context.Context, group *errgroup.Group, server *grpc.Server) error {
	inside := bufconn.Listen(gatewayBuffer)
	conn, err := grpc.NewClient("passthrough:///inside",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return inside.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
	)
	if err != nil {
		return fmt.Errorf("connecting the REST gateway: %w", err)
	}
	handler, err := serve.HTTP(ctx, serve.HTTPConfig{API: conn, Ready: c.api.Ready, Metrics: c.config.Metrics})
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	web := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(c.logger.Handler(), slog.LevelWarn),
	}
	group.Go(func() error { return serveOn(server, inside) })
	group.Go(func() error {
		if err := web.Serve(c.config.HTTP); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving HTTP: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.StopTimeout)
		defer cancel()
		if web.Shutdown(stopping) != nil {
			_ = web.Close() // what is still open was given its time
		}
		return conn.Close()
	})
	return nil
}

// serveOn serves until the server is stopped, which is no error: neither when
// it was before it could begin.
func serveOn(server *grpc.Server, listener net.Listener) error {
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serving gRPC: %w", err)
	}
	return nil
}

// stop lets calls under way end, but not for ever.
func stop(server *grpc.Server, timeout time.Duration) {
	timer := time.AfterFunc(timeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

// Partitions implements serve.Directory.
func (c *Coordinator) Partitions() int { return c.config.Partitions }

// Leader implements serve.Directory.
func (c *Coordinator) Leader(partition int) (*lead.Leader, error) {
	if partition < 0 || partition >= c.config.Partitions {
		return nil, status.Errorf(codes.InvalidArgument, "partition %d does not exist; there are %d", partition, c.config.Partitions)
	}
	c.mu.Lock()
	leader, trouble := c.leaders[partition], c.troubles[partition]
	c.mu.Unlock()
	if leader != nil {
		return leader, nil
	}
	if ready, ok := c.view.ready(partition); ok && ready.Coordinator != c.config.Member.Info.ID {
		return nil, status.Errorf(codes.Unavailable, "partition %d is led by %s at %s", partition, ready.Coordinator, ready.Address)
	}
	if trouble != nil {
		return nil, status.Error(codes.Unavailable, trouble.Error())
	}
	return nil, status.Errorf(codes.Unavailable, "partition %d has no leader just now; try again", partition)
}

// Describe implements serve.Directory.
func (c *Coordinator) Describe(context.Context) (*fanfarev1.Cluster, error) {
	described := c.view.describe(c.config.Partitions, c.config.Slots)
	described.Engines = c.config.Engines
	if err := c.config.Disk.Full(); err != nil {
		described.Problems = append(described.Problems, err.Error())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for partition := range c.config.Partitions {
		if trouble := c.troubles[partition]; trouble != nil && !c.ledElsewhere(partition) {
			described.Problems = append(described.Problems, trouble.Error())
		}
	}
	return described, nil
}

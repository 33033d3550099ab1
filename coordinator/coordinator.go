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
	"go.opentelemetry.io/otel/trace"
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
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/coordinator/notify"
	"github.com/fanfare-dev/fanfare/coordinator/route"
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
	// DefaultHandOverTimeout is how long a coordinator that stops waits for
	// others to take over its next partition.
	DefaultHandOverTimeout = 10 * time.Second
	headerTimeout          = 10 * time.Second
	minPing                = 5 * time.Second // between two keep-alive pings of a client
	gatewayBuffer          = 1 << 20         // of the gateway's connection inside the process; bytes
	maxReceiveBytes        = serve.MaxRequestBytes + 1<<20
)

// Config is what a coordinator needs. Zero values of the limits are the
// defaults.
type Config struct {
	Member  cluster.MemberConfig // with the id, and the address others reach it at
	Cluster cluster.Store
	Logs    eventlog.Store
	History history.Store
	Secrets serve.Sealer
	// SecretsFingerprint tells Secrets' key from others, so that all
	// coordinators of a cluster have the same; "": it is not compared.
	SecretsFingerprint string
	URLs               serve.URLPolicy
	Tester             serve.Tester // nil: no endpoint is tested or verified
	WebhookOrigin      string       // who asks endpoints for their consent; "": serve.DefaultOrigin
	Logger             *slog.Logger
	Meter              metric.Meter // nil: nothing is measured
	Tracer             trace.Tracer // nil: nothing is traced

	GRPC    net.Listener
	HTTP    net.Listener // nil: no HTTP
	Metrics http.Handler // at /metrics
	// Guard says who may call over HTTP; nil: everybody. Who may call over gRPC
	// is up to interceptors among ServerOptions.
	Guard Guard
	// ServerOptions come after what the services need, and before what forwards
	// calls: interceptors that decide who may call belong here.
	ServerOptions []grpc.ServerOption
	// DialOptions are how other coordinators are dialled, to forward calls to
	// them: transport credentials at the least. Without any, calls are served
	// by the partition's leader only.
	DialOptions []grpc.DialOption
	// Principal returns the name of who makes a call, to be passed on with it;
	// nil: it is not.
	Principal func(context.Context) string

	Partitions  int            // fixed when the cluster is made
	Slots       int            // shards of a partition; fixed when the cluster is made
	Limits      *linkv1.Limits // of the ledgers
	StopTimeout time.Duration  // how long calls under way may take when it stops
	// HandOverTimeout is how long a coordinator that stops waits for others to
	// take over its next partition, before it leaves all the same.
	HandOverTimeout time.Duration
	// TenantMetrics is how many tenants are counted by their names; 0: none.
	TenantMetrics int
	// TraceDeliveries is of how many deliveries of one traced event the attempts
	// are in its trace even if nothing fails; 0: lead.DefaultTraceDeliveries,
	// negative: none.
	TraceDeliveries int
	MaxLogBytes     uint64        // of each log, from where on events are refused; 0: only the store limits it
	Disk            *lead.Disk    // that the logs are on, if their store is in this process; Run watches it
	Silence         time.Duration // of a log, after which Run fails with lead.ErrSilent; 0: it is waited for
	// Abort is called before Run fails with lead.ErrSilent, to end the process
	// at once. A goodbye would be written to the disk that failed, on which
	// embedded etcd panics. nil: Run says goodbye.
	Abort func(error)
	// Engines says what the cluster stands on and what is wrong with it, for
	// those who look. Default: nothing is said.
	Engines func() (engines []*fanfarev1.Engine, problems []string)
	// Retention says how long the history is kept. Run removes what is older.
	Retention history.Retention
	// Told are who is told of alerts, beside those who subscribe to them. Run
	// runs them.
	Told []notify.Listener
	// AlertLink is what links to alerts begin with; "": they have none.
	AlertLink string
	// CertificateEnds says when this process's certificate does; nil: it has none.
	CertificateEnds func() time.Time
}

// Guard says who may call over HTTP.
type Guard interface {
	// HTTP wraps a handler, which then is told by the request's context who
	// calls.
	HTTP(next http.Handler) http.Handler
	// Inside is how the handler dials the gRPC services, so that they are told
	// as well.
	Inside() grpc.DialOption
}

// Coordinator is one coordinator process.
type Coordinator struct {
	config Config
	logger *slog.Logger
	told   notify.All // of alerts; set by Run before anything else runs
	api    *serve.Server
	ready  chan struct{} // closed once every partition is settled
	once   sync.Once     // guards the closing of ready
	view   view
	router *route.Router

	metrics *coordinatorMetrics // set by Run before anything else runs
	tenants *lead.TenantMetrics // likewise; nil: tenants are not counted each

	mu       sync.Mutex
	leaders  map[int]*lead.Leader // guarded by mu; those that run here
	troubles map[int]error        // guarded by mu; why a partition cannot be led here
	settled  map[int]bool         // guarded by mu; partitions that were led, or halted
	places   []place              // guarded by mu; by partition
	life     *cluster.Member      // guarded by mu; nil: it is not a member just now
	lived    bool                 // guarded by mu; it was a member
}

// New returns a coordinator that does not run yet.
func New(config Config) *Coordinator {
	config.Partitions = cmp.Or(config.Partitions, DefaultPartitions)
	config.Slots = cmp.Or(config.Slots, lead.DefaultSlots)
	config.StopTimeout = cmp.Or(config.StopTimeout, DefaultStopTimeout)
	config.HandOverTimeout = cmp.Or(config.HandOverTimeout, DefaultHandOverTimeout)
	c := &Coordinator{
		config:   config,
		logger:   config.Logger,
		ready:    make(chan struct{}),
		leaders:  make(map[int]*lead.Leader),
		troubles: make(map[int]error),
		settled:  make(map[int]bool),
		places:   make([]place, config.Partitions),
	}
	for i := range c.places {
		c.places[i].moved = make(chan struct{})
	}
	c.router = route.New(route.Config{
		Directory:  c,
		Partitions: config.Partitions,
		PartitionOf: func(tenant string) int {
			return serve.PartitionOf(ledger.TenantID(tenant), config.Partitions)
		},
		DialOptions:     config.DialOptions,
		Principal:       config.Principal,
		MaxReceiveBytes: maxReceiveBytes,
		NewID:           serve.NewEventID,
	})
	c.api = serve.New(serve.Config{
		Directory: c, History: config.History, URLs: config.URLs, Tester: config.Tester, Secrets: config.Secrets, Logger: config.Logger,
		Origin: config.WebhookOrigin, Route: c.router.Unary,
		Meter: config.Meter, Tracer: config.Tracer,
	})
	c.api.CertificateEnds = config.CertificateEnds
	return c
}

// Ready is closed once every partition has had a leader, here or elsewhere, or
// was found to be halted: see HaltedPartitions.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Run serves until ctx ends, which is no error, or until the process should:
// lead.ErrSilent. It may be called once.
func (c *Coordinator) Run(ctx context.Context) error {
	stopMeasuring, err := c.startMeasuring()
	if err != nil {
		return err
	}
	if c.told, err = c.newTold(); err != nil {
		return errors.Join(err, stopMeasuring())
	}
	// What is served is served until nothing is led here any more.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group, serving := errgroup.WithContext(serving)
	living, die := context.WithCancel(ctx)
	defer die()
	context.AfterFunc(serving, die) // a server that fails ends everything
	if c.config.Disk != nil {
		group.Go(func() error { return c.config.Disk.Run(serving) })
	}
	keeper := &history.Keeper{Store: c.config.History, Retention: c.config.Retention, Logger: c.config.Logger}
	group.Go(func() error { return keeper.Run(serving) })
	group.Go(func() error { return c.told.Run(serving) })
	group.Go(func() error { return c.watchSelf(serving) })
	group.Go(func() error { return c.serve(serving) })
	var lived error // why the last life has ended
	group.Go(func() error {
		defer stopServing()
		lived = cluster.Live(living, c.config.Cluster, c.config.Member, c.live)
		return lived
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) { // of one who was told to stop, and was quicker to say so
		err = lived
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, c.router.Close(), stopMeasuring())
}

// live is one life as a member of the cluster. When it is to end and the lease
// is not lost, the others take over first.
func (c *Coordinator) live(life context.Context, member *cluster.Member) error {
	if err := c.ensureSame(life); err != nil {
		return err
	}
	c.setLife(member)
	defer c.setLife(nil)
	leading, stop := context.WithCancel(context.WithoutCancel(life))
	defer stop()
	group, ctx := errgroup.WithContext(leading)
	group.Go(func() error { return c.view.follow(ctx, c.config.Cluster, c.learn) })
	group.Go(func() error { return c.assign(ctx, member) })
	for partition := range c.config.Partitions {
		group.Go(func() error { return c.hold(ctx, member, partition) })
	}
	group.Go(func() error {
		select {
		case <-life.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		if !errors.Is(context.Cause(life), cluster.ErrLeaseGone) {
			c.handOverAll(ctx, member)
		}
		stop()
		return context.Canceled
	})
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

// ensureSame compares what all coordinators must be told alike with what the
// cluster was made with, when the store can be reached: until then nothing else
// can be done either.
func (c *Coordinator) ensureSame(ctx context.Context) error {
	shape := cluster.Shape{Partitions: c.config.Partitions, Slots: c.config.Slots}
	for {
		err := cluster.EnsureShape(ctx, c.config.Cluster, shape)
		if err == nil && c.config.SecretsFingerprint != "" {
			err = cluster.EnsureSecrets(ctx, c.config.Cluster, c.config.SecretsFingerprint)
		}
		_, otherShape := errors.AsType[*cluster.ShapeError](err)
		_, otherKey := errors.AsType[*cluster.SecretsError](err)
		if err == nil || otherShape || otherKey {
			return err
		}
		c.logger.Warn("reading what the cluster was made with", "error", err, "again_in", holdRetry)
		select {
		case <-time.After(holdRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve runs the servers until ctx ends.
func (c *Coordinator) serve(ctx context.Context) error {
	options := append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxReceiveBytes),
		// Workers and clients may ask whether the connection is alive more
		// often than gRPC allows by default.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(serve.UnaryErrors),
		grpc.ChainStreamInterceptor(serve.StreamErrors),
	}, c.config.ServerOptions...)
	server := grpc.NewServer(append(options,
		grpc.ChainUnaryInterceptor(c.router.Unary, serve.UnaryErrors),
		grpc.ChainStreamInterceptor(c.router.Stream, serve.StreamErrors),
	)...)
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
	dial := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return inside.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
	}
	if c.config.Guard != nil {
		dial = append(dial, c.config.Guard.Inside())
	}
	conn, err := grpc.NewClient("passthrough:///inside", dial...)
	if err != nil {
		return fmt.Errorf("connecting the REST gateway: %w", err)
	}
	handler, err := serve.HTTP(ctx, serve.HTTPConfig{API: conn, Ready: c.api.Ready, Metrics: c.config.Metrics})
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if c.config.Guard != nil {
		handler = c.config.Guard.HTTP(handler)
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
	if ready, ok := c.view.ready(partition); ok && ready.Coordinator != c.self() {
		return nil, route.Unavailable(route.ReasonNotLeader,
			fmt.Sprintf("partition %d is led by %s at %s", partition, ready.Coordinator, ready.Address))
	}
	if trouble != nil {
		return nil, status.Error(codes.Unavailable, trouble.Error())
	}
	return nil, route.Unavailable(route.ReasonNotLeader, fmt.Sprintf("partition %d has no leader just now; try again", partition))
}

// LedElsewhere implements serve.Directory.
func (c *Coordinator) LedElsewhere(partition int) bool { return c.ledElsewhere(partition) }

// Drain implements serve.Directory.
func (c *Coordinator) Drain(ctx context.Context, member string, drain bool) (*fanfarev1.Member, error) {
	id := cluster.MemberID(member)
	now, _ := c.view.now()
	if _, found := now.members[id]; !found {
		return nil, serve.NotFound("member", member)
	}
	if err := cluster.SetDrain(ctx, c.config.Cluster, id, drain); err != nil {
		return nil, route.Unavailable("", err.Error())
	}
	described := now.describeMember(id)
	described.Draining = drain || now.members[id].info.Draining
	return described, nil
}

func (c *Coordinator) setLife(member *cluster.Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = member
	c.lived = c.lived || member != nil
}

// doubt returns what is wrong with the store of members and owners; nothing if
// nothing is.
func (c *Coordinator) doubt() string {
	c.mu.Lock()
	member := c.life
	c.mu.Unlock()
	switch {
	case member == nil:
		return string(c.self()) + " is no member of the cluster just now: it cannot join"
	case !member.Alive():
		return string(c.self()) + " cannot reach etcd: it serves on, but nothing moves, and what dies is not replaced"
	default:
		return ""
	}
}

// Describe implements serve.Directory.
func (c *Coordinator) Describe(context.Context) (*fanfarev1.Cluster, error) {
	now, _ := c.view.now()
	described := now.describe(c.config.Partitions, c.config.Slots)
	if c.config.Engines != nil {
		engines, problems := c.config.Engines()
		described.Engines, described.Problems = engines, append(described.Problems, problems...)
	}
	if doubt := c.doubt(); doubt != "" {
		described.Problems = append(described.Problems, doubt)
	}
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

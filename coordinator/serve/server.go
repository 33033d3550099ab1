package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Sizes of pages.
const (
	defaultPageSize = 50
	maxPageSize     = 1000
	exportPageSize  = 500 // of what an export reads at once
)

// readTimeout bounds how long a read waits for the history to catch up with
// what was acknowledged.
const readTimeout = 5 * time.Second

// errBehind: the history has not caught up with what was acknowledged.
var errBehind = errors.New("the history is behind")

// Directory knows the partitions.
type Directory interface {
	// Partitions returns how many there are.
	Partitions() int
	// Leader returns a partition's leader, if it is in this process. An error
	// says who leads it instead, as a status a client understands.
	Leader(partition int) (*lead.Leader, error)
	// Halted returns why a partition cannot be served from the data there is,
	// and what to do; nil if it can.
	Halted(partition int) error
	// LedElsewhere reports whether another process leads a partition.
	LedElsewhere(partition int) bool
	// Describe returns the members, shards and engines as the cluster has
	// them, and the partitions without what only their leaders know.
	Describe(ctx context.Context) (*fanfarev1.Cluster, error)
	// Drain says whether a member is to be given nothing, and returns it.
	Drain(ctx context.Context, member string, drain bool) (*fanfarev1.Member, error)
}

// URLPolicy says which endpoints may be subscribed.
type URLPolicy interface {
	// CheckURL returns what is wrong with a URL, or nil.
	CheckURL(url string) error
}

// Sealer encrypts secrets, and opens them.
type Sealer interface {
	lead.Opener
	Seal(secret string) []byte
}

// Tester sends single events, outside of all deliveries.
type Tester interface {
	// Test sends the event of a dispatch to an endpoint, once, and tells what
	// was sent and what came back.
	Test(ctx context.Context, endpoint *linkv1.Endpoint, event *linkv1.Dispatch) *fanfarev1.SendTestResponse
	// Handshake asks an endpoint, in the name of an origin, whether it wants
	// what is to be sent to it, and returns what it grants. An error says what
	// it did instead.
	Handshake(ctx context.Context, endpoint *linkv1.Endpoint, origin string) (*fanfarev1.WebhookHandshake, error)
}

// Config is what the API needs.
type Config struct {
	Directory Directory
	History   history.Store
	URLs      URLPolicy
	Tester    Tester // nil: nothing can be sent from here
	Origin    string // who asks endpoints for their consent; "": DefaultOrigin
	Secrets   Sealer
	Logger    *slog.Logger
	Meter     metric.Meter // nil: nothing is measured
	Tracer    trace.Tracer // nil: nothing is traced
	// Route brings what is about a partition to its leader; nil: all are led
	// here.
	Route grpc.UnaryServerInterceptor
	// CertificateEnds says when this process's certificate does; nil: it has none.
	CertificateEnds func() time.Time
}

// Server is the API: every service of package fanfare.v1, and the workers'
// link.
type Server struct {
	fanfarev1.UnimplementedEventServiceServer
	fanfarev1.UnimplementedSubscriptionServiceServer
	fanfarev1.UnimplementedDeliveryServiceServer
	fanfarev1.UnimplementedTenantServiceServer
	fanfarev1.UnimplementedClusterServiceServer
	fanfarev1.UnimplementedAlertServiceServer
	linkv1.UnimplementedLinkServiceServer
	linkv1.UnimplementedPartitionServiceServer

	Config
	metrics *serveMetrics
}

// New returns the API.
func New(config Config) *Server {
	if config.Route == nil {
		config.Route = func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, request)
		}
	}
	config.Origin = cmp.Or(config.Origin, DefaultOrigin)
	if config.Meter == nil {
		config.Meter = metricnoop.Meter{}
	}
	if config.Tracer == nil {
		config.Tracer = tracenoop.Tracer{}
	}
	return &Server{Config: config, metrics: newMetrics(config.Meter)}
}

// Register adds all services to a gRPC server.
func (s *Server) Register(to grpc.ServiceRegistrar) {
	fanfarev1.RegisterEventServiceServer(to, s)
	fanfarev1.RegisterSubscriptionServiceServer(to, s)
	fanfarev1.RegisterDeliveryServiceServer(to, s)
	fanfarev1.RegisterTenantServiceServer(to, s)
	fanfarev1.RegisterClusterServiceServer(to, s)
	fanfarev1.RegisterAlertServiceServer(to, s)
	linkv1.RegisterLinkServiceServer(to, s)
	linkv1.RegisterPartitionServiceServer(to, s)
}

// leader returns the leader of a tenant that exists.
func (s *Server) leader(ctx context.Context, tenant ledger.TenantID) (*lead.Leader, error) {
	leader, err := s.Directory.Leader(PartitionOf(tenant, s.Directory.Partitions()))
	if err != nil {
		return nil, err
	}
	if builtIn(tenant) {
		return leader, nil
	}
	var exists bool
	if err := leader.Query(ctx, func(l *ledger.Ledger) { exists = l.Tenant(tenant) != nil }); err != nil {
		return nil, err
	}
	if !exists {
		return nil, notFound("tenant", string(tenant))
	}
	return leader, nil
}

// followed returns once the history shows all that was acknowledged to the
// tenant before the call.
func (s *Server) followed(ctx context.Context, tenant ledger.TenantID) error {
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err = leader.Followed(waiting)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return errBehind
	}
	return err
}

func pageOf(size int32, token string) (history.Page, error) {
	switch {
	case size < 0:
		return history.Page{}, invalid("page_size", "is %d; it cannot be negative", size)
	case size == 0:
		size = defaultPageSize
	}
	return history.Page{Size: int(min(size, maxPageSize)), Token: token}, nil
}

// NewEventID returns a new id for an event whose producer gave it none.
func NewEventID() (string, error) { return newID("evt_") }

// newID returns a new id that sorts by the time it was made.
func newID(prefix string) (string, error) {
	id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("making an id: %w", err)
	}
	return prefix + strings.ToLower(id.String()), nil
}

// Attach serves the link of one worker.
func (s *Server) Attach(stream grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	request, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := request.GetHello()
	if hello == nil {
		return status.Error(codes.FailedPrecondition, "the first message must be a hello")
	}
	leader, err := s.Directory.Leader(int(hello.GetPartition()))
	if err != nil {
		return err
	}
	return leader.Attach(stream, hello)
}

package worker

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

// What a worker does unless its Config says otherwise.
const (
	// DefaultCreditCount is how many deliveries a worker takes from one
	// partition before their outcomes are durable.
	DefaultCreditCount = 4096
	// DefaultCreditBytes is how many bytes of events it takes likewise.
	DefaultCreditBytes = 64 << 20
	// DefaultMaxRequests is how many requests it has on the wire at a time,
	// to all endpoints together.
	DefaultMaxRequests = 1024
	// hostDivisor and addressDivisor set which part of these go to one host
	// and to one address, unless a Config says otherwise; but never less than
	// least of each.
	hostDivisor, leastHost       = 4, 8
	addressDivisor, leastAddress = 2, 16
	// DefaultMaxBytes is how many bytes of events it has in hand, of all
	// partitions together.
	DefaultMaxBytes = 512 << 20
	// DefaultStopGrace is how long a worker that stops lets requests go on:
	// as long as an attempt may take by default.
	DefaultStopGrace = 15 * time.Second
	// DefaultReportGrace is how long it then waits for its outcomes to be
	// durable.
	DefaultReportGrace = 5 * time.Second
)

const (
	// drainTimeout bounds telling the cluster that the worker wants to leave. It
	// leaves anyway.
	drainTimeout = 2 * time.Second
	// handOverPatience is how long a worker that leaves waits for the next of
	// its shards to be given to another. It works on all it has meanwhile.
	handOverPatience = time.Second
)

// Config is how a worker is made. ID, Store, Client, DialOptions and Logger
// must be set; the zero value of any other field is its default.
type Config struct {
	// ID is the worker's member id. One process at a time has it.
	ID cluster.MemberID
	// Version of the program: published, and sent to endpoints in User-Agent.
	Version string
	// Weight is the share of the shards it should get, next to the others'.
	Weight int
	// LeaseTTL and LeaseClock are cluster.MemberConfig's TTL and Clock.
	LeaseTTL   time.Duration
	LeaseClock cluster.Clock

	// Store says who is here and who owns what.
	Store cluster.Store
	// Client sends the requests. It decides where they may go.
	Client Doer
	// DialOptions are how leaders are dialled: transport credentials at the
	// least.
	DialOptions []grpc.DialOption
	// Logger is told what goes wrong.
	Logger *slog.Logger
	// MeterProvider takes the worker's metrics; nil takes none.
	MeterProvider metric.MeterProvider
	// Tracer records attempts for events that are traced; nil records none.
	Tracer trace.Tracer
	// Random is where jitter comes from; nil is a source seeded by chance. It
	// need not be safe for concurrent use.
	Random rand.Source

	// CreditCount and CreditBytes are what the leader of one partition is told
	// to keep to; what is more than twice as much goes back to it untouched.
	CreditCount uint32
	CreditBytes uint64
	// MaxBytes bounds the bytes of events in hand of all partitions together:
	// each partition's credit is its part of that, if that is less than
	// CreditBytes.
	MaxBytes uint64
	// MaxRequests bounds the requests on the wire. Since an endpoint gets at
	// most an eighth of what is free, a small number also lowers how many
	// requests a single endpoint may have.
	MaxRequests int
	// MaxRequestsPerHost and MaxRequestsPerAddress bound those to one host and
	// port, and to one IP address or, of IPv6, network of 64 bits. By default
	// they are a quarter of MaxRequests, and at least 8, and half of it, and
	// at least 16. A single endpoint gets at most a quarter of each.
	MaxRequestsPerHost    int
	MaxRequestsPerAddress int
	// Observe has a function called with each host and port that a connection
	// is made to, and the address at which: before it is made, and by any
	// goroutine. nil: nothing is known of addresses, and there is no limit to
	// the requests to one.
	Observe func(func(host string, at netip.Addr))
	// StopGrace and ReportGrace bound how long Run goes on when it is to end:
	// their sum, what it takes others to take its shards over, and up to 4 s
	// more if the store does not answer.
	StopGrace   time.Duration
	ReportGrace time.Duration
}

// withDefaults returns the config with its defaults filled in.
func (c Config) withDefaults() Config {
	c.CreditCount = cmp.Or(c.CreditCount, DefaultCreditCount)
	c.CreditBytes = cmp.Or(c.CreditBytes, DefaultCreditBytes)
	c.MaxBytes = cmp.Or(c.MaxBytes, DefaultMaxBytes)
	c.MaxRequests = cmp.Or(c.MaxRequests, DefaultMaxRequests)
	c.MaxRequestsPerHost = cmp.Or(c.MaxRequestsPerHost, max(c.MaxRequests/hostDivisor, leastHost))
	c.MaxRequestsPerAddress = cmp.Or(c.MaxRequestsPerAddress, max(c.MaxRequests/addressDivisor, leastAddress))
	c.StopGrace = cmp.Or(c.StopGrace, DefaultStopGrace)
	c.ReportGrace = cmp.Or(c.ReportGrace, DefaultReportGrace)
	if c.MeterProvider == nil {
		c.MeterProvider = noop.NewMeterProvider()
	}
	if c.Random == nil {
		c.Random = rand.NewPCG(rand.Uint64(), rand.Uint64()) //nolint:gosec // only spreads load
	}
	return c
}

// validate reports what is wrong with the config, naming the field.
func (c Config) validate() error {
	switch {
	case c.Store == nil:
		return errors.New("worker config: Store is not set")
	case c.Client == nil:
		return errors.New("worker config: Client is not set")
	case len(c.DialOptions) == 0:
		return errors.New("worker config: DialOptions are not set")
	case c.Logger == nil:
		return errors.New("worker config: Logger is not set")
	case c.MaxRequests < 0:
		return fmt.Errorf("worker config: MaxRequests is %d", c.MaxRequests)
	case c.MaxRequestsPerHost < 0:
		return fmt.Errorf("worker config: MaxRequestsPerHost is %d", c.MaxRequestsPerHost)
	case c.MaxRequestsPerAddress < 0:
		return fmt.Errorf("worker config: MaxRequestsPerAddress is %d", c.MaxRequestsPerAddress)
	case c.StopGrace < 0:
		return fmt.Errorf("worker config: StopGrace is %v", c.StopGrace)
	case c.ReportGrace < 0:
		return fmt.Errorf("worker config: ReportGrace is %v", c.ReportGrace)
	}
	if err := c.member().Validate(); err != nil {
		return fmt.Errorf("worker config: %w", err)
	}
	return nil
}

// member is how the worker joins the cluster.
func (c Config) member() cluster.MemberConfig {
	return cluster.MemberConfig{
		Info:   cluster.Info{ID: c.ID, Role: cluster.Worker, Version: c.Version, Weight: c.Weight},
		TTL:    c.LeaseTTL,
		Clock:  c.LeaseClock,
		Logger: c.Logger,
	}
}

// Worker sends deliveries of the shards it owns.
type Worker struct {
	config Config
	joined atomic.Bool
}

// New returns a Worker, or an error that names the field of the config which
// is wrong. It does no work.
func New(config Config) (*Worker, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	return &Worker{config: config.withDefaults()}, nil
}

// Joined reports whether the worker has been a member of the cluster since it
// began to run. That it is one no longer, because the store cannot be reached,
// keeps it from nothing it has begun.
func (w *Worker) Joined() bool { return w.joined.Load() }

// Run joins the cluster and works until ctx ends, which is no error. It rides
// out everything else: leaders that move, a lease that is lost, a store that
// cannot be reached.
//
// When ctx ends, Run lets other workers take its shards over, one after the
// other, as long as they do. Then it takes no more, hands back what it has not
// begun, gives requests on the wire StopGrace to end, and waits up to ReportGrace until all
// outcomes are durable. Then it leaves the cluster. If both graces suffice,
// nothing it did is done again by anybody.
func (w *Worker) Run(ctx context.Context) error {
	attempts, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	r, err := newRun(w.config, abort)
	if err != nil {
		return err
	}
	links, unlink := context.WithCancel(context.WithoutCancel(ctx))
	r.tasks.Go(func() { r.launcher.run(attempts) })
	r.tasks.Go(func() { r.followLeaders(links) })

	err = cluster.Live(ctx, w.config.Store, w.config.member(), func(ctx context.Context, m *cluster.Member) error {
		w.joined.Store(true)
		return r.live(ctx, links, m)
	})
	r.drained.Do(func() { r.drain(links) }) // if the end came between two lives of the member
	unlink()
	abort()
	r.tasks.Wait()
	if unregisterErr := r.gauge.Unregister(); err == nil && unregisterErr != nil {
		err = fmt.Errorf("ending metrics: %w", unregisterErr)
	}
	return err
}

// run is what one call of Run works with: one incarnation of the worker, over
// all lives of its member.
type run struct {
	config   Config
	link     linkConfig
	launcher *launcher
	abort    context.CancelFunc // ends the requests on the wire
	gauge    metric.Registration
	member   atomic.Pointer[cluster.Member] // the newest life; nil: there was none yet
	changed  chan struct{}                  // capacity 1; has await look again
	tasks    sync.WaitGroup                 // launcher, followLeaders, and the agents' runs
	drained  sync.Once

	mu      sync.Mutex
	agents  map[int32]*agent                 // guarded by mu; by partition
	leaders map[int32]cluster.PartitionReady // guarded by mu; the last known of each
}

func newRun(config Config, abort context.CancelFunc) (*run, error) {
	jitter := newJitter(config.Random)
	r := &run{
		config: config,
		link: linkConfig{
			worker:      config.ID,
			incarnation: crand.Text(),
			version:     config.Version,
			creditCount: config.CreditCount,
			creditBytes: config.CreditBytes,
			dialOptions: config.DialOptions,
			jitter:      jitter,
			logger:      config.Logger,
		},
		abort:   abort,
		changed: make(chan struct{}, 1),
		agents:  make(map[int32]*agent),
		leaders: make(map[int32]cluster.PartitionReady),
	}
	attempter := &attempter{
		client:    config.Client,
		userAgent: "Fanfare/" + cmp.Or(config.Version, "devel"),
		jitter:    jitter,
		tracer:    config.Tracer,
	}
	if err := r.measure(attempter); err != nil {
		return nil, fmt.Errorf("making metrics: %w", err)
	}
	r.launcher = newLauncher(attempter, config.MaxRequests, config.Logger, r.notify, r.returnUnqueued)
	r.launcher.queues.perHost, r.launcher.queues.perAddress = config.MaxRequestsPerHost, config.MaxRequestsPerAddress
	if config.Observe != nil {
		config.Observe(r.launcher.locate)
	}
	return r, nil
}

// live works for one life of the member.
func (r *run) live(ctx, links context.Context, m *cluster.Member) error {
	r.enter(m)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	views := r.config.Store.Watch(watching, cluster.ShardsPrefix)
	owned := 0
	for ctx.Err() == nil {
		select {
		case view := <-views:
			slots := r.owned(ctx, view, m)
			owned = count(slots)
			r.own(links, slots)
		case <-ctx.Done():
		}
	}
	lost := errors.Is(context.Cause(ctx), cluster.ErrLeaseGone)
	if !lost && r.announce(links, m) && owned > 0 {
		r.handOver(links, views, m, owned)
	}
	r.own(links, nil)
	if !lost { // else it joins anew; what is on the wire ends meanwhile
		r.drained.Do(func() { r.drain(links) })
	}
	return nil
}

// handOver works on while the shards of a worker that leaves are given to
// others, and returns when it has none left, or when nobody takes them.
func (r *run) handOver(links context.Context, views <-chan []cluster.Entry, m *cluster.Member, owned int) {
	if !r.others(links, m) {
		return
	}
	stuck := time.NewTimer(handOverPatience)
	defer stuck.Stop()
	for owned > 0 {
		select {
		case view := <-views:
			slots := r.owned(links, view, m)
			r.own(links, slots)
			if n := count(slots); n < owned {
				stuck.Reset(handOverPatience)
				owned = n
			}
		case <-stuck.C:
			return
		case <-m.Lost():
			return
		}
	}
}

// others reports whether there are workers that could take shards over.
func (r *run) others(ctx context.Context, m *cluster.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	members, err := r.config.Store.List(ctx, cluster.MembersPrefix)
	if err != nil {
		return false
	}
	for _, entry := range members {
		info, err := cluster.DecodeValue[cluster.Info](entry)
		if err == nil && info.Role == cluster.Worker && info.ID != m.ID() && !info.Draining {
			return true
		}
	}
	return false
}

// count returns how many slots there are of all partitions.
func count(slots map[int32]map[int32]int64) int {
	n := 0
	for _, of := range slots {
		n += len(of)
	}
	return n
}

// owned reads which slots the member owns, by partition, with their epochs. A
// key that an earlier life was given has its lease, and does not count.
func (r *run) owned(ctx context.Context, view []cluster.Entry, m *cluster.Member) map[int32]map[int32]int64 {
	slots := make(map[int32]map[int32]int64)
	for _, entry := range view {
		shard, ok := cluster.ParseShardKey(entry.Key)
		if !ok || entry.Lease != m.Lease() || max(shard.Partition, shard.Slot) > math.MaxInt32 {
			continue
		}
		owner, err := cluster.DecodeValue[cluster.MemberID](entry)
		if err != nil {
			r.config.Logger.ErrorContext(ctx, "unreadable owner of a shard", "shard", shard, "error", err)
			continue
		}
		if owner != m.ID() {
			continue
		}
		partition, slot := int32(shard.Partition), int32(shard.Slot) //nolint:gosec // checked above
		if slots[partition] == nil {
			slots[partition] = make(map[int32]int64)
		}
		slots[partition][slot] = entry.Revision
	}
	return slots
}

// own tells the agents which slots are theirs now. A partition that is new
// gets an agent, which then stays until links ends: its outcome batches are
// numbered over all of the incarnation.
func (r *run) own(links context.Context, slots map[int32]map[int32]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	link := r.link
	link.creditBytes = partOf(r.config.MaxBytes, r.config.CreditBytes, len(slots))
	for partition, a := range r.agents { // before others are granted anything
		if len(slots[partition]) > 0 {
			a.grant(link.creditBytes)
		}
	}
	for partition := range slots {
		if _, ok := r.agents[partition]; ok {
			continue
		}
		a := newAgent(link, partition, r.launcher, r.notify)
		a.lead(r.leaders[partition])
		r.agents[partition] = a
		r.tasks.Go(func() { a.run(links) })
	}
	for partition, a := range r.agents {
		a.own(slots[partition])
	}
}

// followLeaders tells the agents who leads. A leader whose key is gone is kept
// in mind: its log decides whether it may go on, not its lease.
func (r *run) followLeaders(ctx context.Context) {
	for view := range r.config.Store.Watch(ctx, cluster.PartitionsPrefix) {
		for _, entry := range view {
			partition, ok := cluster.ParsePartitionReadyKey(entry.Key)
			if !ok || partition > math.MaxInt32 {
				continue
			}
			ready, err := cluster.DecodeValue[cluster.PartitionReady](entry)
			if err != nil {
				r.config.Logger.ErrorContext(ctx, "unreadable leader of a partition", "partition", partition, "error", err)
				continue
			}
			r.lead(int32(partition), ready) //nolint:gosec // checked above
		}
	}
}

func (r *run) lead(partition int32, ready cluster.PartitionReady) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaders[partition] = ready
	if a, ok := r.agents[partition]; ok {
		a.lead(ready)
	}
}

// announce tells the cluster that the member wants to leave, and reports
// whether it has heard.
func (r *run) announce(ctx context.Context, m *cluster.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	err := m.Drain(ctx)
	if err != nil {
		r.config.Logger.WarnContext(ctx, "cannot tell the cluster that this worker leaves", "error", err)
	}
	return err == nil
}

// drain waits until nothing is left to do for a worker that owns nothing any
// more, as long as the graces allow.
func (r *run) drain(ctx context.Context) {
	if !r.await(r.config.StopGrace, r.quiet) {
		r.config.Logger.WarnContext(ctx, "cutting off requests on the wire", "requests", r.launcher.inFlight())
		r.abort()
		r.await(r.config.ReportGrace, r.quiet)
	}
	settled := func() bool { _, busy := r.unsettled(); return !busy }
	if !r.await(r.config.ReportGrace, settled) {
		count, _ := r.unsettled()
		r.config.Logger.WarnContext(ctx, "leaving with outcomes that are not durable: these deliveries will be made again", "deliveries", count)
	}
}

// quiet reports whether nothing is on the wire.
func (r *run) quiet() bool {
	return r.launcher.inFlight() == 0
}

// unsettled returns how many deliveries are in hand, and whether any agent is
// still busy.
func (r *run) unsettled() (inHand int, busy bool) {
	r.mu.Lock()
	agents := slices.Collect(maps.Values(r.agents))
	r.mu.Unlock()
	for _, a := range agents {
		n, b := a.unsettled()
		inHand += n
		busy = busy || b
	}
	return inHand, busy
}

// await waits until done, at most for the given time, and reports whether it
// is. One goroutine at a time may be in it.
func (r *run) await(limit time.Duration, done func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for !done() {
		select {
		case <-r.changed:
		case <-timer.C:
			return done()
		}
	}
	return true
}

// returnUnqueued hands back what waits for others of its lane.
func (r *run) returnUnqueued() {
	r.mu.Lock()
	agents := slices.Collect(maps.Values(r.agents))
	r.mu.Unlock()
	for _, a := range agents {
		a.returnAllUnqueued()
	}
}

func (r *run) notify() {
	notify(r.changed)
}

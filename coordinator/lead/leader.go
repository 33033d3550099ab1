package lead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// What can end a leadership, or keep it from beginning.
var (
	// ErrFenced: another leader has begun a newer epoch.
	ErrFenced = errors.New("another leader has taken the partition")
	// ErrRegressed: the log lacks records that are known to have been in it.
	// The partition must not be served from it; see docs/operations.md.
	ErrRegressed = errors.New("the log has lost records that were acknowledged")
	// ErrNotLeading: the leader has not begun, or has ended. What it was asked
	// for has not been done, nor will be.
	ErrNotLeading = errors.New("not leading the partition")
	// ErrInterrupted: the leader has ended while it was under way. It may have
	// been done or not. It is an ErrNotLeading too.
	ErrInterrupted = fmt.Errorf("%w any more", ErrNotLeading)
	// ErrNoAnswer: the log has not answered for Config.Patience. What was asked
	// for may be done or not.
	ErrNoAnswer = errors.New("the log does not answer")

	// errRetired ends a leader that was told to.
	errRetired = errors.New("the partition is handed over")
)

// Defaults of Config.
const (
	DefaultSlots            = 16
	DefaultRecentBytes      = 32 << 20
	DefaultPendingBytes     = 64 << 20
	DefaultSnapshotBytes    = 64 << 20
	DefaultSnapshotInterval = time.Minute
	DefaultOutcomeInterval  = 20 * time.Millisecond
	DefaultOutcomeBatch     = 256
	DefaultRetention        = 7 * 24 * time.Hour
	DefaultReplayWindow     = 3 * 24 * time.Hour
	DefaultReplayBytes      = 4 << 30
	DefaultPatience         = 15 * time.Second
	DefaultTraceDeliveries  = 100
)

// Config is what a leader needs. Zero values of the limits are the defaults.
type Config struct {
	Partition   int
	Coordinator string // member id of this process
	Log         eventlog.Log
	History     history.Store
	Marks       Marks // nil: nothing but the history and the snapshots knows how far the log reached
	Secrets     Opener
	Logger      *slog.Logger
	Meter       metric.Meter
	Tracer      trace.Tracer // nil: nothing is traced
	// TenantMetrics counts for each tenant; nil: nothing does.
	TenantMetrics *TenantMetrics

	Slots            int            // shards of the partition; fixed for the cluster
	Limits           *linkv1.Limits // of the ledger, from this epoch on
	RecentBytes      int            // of records kept in memory
	PendingBytes     int            // of events that wait to be written
	SnapshotBytes    int            // of log between two snapshots
	SnapshotInterval time.Duration  // between two snapshots, if anything changed
	OutcomeInterval  time.Duration  // of a worker's reports
	OutcomeBatch     int            // of a worker's reports
	Retention        time.Duration  // what is owed for longer expires
	ReplayWindow     time.Duration  // what has ended can be replayed for so long,
	ReplayBytes      uint64         // unless the log is longer than this, or space is short
	MaxLogBytes      uint64         // of the log, from where on events are refused; 0: only the store limits it
	Disk             *Disk          // that the store is on, if it is in this process; nil: it is elsewhere
	TraceDeliveries  int            // of one traced event, of which the attempt is in its trace even if nothing fails; negative: none
	Patience         time.Duration  // of those who wait for the log: ErrNoAnswer after it
	Silence          time.Duration  // of the log, after which Run fails with ErrSilent; 0: it is waited for

	Told      Told   // of alerts; nil: nobody is
	AlertLink string // what links to alerts begin with; "": they have none
}

// Opener decrypts what a subscription's secrets were sealed to.
type Opener interface {
	Open(sealed []byte) (string, error)
}

func (c Config) resolved() Config {
	if c.Marks == nil {
		c.Marks = noMarks{}
	}
	if c.Told == nil {
		c.Told = nobody{}
	}
	c.Slots = cmp.Or(c.Slots, DefaultSlots)
	c.RecentBytes = cmp.Or(c.RecentBytes, DefaultRecentBytes)
	c.PendingBytes = cmp.Or(c.PendingBytes, DefaultPendingBytes)
	c.SnapshotBytes = cmp.Or(c.SnapshotBytes, DefaultSnapshotBytes)
	c.SnapshotInterval = cmp.Or(c.SnapshotInterval, DefaultSnapshotInterval)
	c.OutcomeInterval = cmp.Or(c.OutcomeInterval, DefaultOutcomeInterval)
	c.OutcomeBatch = cmp.Or(c.OutcomeBatch, DefaultOutcomeBatch)
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.ReplayWindow = cmp.Or(c.ReplayWindow, DefaultReplayWindow)
	c.ReplayBytes = cmp.Or(c.ReplayBytes, DefaultReplayBytes)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.TraceDeliveries = cmp.Or(c.TraceDeliveries, DefaultTraceDeliveries)
	if c.MaxLogBytes > 0 {
		// What can be purged is, long before events are refused: of what has
		// ended half is kept, and two snapshots reach back half as far.
		c.ReplayBytes = min(c.ReplayBytes, c.MaxLogBytes/2)
		c.SnapshotBytes = int(min(uint64(c.SnapshotBytes), c.MaxLogBytes/4)) //nolint:gosec // not negative
	}
	return c
}

// Leader leads one partition while Run runs. Its other methods may be called
// at any time, by anybody; they fail with ErrNotLeading before and after.
type Leader struct {
	config  Config
	logger  *slog.Logger
	metrics *metrics
	recent  *recent
	watch   *watchers
	alerting
	pending *semaphore.Weighted // bytes of events handed over and not written
	inputs  chan func(*loop)    // to the loop; capacity spares its callers a switch
	ready   chan struct{}       // closed by Run once it leads
	retire  chan struct{}       // closed by Retire
	retired sync.Once           // guards the closing of retire
	stopped chan struct{}       // closed by Run when the loop takes no more inputs
	ended   chan struct{}       // closed by Run when it no longer leads
	replays chan struct{}       // capacity 1: a replay has changed
	hurry   chan struct{}       // capacity 1; to the follower: somebody waits for what it gathers
	spaceFlags
	pendingBytes atomic.Int64 // taken of pending

	prepared *ledger.Ledger   // what Prepare has read; nil: nothing
	farewell *linkv1.Farewell // of the record before the fence; nil: it has none

	epoch    uint64   // set before ready is closed
	followed position // of the follower
	cause    error    // why it ended; read after ended is closed
}

// New returns a leader that does not lead yet.
func New(config Config) (*Leader, error) {
	config = config.resolved()
	m, err := newMetrics(config)
	if err != nil {
		return nil, err
	}
	alerts, err := newAlerting(config.Meter)
	if err != nil {
		return nil, err
	}
	return &Leader{
		config:  config,
		logger:  config.Logger.With("partition", config.Partition),
		metrics: m,
		recent:  newRecent(config.RecentBytes),
		watch:   newWatchers(),
		pending: semaphore.NewWeighted(int64(config.PendingBytes)),
		inputs:  make(chan func(*loop), 1024),
		ready:   make(chan struct{}),
		retire:  make(chan struct{}),
		stopped: make(chan struct{}),
		ended:   make(chan struct{}),
		replays: make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),

		alerting: alerts,
	}, nil
}

// Run takes the partition over and leads it until ctx ends, which is no error,
// or until it cannot: ErrFenced, ErrSilent, what broke, or, if Halts says so,
// what is wrong with the log. It may be called once.
func (l *Leader) Run(ctx context.Context) error {
	state, err := l.takeOver(ctx)
	if err != nil {
		l.end(err)
		return err
	}
	l.logger.Info("leading", "epoch", state.Epoch(), "sequence", state.Sequence(),
		"subscriptions", state.SubscriptionCount(), "outstanding", state.Outstanding())
	l.epoch = state.Epoch()
	fence := markOf(state)
	follower := newFollower(l, state) // while nobody else has the state
	group, leading := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(l.stopped)
		return newLoop(l, state).run(leading)
	})
	group.Go(func() error {
		l.remember(leading, fence)
		return follower.run(leading)
	})
	group.Go(func() error { return (&replayer{leader: l}).run(leading) })
	group.Go(func() error { return (&alerter{leader: l, board: alert.NewBoard(0)}).run(leading) })
	group.Go(func() error { return l.watchSpace(leading) })
	close(l.ready)
	err = group.Wait()
	if Halts(err) && l.overtaken(ctx) {
		err = fmt.Errorf("%w: %w", ErrFenced, err)
	}
	l.end(err)
	if !errors.Is(err, ErrFenced) && !errors.Is(err, ErrSilent) { // a new leader remembers more; a full disk takes nothing
		l.remember(context.WithoutCancel(ctx), l.recent.mark())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errRetired) {
		return nil
	}
	return err
}

// Retire has the leader take no more, make durable what it has taken, and end,
// which is no error of Run. It returns when Run no longer leads, or when ctx
// ends: then what was taken may still be under way.
func (l *Leader) Retire(ctx context.Context) {
	l.retired.Do(func() { close(l.retire) })
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
}

func (l *Leader) end(cause error) {
	l.cause = cause
	close(l.ended)
	l.watch.close()
	l.alertWatchers.close()
}

// Ready is closed once the leader leads.
func (l *Leader) Ready() <-chan struct{} { return l.ready }

// Epoch returns the epoch it leads in, once it is Ready.
func (l *Leader) Epoch() uint64 { return l.epoch }

// Ended is closed when the leader no longer leads.
func (l *Leader) Ended() <-chan struct{} { return l.ended }

// do has the loop run f, and returns when f was handed over. It fails with
// ErrNotLeading, or when ctx ends first.
func (l *Leader) do(ctx context.Context, f func(*loop)) error {
	select {
	case <-l.ready:
	default:
		return ErrNotLeading
	}
	select {
	case <-l.retire:
		return ErrNotLeading
	default:
	}
	select {
	case l.inputs <- f:
		return nil
	case <-l.retire:
		return ErrNotLeading
	case <-l.stopped:
		return ErrNotLeading
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call is do, and waits until f has run.
func (l *Leader) call(ctx context.Context, f func(*loop)) error {
	done := make(chan struct{})
	if err := l.do(ctx, func(loop *loop) { f(loop); close(done) }); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-l.stopped:
		return ErrNotLeading
	}
}

// Query runs f with the ledger. f must only read, keep nothing of it, and be
// quick: the partition stands still meanwhile.
func (l *Leader) Query(ctx context.Context, f func(*ledger.Ledger)) error {
	return l.call(ctx, func(loop *loop) { f(loop.ledger) })
}

// Followed waits until the history holds everything that was acknowledged
// before the call. It fails with ErrInterrupted when the leader ends first.
func (l *Leader) Followed(ctx context.Context) error {
	sequence := l.recent.committed.get()
	if l.followed.get() < sequence {
		select {
		case l.hurry <- struct{}{}:
		default:
		}
	}
	return l.followed.wait(ctx, sequence, l.ended)
}

// position is a sequence that only rises, and can be waited for.
type position struct {
	mu      sync.Mutex
	reached uint64        // guarded by mu
	risen   chan struct{} // guarded by mu; closed and replaced at each rise; nil until waited for
}

func (p *position) set(sequence uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached = max(p.reached, sequence)
	if p.risen != nil {
		close(p.risen)
		p.risen = nil
	}
}

func (p *position) get() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reached
}

// at returns nil if the position has reached a sequence, else a channel that is
// closed when it next rises.
func (p *position) at(sequence uint64) (risen <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reached >= sequence {
		return nil
	}
	if p.risen == nil {
		p.risen = make(chan struct{})
	}
	return p.risen
}

func (p *position) wait(ctx context.Context, sequence uint64, ended <-chan struct{}) error {
	for {
		risen := p.at(sequence)
		if risen == nil {
			return nil
		}
		select {
		case <-risen:
		case <-ended:
			return ErrInterrupted
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

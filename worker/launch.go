package worker

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// doubtInterval is how often a worker with nothing else to do asks whether its
// lease is still certain.
const doubtInterval = time.Second

// certainFor is how long it is believed that the lease was certain: to ask the
// clock that it is measured by takes a system call. A request could begin as
// much too late if the worker were paused between asking and sending.
const certainFor = time.Millisecond

// launcher starts attempts, as many at a time and in the order that queues
// says, for all partitions. Safe for concurrent use.
//
// Before each request it asks whether the lease is certain. When it is not,
// everything that is queued goes back to the leaders, once: it was taken on the
// strength of the lease, and others may have it now. What a leader sends from
// then on is started, lease or not, since the leader's word is the better
// authority; so the cluster serves on while etcd is down. See package cluster.
type launcher struct {
	attempter *attempter
	logger    *slog.Logger
	ended     func() // called after each attempt, when its outcome is kept
	doubted   func() // called when the lease has come into doubt, before what is queued goes back

	wake     chan struct{} // capacity 1: a wake-up that is not taken yet is enough
	attempts sync.WaitGroup
	starting sync.Mutex // held by who takes what is next; it is locked before all others

	mu      sync.Mutex
	queues  *queues                          // guarded by mu
	certain func() bool                      // guarded by mu; whether the lease is
	doubt   bool                             // guarded by mu; what was queued when the lease came into doubt has gone back
	asked   time.Time                        // guarded by mu; when certain was asked last; zero: it is to be asked
	ordered map[*delivery]context.CancelFunc // guarded by mu; requests of lanes, on the wire
}

// newLauncher returns a launcher. Nothing is started until run.
func newLauncher(attempter *attempter, slots int, logger *slog.Logger, ended, doubted func()) *launcher {
	return &launcher{
		attempter: attempter,
		logger:    logger,
		ended:     ended,
		doubted:   doubted,
		ordered:   make(map[*delivery]context.CancelFunc),
		wake:      make(chan struct{}, 1),
		queues:    newQueues(slots),
		certain:   func() bool { return true }, // without a lease it has no shards either
	}
}

// run starts attempts until ctx ends. Then it waits for those on the wire,
// which end with ctx.
func (l *launcher) run(ctx context.Context) {
	defer l.attempts.Wait()
	tick := time.NewTicker(doubtInterval)
	defer tick.Stop()
	ripe := time.NewTimer(time.Hour)
	defer ripe.Stop()
	for {
		ripe.Reset(l.ripens())
		select {
		case <-l.wake:
		case <-tick.C:
		case <-ripe.C:
		case <-ctx.Done():
			return
		}
		l.startAll(ctx)
	}
}

// startAll starts whatever may be started now.
func (l *launcher) startAll(ctx context.Context) {
	for ctx.Err() == nil {
		s, ok := l.next(ctx)
		if !ok {
			return
		}
		l.attempts.Go(func() { l.attemptAll(ctx, s) })
	}
}

// attemptAll makes an attempt, and then whatever may be started since it has
// ended: the first of it itself, which spares a goroutine and two switches.
func (l *launcher) attemptAll(ctx context.Context, s start) {
	for more := true; more; {
		l.attempt(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if s, more = l.next(ctx); more {
			l.startAll(ctx) // the window may have room for two
		}
	}
}

// next takes the next delivery to send.
func (l *launcher) next(ctx context.Context) (start, bool) {
	l.starting.Lock() // nobody starts what is just about to go back
	defer l.starting.Unlock()
	l.returnDoubtful(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.queues.next(time.Now().UnixMilli())
	if ok && s.route.batch != nil {
		l.poke() // when the next batch is ripe has changed
	}
	return s, ok
}

// ripens returns how long it is until a batch that waits for more is sent as it
// is; an hour at the most.
func (l *launcher) ripens() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.queues.wake(); ok {
		return max(0, min(time.Until(time.UnixMilli(at)), time.Hour))
	}
	return time.Hour
}

// returnDoubtful hands everything back that is queued, if the lease has come
// into doubt since it was asked last.
func (l *launcher) returnDoubtful(ctx context.Context) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.asked) < certainFor && !l.doubt {
		l.mu.Unlock()
		return
	}
	l.asked = now
	before := l.doubt
	l.doubt = !l.certain()
	if before || !l.doubt {
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.doubted()
	l.mu.Lock()
	back := l.queues.emptyAll()
	l.mu.Unlock()
	l.abortOrdered(func(*delivery, bool) bool { return true })
	if len(back) > 0 {
		l.logger.WarnContext(ctx, "lease in doubt, handing back what is queued", "deliveries", len(back))
	}
	handBack(back)
}

// attempt makes one attempt and passes its outcome on.
func (l *launcher) attempt(ctx context.Context, s start) {
	verdict, hold, again := verdictNone, int64(0), false
	switch {
	case s.route.batch != nil:
		verdict, hold, again = l.attemptBatch(ctx, s)
	case s.delivery.lane != 0 && !s.delivery.agent.begins([]*delivery{s.delivery}):
		handBack([]*delivery{s.delivery})
	default:
		if s.delivery.lane != 0 {
			var end func()
			ctx, end = l.ordering(ctx, s.delivery)
			defer end()
		}
		var outcome *linkv1.Outcome
		outcome, verdict = l.attempter.attempt(ctx, s.delivery, s.route.target())
		hold = outcome.GetHoldUntilUnixMs()
		s.delivery.agent.end(s.delivery, outcome)
	}
	l.mu.Lock()
	back := l.queues.done(s.id, verdict)
	if hold != 0 {
		back = append(back, l.queues.holdBack(s.id, hold)...)
	}
	if again {
		back = append(back, l.queues.emptyOne(s.id)...)
	}
	l.mu.Unlock()
	handBack(back)
	l.ended()
	if s.route.batch != nil {
		l.poke() // likewise
	}
}

// attemptBatch attempts a batch and passes the outcomes on. hold is until when
// the endpoint takes nothing, if not 0; broken is whether what is queued must
// not follow.
func (l *launcher) attemptBatch(ctx context.Context, s start) (v verdict, hold int64, broken bool) {
	deliveries := append([]*delivery{s.delivery}, s.rest...)
	if s.route.batch.ordered {
		if !s.delivery.agent.begins(deliveries) {
			handBack(deliveries)
			return verdictNone, 0, true
		}
		var end func()
		ctx, end = l.ordering(ctx, s.delivery)
		defer end()
	}
	outcomes, v := l.attempter.attemptBatch(ctx, deliveries, s.route.target())
	for _, d := range deliveries {
		o := outcomes[d]
		if o == nil {
			o = d.newOutcome(linkv1.Outcome_RETURNED)
		}
		hold = max(hold, o.GetHoldUntilUnixMs())
		broken = broken || s.route.batch.ordered && o.GetKind() != linkv1.Outcome_DELIVERED
		d.agent.end(d, o)
	}
	return v, hold, broken
}

// ordering makes the context of a request of a lane, until end is called.
func (l *launcher) ordering(ctx context.Context, d *delivery) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ordered[d] = cancel
	return ctx, func() {
		cancel()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.ordered, d)
	}
}

// abortOrdered ends requests of lanes that are on the wire, if which says so,
// which is also told whether the lease is in doubt. Whoever has the lane next
// does not wait for them.
func (l *launcher) abortOrdered(which func(d *delivery, doubt bool) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for d, cancel := range l.ordered {
		if which(d, l.doubt) {
			cancel()
		}
	}
}

// handBack returns deliveries to their leaders, unattempted.
func handBack(deliveries []*delivery) {
	for _, d := range deliveries {
		d.agent.end(d, d.newOutcome(linkv1.Outcome_RETURNED))
	}
}

// trust sets what tells whether the lease is certain, for a new life of the
// member.
func (l *launcher) trust(certain func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.certain, l.doubt, l.asked = certain, false, time.Time{}
}

// put adds or changes an endpoint.
func (l *launcher) put(id endpointID, r *route) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queues.put(id, r)
}

// remove takes an endpoint away. It returns what was queued for it; nothing of
// it is started any more when remove returns.
func (l *launcher) remove(id endpointID) []*delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queues.remove(id)
}

// locate is told that a connection to a host and port is made at an address.
func (l *launcher) locate(host string, at netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queues.locate(strings.ToLower(host), at, time.Now().UnixMilli())
}

// push queues a delivery, or returns false if there is no such endpoint, or if
// it takes nothing now.
func (l *launcher) push(id endpointID, d *delivery) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queues.push(id, d, time.Now().UnixMilli())
}

// batches reports whether an endpoint is sent batches.
func (l *launcher) batches(id endpointID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queues.batches(id)
}

// inFlight returns how many requests are on the wire.
func (l *launcher) inFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queues.inFlight()
}

// extent returns how many requests are on the wire, how many endpoints there
// are, and what their windows add up to.
func (l *launcher) extent() (requests, endpoints, window int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.queues.endpoints {
		window += e.window
	}
	return l.queues.inFlight(), len(l.queues.endpoints), window
}

// poke has run look again.
func (l *launcher) poke() {
	notify(l.wake)
}

// notify wakes whoever receives from wake, a channel of capacity 1.
func notify(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

package worker

import (
	"container/list"
	"math"
	"net/netip"
	"slices"
)

const (
	// initialWindow is how many requests a new endpoint may have on the wire.
	initialWindow = 8
	// maxWindow is how far successes widen the window. The transport keeps
	// about as many idle connections for a host.
	maxWindow = 64
	// handBackAfter is how many failures in a row make the worker hand back
	// what it has queued for an endpoint: from then on the leader decides what
	// is worth trying.
	handBackAfter = 5
	// shareDivisor sets an endpoint's share of the slots: what it has on the
	// wire may not exceed this part of what is free. With n endpoints that
	// hang, each comes to hold 1/(n+shareDivisor) of all slots, and there are
	// free ones left for others at any n below the number of slots.
	shareDivisor = 8
	// trialDivisor sets which part of the slots endpoints share that have not
	// proven themselves.
	trialDivisor = 2
)

// verdict is what the end of a request says about its endpoint.
type verdict int

const (
	// verdictSuccess: the endpoint took the delivery.
	verdictSuccess verdict = iota
	// verdictAnswered: it refused this one, as by 404. It is there, but that
	// is no reason to send it more at a time.
	verdictAnswered
	// verdictFailing: it cannot be reached, does not answer in time, or says
	// itself that it is in trouble.
	verdictFailing
	// verdictNone: the request said nothing, as when this worker ended it.
	verdictNone
)

// endpointID names an endpoint among all that a worker sends to.
type endpointID struct {
	partition int32
	number    uint64
}

// queues decides which delivery is sent next. It holds, for each endpoint, the
// deliveries that wait, in the order in which they came, and counts those on
// the wire. It is a pure state machine: no clock, no goroutine, not safe for
// concurrent use.
//
// Slots, which is to say requests on the wire, are what endpoints compete for,
// and an endpoint that hangs keeps its slots longest. Four rules keep it from
// keeping everybody's:
//
//   - A window for each endpoint: 8 at first, one more for each success up to
//     64, halved by each failure down to 1.
//   - A share: beyond its first request, an endpoint gets a slot only while
//     what it holds is less than an eighth of what is free.
//   - Two classes: an endpoint is proven if its last request was answered; the
//     others, new or failing, together hold at most half of the slots. So even
//     a thousand endpoints that hang leave half to those that work.
//   - Who holds least is served first, and among equals who has waited longest.
//
// What endpoints share beside slots are sites, hosts and addresses, which get a
// part of the slots each: see site.
type queues struct {
	limit     int // slots
	endpoints map[endpointID]*endpoint
	hosts     map[string]*host       // by host:port; those that endpoints are at
	addresses map[netip.Prefix]*site // those that hosts are at, as far as is known

	perHost, perAddress int // slots at the most

	proven    class
	trial     class
	ripening  map[*endpoint]int64 // :: endpoint with a batch that waits for more -> until when, in unix ms
	earliest  int64               // no later than the first of these
	warmed    list.List           // of endpoints that have a target, the one that was used last at the end
	maxWarm   int                 // of these, when none is in use
	now       int64               // the latest time that it was told
	trialTurn bool                // the trial class goes first when both classes have equals
}

// endpoint is one endpoint's queue and window.
//
// Invariants: 1 <= window <= maxWindow; ready is set exactly while the
// endpoint has a queue and inFlight < window; it is in queues.endpoints while
// it has a route or anything in flight.
type endpoint struct {
	id       endpointID
	route    *route // nil once removed: nothing more is started
	host     *host  // nil: it shares none
	queue    []*delivery
	inFlight int
	window   int
	failures int    // in a row
	bytes    uint64 // of the events in queue
	hold     int64  // unix ms: it takes nothing before; 0: it does
	proven   bool
	ready    *list.Element // its place in levels[inFlight] of its class, or where it is parked
	in       *list.List    // that has it, while it is ready
	parked   *parked       // where that is; nil: in its class
	warm     *list.Element // its place in warmed, while it has one
}

// class is of endpoints that share slots.
type class struct {
	inFlight int
	levels   [maxWindow]list.List // by what they have in flight, ready endpoints in the order in which they became so
}

func newQueues(limit int) *queues {
	return &queues{
		limit: limit, perHost: limit, perAddress: limit,
		endpoints: make(map[endpointID]*endpoint), hosts: make(map[string]*host), addresses: make(map[netip.Prefix]*site),
		ripening: make(map[*endpoint]int64), maxWarm: maxWarm,
	}
}

// put adds an endpoint or changes how it is sent to. What is queued goes the
// new way.
func (q *queues) put(id endpointID, r *route) {
	e, ok := q.endpoints[id]
	if !ok {
		e = &endpoint{id: id, window: initialWindow}
		q.endpoints[id] = e
	}
	q.cool(e)
	e.route = r
	if r.batch == nil {
		delete(q.ripening, e)
	}
	if !e.isAt(r.host) {
		q.displace(e)
		q.settle(e)
	}
	if e.host != nil {
		r.host = e.host.name // one copy for all
	}
	q.place(e)
}

// remove takes an endpoint away and returns what was queued for it. What is on
// the wire still ends with done.
func (q *queues) remove(id endpointID) []*delivery {
	e, ok := q.endpoints[id]
	if !ok {
		return nil
	}
	q.cool(e)
	e.route = nil
	back := q.empty(e)
	if e.inFlight == 0 {
		q.forget(e)
	}
	return back
}

// forget drops an endpoint of which nothing is left.
func (q *queues) forget(e *endpoint) {
	q.leave(e)
	delete(q.endpoints, e.id)
}

// push queues a delivery at a time, in unix ms, or returns false if there is no
// such endpoint or it takes nothing now.
func (q *queues) push(id endpointID, d *delivery, now int64) bool {
	e, ok := q.endpoints[id]
	if !ok || e.route == nil || now < e.hold {
		return false
	}
	q.now = max(q.now, now)
	d.since = now
	e.queue = append(e.queue, d)
	e.bytes += d.size
	q.place(e)
	return true
}

// start is what next returns: a delivery to send now.
type start struct {
	id       endpointID
	delivery *delivery
	rest     []*delivery // of the same batch
	route    *route
}

// next takes the next delivery to send, or returns false if there is none that
// may be sent now. Each is ended by one call of done.
func (q *queues) next(now int64) (start, bool) {
	q.now = max(q.now, now)
	if len(q.ripening) > 0 && q.earliest <= now {
		q.ripen()
	}
	for {
		l, level, ok := q.turn()
		if !ok {
			return start{}, false
		}
		e, _ := l.levels[level].Front().Value.(*endpoint) // nothing else is ever put there
		if s := e.blockedBy(); s != nil {
			q.park(e, s)
			continue
		}
		q.trialTurn = l == &q.proven
		return q.begin(l, e), true
	}
}

// turn returns whose turn it is: the first at a level of a class.
func (q *queues) turn() (l *class, level int, ok bool) {
	free := q.limit - q.proven.inFlight - q.trial.inFlight
	if free <= 0 {
		return nil, 0, false
	}
	trialFree := min(free, max(q.limit/trialDivisor, 1)-q.trial.inFlight)
	provenAt, trialAt := q.proven.first(free), q.trial.first(trialFree)
	switch {
	case provenAt == maxWindow && trialAt == maxWindow:
		return nil, 0, false
	case trialAt < provenAt, trialAt == provenAt && q.trialTurn:
		return &q.trial, trialAt, true
	}
	return &q.proven, provenAt, true
}

// first returns the lowest level with an endpoint that may have one more of
// the free slots, or maxWindow if there is none. If the lowest level may not,
// a higher one may not either.
func (l *class) first(free int) int {
	for level := range l.levels {
		if l.levels[level].Len() == 0 {
			continue
		}
		if free > 0 && (level == 0 || level*shareDivisor < free) {
			return level
		}
		break
	}
	return maxWindow
}

// begin begins a request of an endpoint of a class.
func (q *queues) begin(l *class, e *endpoint) start {
	q.displace(e)
	d := e.queue[0]
	e.queue[0] = nil // the array lives on behind the slice
	e.queue = e.queue[1:]
	e.bytes -= d.size
	var rest []*delivery
	if e.route.batch != nil {
		n := max(0, min(e.route.batch.count-1, len(e.queue)))
		rest = slices.Clone(e.queue[:n])
		for _, other := range rest {
			e.bytes -= other.size
		}
		clear(e.queue[:n])
		e.queue = e.queue[n:]
	}
	e.inFlight++
	l.inFlight++
	e.occupy(1)
	q.place(e)
	q.refill(e.host)
	return start{id: e.id, delivery: d, rest: rest, route: e.route}
}

// batches reports whether an endpoint is sent batches.
func (q *queues) batches(id endpointID) bool {
	e := q.endpoints[id]
	return e != nil && e.route != nil && e.route.batch != nil
}

// emptyOne takes away what is queued for an endpoint, and leaves it.
func (q *queues) emptyOne(id endpointID) []*delivery {
	e := q.endpoints[id]
	if e == nil {
		return nil
	}
	return q.empty(e)
}

// ripen has those looked at whose batch has waited for long enough.
func (q *queues) ripen() {
	q.earliest = math.MaxInt64
	for e, at := range q.ripening {
		if at <= q.now {
			q.place(e)
		} else {
			q.earliest = min(q.earliest, at)
		}
	}
}

// wake returns when next may have a batch that it does not have now, in unix
// ms, if it may without another input.
func (q *queues) wake() (at int64, ok bool) { return q.earliest, len(q.ripening) > 0 }

// done ends a request that next started. After the fifth failure in a row, and
// each further one, it returns what is queued for the endpoint: it is to be
// handed back.
func (q *queues) done(id endpointID, v verdict) []*delivery {
	e := q.endpoints[id]
	q.displace(e)
	q.class(e).inFlight--
	e.inFlight--
	e.occupy(-1)
	q.judge(e, v)
	q.warm(e)
	switch {
	case e.route == nil && e.inFlight == 0:
		q.forget(e)
	case e.failures >= handBackAfter:
		return q.empty(e)
	default:
		q.place(e)
		q.refill(e.host)
	}
	return nil
}

// holdBack keeps an endpoint from taking anything before a time, in unix ms,
// and returns what is queued for it.
func (q *queues) holdBack(id endpointID, until int64) []*delivery {
	e, ok := q.endpoints[id]
	if !ok {
		return nil
	}
	e.hold = max(e.hold, until)
	return q.empty(e)
}

// judge adjusts an endpoint to what one of its requests met. The endpoint must
// not be in a class's levels.
func (q *queues) judge(e *endpoint, v verdict) {
	before := q.class(e)
	switch v {
	case verdictSuccess:
		e.failures, e.proven = 0, true
		e.window = min(e.window+1, maxWindow)
	case verdictAnswered:
		e.failures, e.proven = 0, true
	case verdictFailing:
		e.failures++
		e.proven = false
		e.window = max(e.window/2, 1)
	case verdictNone:
	}
	if after := q.class(e); after != before {
		before.inFlight -= e.inFlight
		after.inFlight += e.inFlight
	}
}

// emptyAll takes away all that is queued and leaves the endpoints. What one
// endpoint had comes in its order; the endpoints come in none.
func (q *queues) emptyAll() []*delivery {
	var back []*delivery
	for _, e := range q.endpoints {
		back = append(back, q.empty(e)...)
	}
	return back
}

// inFlight returns how many requests are on the wire.
func (q *queues) inFlight() int {
	return q.proven.inFlight + q.trial.inFlight
}

// empty takes away what is queued for an endpoint.
func (q *queues) empty(e *endpoint) []*delivery {
	q.displace(e)
	delete(q.ripening, e)
	back := slices.Clip(e.queue)
	e.queue, e.bytes = nil, 0
	q.refill(e.host)
	return back
}

// classIndex tells the classes apart: 0 is proven.
func (q *queues) classIndex(e *endpoint) int {
	if e.proven {
		return 0
	}
	return 1
}

func (q *queues) class(e *endpoint) *class {
	if e.proven {
		return &q.proven
	}
	return &q.trial
}

// place enters an endpoint among the ready ones, if it is ready.
func (q *queues) place(e *endpoint) {
	if e.route != nil && e.route.batch != nil && !q.ripe(e) {
		return
	}
	if e.ready == nil && len(e.queue) > 0 && e.inFlight < e.window {
		e.in = &q.class(e).levels[e.inFlight]
		e.ready = e.in.PushBack(e)
	}
}

// ripe reports whether what is queued for an endpoint is to be sent as a batch,
// and has it looked at again when the first has waited for long enough.
func (q *queues) ripe(e *endpoint) bool {
	batch := e.route.batch
	if len(e.queue) == 0 || batch.ordered && e.inFlight > 0 {
		delete(q.ripening, e)
		return false
	}
	at := e.queue[0].since + batch.wait.Milliseconds()
	if len(e.queue) < batch.count && e.bytes < uint64(batch.bytes) && at > q.now { //nolint:gosec // not negative
		if len(q.ripening) == 0 || at < q.earliest {
			q.earliest = at
		}
		q.ripening[e] = at
		return false
	}
	delete(q.ripening, e)
	return true
}

// displace is the inverse of place. The class and inFlight must be as they were
// then.
func (q *queues) displace(e *endpoint) {
	if e.ready == nil {
		return
	}
	e.in.Remove(e.ready)
	e.ready, e.in = nil, nil
	if e.parked != nil {
		e.parked.count--
		e.parked = nil
	}
}

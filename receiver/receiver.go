package receiver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sync/semaphore"
)

// Defaults of Config and Queue.
const (
	DefaultLease        = time.Minute
	DefaultQueueSize    = 1024
	DefaultQueueWorkers = 8
	DefaultDrainTimeout = 20 * time.Second
)

// purgeInterval is how often Run removes what a Store need not remember.
const purgeInterval = time.Hour

// settleTimeout bounds telling a Store what became of a claim, when the request
// has ended meanwhile.
const settleTimeout = 5 * time.Second

// Config is what a Receiver is made of. Verifiers, or AllowUnsigned, must be
// set; all else may be left.
type Config struct {
	Gate
	// Name tells the events of one Receiver from those of others in the same
	// Store. Default: webhooks.
	Name string
	// Store remembers what was handled. Default: a Memory.
	Store Store
	// Lease is how long a handler may take. Default: DefaultLease.
	Lease time.Duration
	// Queue, if set, has handlers run after the answer.
	Queue *Queue
	// AllowedOrigins are the senders that may use the CloudEvents handshake
	// (OPTIONS with WebHook-Request-Origin): their names, or `*`.
	AllowedOrigins []string
	// Tracer makes the spans of handlers, which continue the sender's trace.
	// nil: none are made.
	Tracer trace.TracerProvider
}

// Queue says how much waits for handlers that run after the answer.
type Queue struct {
	Size         int           // events that wait; DefaultQueueSize. A request with more is answered 413
	Workers      int           // handlers at a time; DefaultQueueWorkers
	DrainTimeout time.Duration // of Run's end; DefaultDrainTimeout
}

func (c Config) resolved() Config {
	c.Name = cmp.Or(c.Name, "webhooks")
	c.Lease = cmp.Or(c.Lease, DefaultLease)
	if c.Store == nil {
		c.Store = NewMemory(0, 0)
	}
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Queue != nil {
		c.Queue = &Queue{
			Size:         cmp.Or(c.Queue.Size, DefaultQueueSize),
			Workers:      cmp.Or(c.Queue.Workers, DefaultQueueWorkers),
			DrainTimeout: cmp.Or(c.Queue.DrainTimeout, DefaultDrainTimeout),
		}
	}
	return c
}

// Validate returns an error that names the field which makes no sense.
func (c Config) Validate() error {
	switch {
	case c.Lease < 0:
		return fmt.Errorf("receiver: Lease is %v", c.Lease)
	case c.Queue != nil && (c.Queue.Size < 0 || c.Queue.Workers < 0 || c.Queue.DrainTimeout < 0):
		return fmt.Errorf("receiver: Queue is %+v", *c.Queue)
	}
	return c.Gate.Validate()
}

// Receiver is an http.Handler that takes webhooks and calls handlers for their
// events, each once. Handlers are added before it serves.
type Receiver struct {
	config   Config
	handlers handlers
	tracer   tracer

	// Of a Receiver with a Queue. slots has one unit for each event that
	// waits; jobs has capacity for as many, so that who has a slot never
	// waits. Run closes jobs.
	slots *semaphore.Weighted
	jobs  chan job

	mu       sync.Mutex
	running  bool           // guarded by mu: Run takes jobs
	entering sync.WaitGroup // requests that may still send into jobs; Add only with mu held
}

// job is an event whose claim is held, waiting for its handler.
type job struct {
	ctx   context.Context //nolint:containedctx // of the event's trace: it waits with it
	event *Event
	claim *claim
}

// arrival is an event of a request, and by what it is recognised: see identify.
type arrival struct {
	*Event

	identity string
}

// claim is the right to handle an event. An event without an identity has
// none: its key is empty.
type claim struct{ key, owner string }

// claimKey is where a handler's context has its claim.
type claimKey struct{}

// New returns a Receiver, or an error that names the field of config which is
// wrong.
func New(config Config) (*Receiver, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.resolved()
	r := &Receiver{config: config, tracer: newTracer(config.Tracer)}
	if q := config.Queue; q != nil {
		r.slots = semaphore.NewWeighted(int64(q.Size))
		r.jobs = make(chan job, q.Size)
	}
	return r, nil
}

// Handle has a handler called for the events of a pattern of types, as a
// subscription has it: `order.created`, `order.*`, `order.**`, `*`. The most
// specific pattern wins. It panics on a pattern that is none, as http.ServeMux
// does: patterns are written in programs.
func (r *Receiver) Handle(pattern string, handler Handler) { r.HandleVersion(pattern, "", handler) }

// HandleVersion is Handle for one version of the payload; what has no handler
// of its version goes to that of Handle.
func (r *Receiver) HandleVersion(pattern, version string, handler Handler) {
	if err := r.handlers.add(pattern, version, handler); err != nil {
		panic(err)
	}
}

// Fallback has a handler called for all that no other is for. Without one such
// an event is refused with 404.
func (r *Receiver) Fallback(handler Handler) { r.handlers.fallback = handler }

// ServeHTTP implements http.Handler. It answers 200 when all events of the
// request were handled, 202 when they are queued, and else as the first *Error
// says.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	switch request.Method {
	case http.MethodPost:
	case http.MethodOptions:
		r.handshake(w, request)
		return
	default:
		w.Header().Set("Allow", "POST, OPTIONS")
		http.Error(w, "webhooks are sent with POST", http.StatusMethodNotAllowed)
		return
	}
	if err := r.receive(request); err != nil {
		r.config.refuse(w, request, err)
		return
	}
	if r.config.Queue != nil {
		w.WriteHeader(http.StatusAccepted)
	}
}

// handshake answers the CloudEvents abuse protection (HTTP 1.1 Web Hooks for
// Event Delivery, section 4): whether this receiver wants what a sender is about
// to send.
func (r *Receiver) handshake(w http.ResponseWriter, request *http.Request) {
	origin := request.Header.Get("WebHook-Request-Origin")
	if origin == "" || !slices.Contains(r.config.AllowedOrigins, origin) && !slices.Contains(r.config.AllowedOrigins, "*") {
		http.Error(w, "this sender is not known here", http.StatusForbidden)
		return
	}
	w.Header().Set("Allow", "POST")
	w.Header().Set("WebHook-Allowed-Origin", origin)
	if rate := request.Header.Get("WebHook-Request-Rate"); rate != "" {
		w.Header().Set("WebHook-Allowed-Rate", "*")
	}
}

// receive takes a request through all steps.
func (r *Receiver) receive(request *http.Request) error {
	body, by, err := r.config.check(request)
	if err != nil {
		return err
	}
	if body, err = decompress(request.Header, body, r.config.maxBody()); err != nil {
		return err
	}
	events, err := DecodeEvents(request.Context(), request.Header, body)
	if err != nil {
		return err
	}
	for _, e := range events {
		if r.handlers.find(e) == nil {
			return &Error{Unhandled, fmt.Errorf("there is no handler for the type %q, version %q", e.Type, e.Version)}
		}
	}
	arrivals := identify(events, request.Header, body, by)
	if r.config.Queue != nil {
		return r.enqueue(request.Context(), arrivals)
	}
	// Each is handled whatever becomes of the others: what is done is
	// remembered, so that only the rest is done again.
	var first error
	for _, e := range arrivals {
		if err := r.handleNow(request.Context(), e); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// handleNow claims an event, handles it and settles the claim.
func (r *Receiver) handleNow(ctx context.Context, e arrival) error {
	held, standing, err := r.claim(ctx, e)
	switch {
	case err != nil:
		return err
	case standing == Handled:
		return nil
	case standing == Held:
		return &Error{Busy, fmt.Errorf("event %s is being handled", e.ID)}
	}
	return r.handle(ctx, e.Event, held)
}

// claim claims an event for a new owner.
func (r *Receiver) claim(ctx context.Context, e arrival) (*claim, Standing, error) {
	if e.identity == "" {
		return &claim{}, Claimed, nil
	}
	held := &claim{key: r.config.Name + "/" + e.identity, owner: rand.Text()}
	standing, err := r.config.Store.Claim(ctx, held.key, held.owner, r.config.Lease)
	if err != nil {
		return nil, 0, &Error{Broken, err}
	}
	return held, standing, nil
}

// handle calls the handler of an event whose claim is held, and settles it.
func (r *Receiver) handle(ctx context.Context, e *Event, held *claim) error {
	limited, cancel := context.WithTimeout(context.WithValue(ctx, claimKey{}, held), r.config.Lease)
	defer cancel()
	limited, end := r.tracer.start(limited, e)
	err := call(limited, r.handlers.find(e), e)
	end(err)
	if held.key == "" {
		return failed(err)
	}
	settling, stop := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer stop()
	if err != nil {
		if releasing := r.config.Store.Release(settling, held.key, held.owner); releasing != nil {
			r.config.Logger.Warn("releasing a claim: it will expire instead", "event", e.ID, "error", releasing)
		}
		return failed(err)
	}
	if err := r.config.Store.Done(settling, held.key, held.owner); err != nil {
		// It was handled; to have it sent again would be wrong, unless the
		// store does not know.
		r.config.Logger.Error("settling a claim: the event may be handled again", "event", e.ID, "error", err)
	}
	return nil
}

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Failed, err}
}

// call calls a handler. One that panics has failed, like any other.
func call(ctx context.Context, handler Handler, e *Event) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", cause, debug.Stack())
		}
	}()
	return handler(ctx, e)
}

// enqueue claims all events of a request and has them wait for their handlers:
// all, or none if there is no room.
func (r *Receiver) enqueue(ctx context.Context, events []arrival) error {
	if most := r.config.Queue.Size; len(events) > most {
		return &Error{TooLarge, fmt.Errorf("the request has %d events, and at most %d can ever wait", len(events), most)}
	}
	if !r.enter() {
		return &Error{Stopping, errors.New("the receiver does not run")}
	}
	defer r.entering.Done()
	if !r.slots.TryAcquire(int64(len(events))) {
		return &Error{Full, fmt.Errorf("%d events wait", r.config.Queue.Size)}
	}
	var jobs []job
	for _, e := range events {
		held, standing, err := r.claim(ctx, e)
		if err != nil {
			r.releaseAll(ctx, jobs)
			r.slots.Release(int64(len(events)))
			return err
		}
		if standing == Claimed {
			jobs = append(jobs, job{context.WithoutCancel(ctx), e.Event, held})
		}
	}
	r.slots.Release(int64(len(events) - len(jobs)))
	for _, j := range jobs {
		r.jobs <- j // there is room: it has a slot
	}
	return nil
}

// enter reports whether jobs are taken, and sees to it that they are until
// entering is done.
func (r *Receiver) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		r.entering.Add(1)
	}
	return r.running
}

func (r *Receiver) releaseAll(ctx context.Context, jobs []job) {
	for _, j := range jobs {
		if j.claim.key != "" {
			_ = r.config.Store.Release(ctx, j.claim.key, j.claim.owner) // else it expires
		}
	}
}

// Run does what a Receiver does beside answering, until ctx ends: with a Queue
// it handles what is queued, and keeps a Store from growing. A Receiver with a
// Queue takes nothing while Run does not run. At the end it takes nothing more
// and handles what is queued, for DrainTimeout at most; what is left then is
// released, and reported as an error. It may be called once.
func (r *Receiver) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	purging, stop := context.WithCancel(ctx)
	defer stop()
	tasks.Go(func() { r.purge(purging) })
	if r.config.Queue == nil {
		<-ctx.Done()
		return nil
	}
	handling, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	var workers sync.WaitGroup
	var left leftover
	for range r.config.Queue.Workers {
		workers.Go(func() { r.work(handling, &left) })
	}
	r.setRunning(true)
	<-ctx.Done()
	r.setRunning(false)
	r.entering.Wait()
	close(r.jobs) // nobody sends any more
	timer := time.AfterFunc(r.config.Queue.DrainTimeout, abort)
	defer timer.Stop()
	workers.Wait()
	return left.err()
}

func (r *Receiver) setRunning(running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = running
}

// leftover counts what was queued and not handled.
type leftover struct {
	mu sync.Mutex
	n  int // guarded by mu
}

func (l *leftover) add() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
}

func (l *leftover) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == 0 {
		return nil
	}
	return fmt.Errorf("receiver: %d events were queued and could not be handled in time", l.n)
}

// work handles what is queued until there is nothing more. Once ctx has ended it
// only gives claims back.
func (r *Receiver) work(ctx context.Context, left *leftover) {
	for j := range r.jobs {
		r.slots.Release(1)
		if ctx.Err() != nil {
			left.add()
			r.releaseAll(context.WithoutCancel(ctx), []job{j})
			continue
		}
		r.handleQueued(ctx, j)
	}
}

// handleQueued handles an event that waited, in the context that it came with,
// until ctx ends. Its claim may have run out since.
//
//nolint:contextcheck // two contexts: what the event carries, and how long there is time
func (r *Receiver) handleQueued(ctx context.Context, j job) {
	handling, cancel := context.WithCancel(j.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if j.claim.key != "" {
		standing, err := r.config.Store.Claim(handling, j.claim.key, j.claim.owner, r.config.Lease)
		if err != nil {
			r.config.Logger.Error("claiming a queued event again: it is not handled", "event", j.event.ID, "error", err)
			return
		}
		if standing != Claimed {
			return // another attempt of the sender came in between
		}
	}
	if err := r.handle(handling, j.event, j.claim); err != nil {
		r.config.Logger.Error("handling a queued event: the sender was told that all is well",
			"event", j.event.ID, "type", j.event.Type, "error", err)
	}
}

// purger is a Store that grows unless it is purged.
type purger interface {
	Purge(ctx context.Context) error
}

func (r *Receiver) purge(ctx context.Context) {
	store, ok := r.config.Store.(purger)
	if !ok {
		return
	}
	ticker := time.NewTicker(purgeInterval)
	defer ticker.Stop()
	for {
		if err := store.Purge(ctx); err != nil && ctx.Err() == nil {
			r.config.Logger.Warn("purging the store", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

package sim_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/sim"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Everything at random, against a naive oracle. SEEDS is how many seeds run,
// SEED is the one to run alone, and STEPS how long a life is. A seed that fails
// is named, with what finds the shortest life of it that does.
func TestRandom(t *testing.T) {
	steps := number(t, "STEPS", randomSteps)
	var failed atomic.Bool
	for _, seed := range seeds(t) {
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) {
			t.Parallel() // a life uses one processor at a time
			if failed.Load() && flag.Lookup("test.failfast").Value.String() == "true" {
				t.Skip("another seed has failed") // those that are parallel have begun, for the testing package
			}
			t.Cleanup(func() {
				if t.Failed() {
					failed.Store(true)
					t.Logf("to shorten this life: make shrink SEED=%d", seed)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				r := newRandomRun(t, seed)
				for range steps {
					r.step()
				}
				r.heal()
				r.check()
			})
		})
	}
}

const (
	defaultSeeds = 8
	randomSteps  = 80
)

// number reads an environment variable.
func number(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	return n
}

func seeds(t *testing.T) []uint64 {
	t.Helper()
	if only := number(t, "SEED", 0); only > 0 {
		return []uint64{only}
	}
	var all []uint64
	for i := range number(t, "SEEDS", defaultSeeds) {
		all = append(all, i+1)
	}
	return all
}

// randomRun is a cluster and what is known to be owed in it.
type randomRun struct {
	t             *testing.T
	c             *sim.Cluster
	random        *rand.Rand
	subscriptions []*wanting
	published     map[string]string // :: id of an acknowledged event -> type
	unsure        map[string]string // likewise, of those whose publisher was told of an error
	next          int               // of the next event's id
	paused        map[*sim.Coordinator]bool
	lonely        map[*sim.Worker]bool // cut from the first coordinator
	crashes       int                  // kills of workers, lost leases: what excuses duplicates
}

// wanting is a subscription as the oracle knows it.
type wanting struct {
	endpoint *sim.Endpoint
	created  *fanfarev1.Subscription
	patterns []string
	ordering string
	deleted  bool
	owed     map[string]bool // ids of events that were acknowledged while it was there
	maybe    map[string]bool // ids of events that may be owed: their publisher was told of an error
}

func newRandomRun(t *testing.T, seed uint64) *randomRun {
	random := rand.New(rand.NewPCG(seed, 77))
	r := &randomRun{
		t: t, random: random,
		c: sim.New(t, sim.Config{
			Coordinators: 1 + random.IntN(3), Workers: 1 + random.IntN(3), Seed: seed,
			Limits: &linkv1.Limits{OutstandingHealthy: 60, OutstandingFailing: 20},
		}),
		published: make(map[string]string), unsure: make(map[string]string),
		paused: make(map[*sim.Coordinator]bool), lonely: make(map[*sim.Worker]bool),
	}
	for range 2 {
		r.subscribe()
	}
	return r
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// step does one thing, and lets some time pass.
func (r *randomRun) step() {
	switch n := r.random.IntN(100); {
	case n < 55:
		r.publish()
	case n < 60:
		r.subscribe()
	case n < 62:
		r.delete()
	case n < 65:
		r.pause()
	case n < 72:
		pick(r.random, r.subscriptions).endpoint.Behave(r.behaviour())
	case n < 80:
		r.faultOfLog()
	case n < 90:
		r.faultOfCoordinator()
	default:
		r.faultOfWorker()
	}
	sim.Pass(pick(r.random, []time.Duration{0, time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 20 * time.Second}))
}

func (r *randomRun) behaviour() sim.Behaviour {
	switch r.random.IntN(8) {
	case 0:
		return sim.Hang()
	case 1:
		return sim.Slow(time.Duration(r.random.IntN(3000)) * time.Millisecond)
	case 2:
		return sim.FailFirst(1+r.random.IntN(3), pick(r.random, []int{404, 503}))
	case 3:
		return sim.Flapping(time.Duration(1+r.random.IntN(30)) * time.Second)
	case 4:
		return sim.Status(pick(r.random, []int{301, 400, 404, 408, 500, 503}))
	case 5:
		return sim.Status(http.StatusGone)
	case 6:
		return func(n int) sim.Answer {
			if n == 1 {
				return sim.Answer{Status: http.StatusTooManyRequests, RetryAfter: 7 * time.Second}
			}
			return sim.Answer{Status: http.StatusOK}
		}
	default:
		return sim.OK()
	}
}

// schedules are such that nothing is given up while a fault lasts, and such
// that much is.
func (r *randomRun) schedule() []*durationpb.Duration {
	if r.random.IntN(3) == 0 {
		return []*durationpb.Duration{durationpb.New(time.Second), durationpb.New(2 * time.Second)}
	}
	return slices.Repeat([]*durationpb.Duration{durationpb.New(5 * time.Second)}, 50)
}

func (r *randomRun) subscribe() {
	if len(r.subscriptions) >= 8 {
		return
	}
	r.healCoordinators()
	patterns := pick(r.random, [][]string{nil, {"order.*"}, {"order.created"}, {"user.**", "order.paid"}})
	e := r.c.Endpoint(fmt.Sprintf("hook-%d", len(r.subscriptions)))
	e.Behave(r.behaviour())
	ordering := pick(r.random, []string{"none", "key", "subscription"})
	w := &wanting{
		endpoint: e, patterns: patterns, ordering: ordering,
		created: r.c.Client.SubscribeAs(e, &fanfarev1.Subscription{
			EventTypes: patterns, RetrySchedule: r.schedule(), Ordering: ordering,
			BatchCount: pick(r.random, []uint32{0, 0, 1, 7, 100}),
		}),
		owed: make(map[string]bool), maybe: make(map[string]bool),
	}
	// A call that was given up may lie unread at a coordinator that stood still,
	// and be stored when that goes on: after this subscription.
	for id, eventType := range r.unsure {
		w.maybe[id] = ledger.Matches(patterns, eventType)
	}
	r.subscriptions = append(r.subscriptions, w)
}

func (r *randomRun) delete() {
	r.healCoordinators()
	w := pick(r.random, r.subscriptions)
	r.c.Client.Delete(w.created)
	w.deleted = true
}

func (r *randomRun) pause() {
	r.healCoordinators()
	if w := pick(r.random, r.subscriptions); !w.deleted {
		r.c.Client.Pause(w.created)
		r.c.Client.Resume(pick(r.random, r.alive()).created)
	}
}

// alive returns the subscriptions that were not deleted.
func (r *randomRun) alive() []*wanting {
	return slices.DeleteFunc(slices.Clone(r.subscriptions), func(w *wanting) bool { return w.deleted })
}

// publish publishes some events, now and then with ids that were used before.
func (r *randomRun) publish() {
	var events []*fanfarev1.Event
	for range 1 + r.random.IntN(20) {
		id := r.next
		if r.random.IntN(20) == 0 && r.next > 0 {
			id = r.random.IntN(r.next)
		} else {
			r.next++
		}
		types := []string{"order.created", "order.paid", "user.signed.up", "ping"}
		event := sim.Event(fmt.Sprintf("e%d", id), types[id%len(types)])
		event.OrderingKey = pick(r.random, []string{"", "a", "b", "c"})
		events = append(events, event)
	}
	begun := time.Now()
	results, err := r.c.Client.TryPublish(events...)
	if err != nil {
		for _, e := range events {
			if _, known := r.published[e.GetId()]; !known {
				r.unsure[e.GetId()] = e.GetType()
				r.match(e, func(w *wanting) { w.maybe[e.GetId()] = true })
			}
		}
		return
	}
	for i, e := range events {
		_, known := r.published[e.GetId()]
		_, unsure := r.unsure[e.GetId()]
		repeated := slices.ContainsFunc(events[:i], func(other *fanfarev1.Event) bool { return other.GetId() == e.GetId() })
		// One coordinator after the other is called, and each calls again when a
		// leader, itself or another, has ended meanwhile: so what this call has
		// stored may have been there when it was answered. All of that takes
		// time, which an undisturbed call in a bubble does not.
		again := results[i].GetDuplicate() && time.Since(begun) > 0
		if results[i].GetDuplicate() != (known || repeated) && !unsure && !again {
			r.t.Errorf("publishing %s: duplicate is %v; it was published: %v", e.GetId(), results[i].GetDuplicate(), known)
		}
		r.published[e.GetId()] = e.GetType()
		delete(r.unsure, e.GetId())
		if results[i].GetDuplicate() && (known || repeated || unsure) {
			continue // owed to who was there then
		}
		r.match(e, func(w *wanting) { w.owed[e.GetId()] = true })
	}
}

// match calls f with every subscription that wants an event now.
func (r *randomRun) match(e *fanfarev1.Event, f func(*wanting)) {
	for _, w := range r.subscriptions {
		if !w.deleted && ledger.Matches(w.patterns, e.GetType()) {
			f(w)
		}
	}
}

func (r *randomRun) faultOfLog() {
	c := pick(r.random, r.c.Coordinators)
	if !c.Running() || r.paused[c] {
		return
	}
	switch r.random.IntN(4) {
	case 0:
		r.refuseEvents(true) // at all of them: each hands events on to who leads
		_, err := r.c.Client.TryPublishTo(c, sim.Event("never", "ping"))
		if err == nil {
			r.t.Error("an event was taken without space for it")
		}
		r.refuseEvents(false)
	case 1:
		c.Log().RefuseForSpace(true)
		sim.Pass(time.Duration(r.random.IntN(5)) * time.Second)
		c.Log().RefuseForSpace(false)
	default:
		c.Log().FailNext(0, eventlog.Fault(1+r.random.IntN(4)))
	}
}

func (r *randomRun) refuseEvents(refuse bool) {
	for _, c := range r.c.Coordinators {
		if c.Running() {
			c.RefuseEvents(refuse)
		}
	}
}

func (r *randomRun) faultOfCoordinator() {
	c := pick(r.random, r.c.Coordinators)
	switch {
	case r.paused[c]:
		c.Resume()
		c.FindStore()
		delete(r.paused, c)
	case !c.Running():
		c.Start()
	default:
		r.breakCoordinator(c)
	}
}

func (r *randomRun) breakCoordinator(c *sim.Coordinator) {
	switch r.random.IntN(6) {
	case 0:
		c.Kill()
	case 1, 2:
		c.Restart()
	case 3:
		if err := c.Stop(); err != nil {
			r.t.Error(err)
		}
	case 4:
		c.Pause()
		r.paused[c] = true
	case 5:
		c.LoseStore()
		r.paused[c] = true
	}
}

func (r *randomRun) faultOfWorker() {
	w := pick(r.random, r.c.Workers)
	if r.lonely[w] {
		r.mend(w)
		return
	}
	if !w.Running() {
		w.Start()
		return
	}
	switch r.random.IntN(5) {
	case 0:
		w.Kill()
		r.crashes++
	case 1:
		w.Restart()
		r.crashes++
	case 2:
		if err := w.Stop(); err != nil {
			r.t.Error(err)
		}
		r.crashes++ // polite, but it waits for no leader longer than its grace
	case 3:
		w.LoseStore()
		sim.Pass(time.Duration(r.random.IntN(20)) * time.Second)
		w.FindStore()
		r.crashes++
	case 4:
		for _, c := range r.c.Coordinators {
			if c.Running() {
				w.CutFrom(c)
			}
		}
		r.lonely[w] = true
	}
}

func (r *randomRun) mend(w *sim.Worker) {
	for _, c := range r.c.Coordinators {
		if c.Running() {
			w.MendTo(c)
		}
	}
	delete(r.lonely, w)
}

func (r *randomRun) healCoordinators() {
	for _, c := range r.c.Coordinators {
		if r.paused[c] {
			c.Resume()
			delete(r.paused, c)
		}
		c.Start()
	}
}

// heal ends all faults and waits until nothing is owed any more.
func (r *randomRun) heal() {
	r.healCoordinators()
	for _, w := range r.c.Workers {
		if r.lonely[w] {
			r.mend(w)
		}
		w.Start()
	}
	for _, w := range r.subscriptions {
		w.endpoint.Behave(sim.OK())
	}
	r.c.AwaitOwners()
	sim.Pass(time.Minute) // what is on the wire ends: it may be the last to disable a subscription
	for _, w := range r.alive() {
		r.c.Client.Resume(w.created)
	}
	r.c.AwaitSettled(time.Hour)
}

// check compares the history and the endpoints with the oracle.
func (r *randomRun) check() {
	events := make(map[string]int)
	all := r.c.Client.Events()
	for _, e := range all {
		events[e.GetId()]++
		if _, unsure := r.unsure[e.GetId()]; !unsure && r.published[e.GetId()] == "" {
			r.t.Errorf("the history has %s, which was refused", e.GetId())
		}
	}
	for id := range r.published {
		if events[id] != 1 {
			r.t.Errorf("the history has %s %d times, want once", id, events[id])
		}
	}
	for _, w := range r.subscriptions {
		r.checkSubscription(w, events)
		checkOrder(r.t, r.c, w.endpoint, w.created, w.ordering, all)
	}
}

func (r *randomRun) checkSubscription(w *wanting, events map[string]int) {
	name := w.endpoint.Name
	accepted := w.endpoint.Accepted()
	states := make(map[string]fanfarev1.Delivery_State)
	for _, d := range r.c.Client.Deliveries(w.created) {
		id := eventID(d)
		if _, twice := states[id]; twice {
			r.t.Errorf("%s: the history has two deliveries of %s", name, id)
		}
		states[id] = d.GetState()
		if !w.owed[id] && !w.maybe[id] {
			r.t.Errorf("%s: the history has a delivery of %s, which is not owed", name, id)
		}
		r.checkDelivery(w, d, accepted[id])
	}
	for _, id := range slices.Sorted(maps.Keys(w.owed)) {
		if _, found := states[id]; !found && !w.deleted {
			r.t.Errorf("%s: %s is owed, and the history has no delivery of it", name, id)
		}
	}
	for _, request := range w.endpoint.Requests() {
		if request.Signed != nil {
			r.t.Errorf("%s: %s came with a wrong signature: %v", name, request.EventID, request.Signed)
		}
		if events[request.EventID] == 0 {
			r.t.Errorf("%s: %s came, and is not in the history", name, request.EventID)
		}
	}
	for id, n := range accepted {
		if n > 1 && r.crashes == 0 {
			r.t.Errorf("%s: %s was accepted %d times, and no worker was disturbed", name, id, n)
		}
	}
}

// checkDelivery checks one ended delivery and its attempts.
func (r *randomRun) checkDelivery(w *wanting, d *fanfarev1.Delivery, accepted int) {
	switch d.GetState() {
	case fanfarev1.Delivery_DELIVERED:
		if accepted == 0 {
			r.t.Errorf("%s: %s is delivered, and was never accepted: %v", w.endpoint.Name, d.GetEvent(), r.c.Client.Attempts(d))
		}
	case fanfarev1.Delivery_DEAD:
	case fanfarev1.Delivery_CANCELLED:
		if !w.deleted {
			r.t.Errorf("%s: %s is cancelled, and the subscription was not deleted", w.endpoint.Name, d.GetEvent())
		}
	case fanfarev1.Delivery_STATE_UNSPECIFIED, fanfarev1.Delivery_PENDING, fanfarev1.Delivery_EXPIRED:
		r.t.Errorf("%s: %s is %v", w.endpoint.Name, d.GetEvent(), d.GetState())
	}
	if d.GetAttemptCount() == 0 && d.GetState() != fanfarev1.Delivery_CANCELLED {
		r.t.Errorf("%s: %s ended without an attempt", w.endpoint.Name, d.GetEvent())
	}
}

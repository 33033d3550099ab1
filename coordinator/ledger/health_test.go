package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

func TestEndpointFailed(t *testing.T) {
	for _, test := range []struct {
		status uint32
		class  string
		want   bool
	}{
		{0, "timeout", true},
		{0, "", true},
		{0, "payload", false},
		{301, "status", false},
		{400, "status", false},
		{404, "status", false},
		{408, "status", true},
		{409, "status", false},
		{410, "status", false},
		{422, "status", false},
		{429, "status", true},
		{499, "status", false},
		{500, "status", true},
		{503, "payload", true}, // it answered, whatever else is said
		{599, "status", true},
		{200, "reset", false}, // it had answered before the connection broke
	} {
		if got := EndpointFailed(&linkv1.Outcome{StatusCode: test.status, ErrorClass: test.class}); got != test.want {
			t.Errorf("status %d, class %q: %t, want %t", test.status, test.class, got, test.want)
		}
	}
}

// failure is one of an endpoint: of an event, at a time.
type failure struct {
	event uint64
	at    int64
}

func TestBreaker(t *testing.T) {
	const first, last = 100, 450 // waits for a probe
	repeat := func(n int, events ...uint64) (all []failure) {
		for i := range n {
			all = append(all, failure{events[i%len(events)], 0})
		}
		return all
	}
	then := func(all []failure, more ...failure) []failure { return slices.Concat(all, more) }
	opened := repeat(10, 1, 2, 3) // the next probe at 100
	for _, test := range []struct {
		name     string
		failures []failure
		want     Pace
	}{
		{"none", nil, Pace{}},
		{"one too few", repeat(9, 1, 2, 3), Pace{}},
		{"just enough", opened, Pace{Probing: true, Probe: 100}},
		{"of one event", repeat(50, 1), Pace{}},
		{"of two events", repeat(50, 1, 2), Pace{}},
		{"of a third at last", then(repeat(50, 1, 2), failure{3, 7}), Pace{Probing: true, Probe: 107}},
		{"of many events", repeat(10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), Pace{Probing: true, Probe: 100}},
		{"what was in flight", then(opened, failure{1, 50}, failure{2, 99}), Pace{Probing: true, Probe: 100}},
		{"first probe", then(opened, failure{1, 100}), Pace{Probing: true, Probe: 300, Newest: true}},
		{"first probe, late", then(opened, failure{1, 130}), Pace{Probing: true, Probe: 330, Newest: true}},
		{
			"in flight during the first probe",
			then(opened, failure{1, 100}, failure{2, 101}, failure{3, 299}),
			Pace{Probing: true, Probe: 300, Newest: true},
		},
		{"second probe", then(opened, failure{1, 100}, failure{9, 300}), Pace{Probing: true, Probe: 700}},
		{
			"third probe: the longest wait",
			then(opened, failure{1, 100}, failure{9, 300}, failure{1, 700}),
			Pace{Probing: true, Probe: 1150, Newest: true},
		},
		{
			"fourth probe: it stays so",
			then(opened, failure{1, 100}, failure{9, 300}, failure{1, 700}, failure{9, 1200}),
			Pace{Probing: true, Probe: 1650},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			limits := &linkv1.Limits{BreakerFailures: 10, ProbeFirstMs: first, ProbeLastMs: last}
			var s Subscription
			for _, f := range test.failures {
				s.breaker.fail(Position{f.event, 0}, f.at, limits)
			}
			if got := s.Pace(); got != test.want {
				t.Errorf("pace is %+v, want %+v", got, test.want)
			}
			if got := len(s.breaker.events); got > distinctEvents {
				t.Errorf("remembers %d events, want at most %d", got, distinctEvents)
			}
		})
	}
}

// TestProbesOfDays: the wait stays bounded for as long as an endpoint may fail.
func TestProbesOfDays(t *testing.T) {
	limits := DefaultLimits()
	var b breaker
	for i := range uint64(limits.GetBreakerFailures()) {
		b.fail(Position{i, 0}, 0, limits)
	}
	var waits []time.Duration
	now := int64(0)
	for range 10_000 {
		waits = append(waits, time.Duration(b.next-now)*time.Millisecond)
		now = b.next
		b.fail(Position{1, 0}, now, limits)
	}
	want := []time.Duration{
		5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
		160 * time.Second, 5 * time.Minute, 5 * time.Minute,
	}
	if diff := cmp.Diff(want, waits[:len(want)]); diff != "" {
		t.Errorf("waits (-want +got):\n%s", diff)
	}
	if got := waits[len(waits)-1]; got != 5*time.Minute {
		t.Errorf("the last wait is %v, want 5m", got)
	}
}

func TestPace(t *testing.T) {
	open := breaker{failures: 12, open: true, probes: 2, next: 9}
	for _, test := range []struct {
		name string
		s    Subscription
		want Pace
	}{
		{"active", Subscription{}, Pace{}},
		{"paused", Subscription{mode: Paused}, Pace{Stopped: true}},
		{"disabled", Subscription{mode: Disabled}, Pace{Stopped: true}},
		{"failing, but not yet open", Subscription{breaker: breaker{failures: 9}}, Pace{}},
		{"open", Subscription{breaker: open}, Pace{Probing: true, Probe: 9}},
		{"paused while open", Subscription{mode: Paused, breaker: open}, Pace{Stopped: true, Probing: true, Probe: 9}},
	} {
		if got := test.s.Pace(); got != test.want {
			t.Errorf("%s: pace is %+v, want %+v", test.name, got, test.want)
		}
	}
}

// TestOneEventDoesNotOpenTheBreaker: it dies alone, on its own schedule, and
// the others are delivered as before.
func TestOneEventDoesNotOpenTheBreaker(t *testing.T) {
	b := begin(t, nil)
	b.must(t, subscriptions(put(1, "acme", "sub_1")))
	b.must(t, events(event("acme", "e1", "a")))
	poison := Delivery{1, Position{3, 0}}
	for attempt := range uint32(100) {
		result := b.must(t, &linkv1.Record{Outcomes: EncodeOutcomes(0, []Reported{
			outcome(linkv1.Outcome_RETRY, poison, attempt+1),
		})})
		if len(result.Paced) > 0 {
			t.Fatalf("attempt %d: the pace is %+v", attempt+1, result.Paced[0].Pace())
		}
	}
	if got := b.ledger.Charged(poison); got != 100 {
		t.Errorf("%d attempts were charged, want 100", got)
	}
	result := b.must(t, &linkv1.Record{Outcomes: EncodeOutcomes(0, []Reported{
		outcome(linkv1.Outcome_DEAD, poison, 101),
	})})
	if diff := cmp.Diff([]oracleChange{{poison, Died, 101, 101, 0}}, changesOf(result)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if got := b.ledger.Charged(poison); got != 0 {
		t.Errorf("%d attempts of what is not owed were charged", got)
	}
}

// TestControlsOfNobody: a control may come after its subscription has gone.
func TestControlsOfNobody(t *testing.T) {
	b := busy(t)
	before := describe(b.ledger)
	for _, number := range []Number{0, 3, 99} {
		for action := range linkv1.Control_Action_name {
			result := b.must(t, &linkv1.Record{Controls: []*linkv1.Control{control(number, linkv1.Control_Action(action))}})
			if len(result.Paced)+len(result.Deliveries) > 0 {
				t.Errorf("subscription %d, action %d: %s", number, action, describeResult(result))
			}
		}
	}
	b.ledger.sequence = 3 // all that may differ
	if diff := cmp.Diff(before, describe(b.ledger)); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
}

// TestStoppedAreNotInTheIndex: a new event does not touch them.
func TestStoppedAreNotInTheIndex(t *testing.T) {
	for _, mode := range []Mode{Paused, Disabled} {
		b := begin(t, nil)
		b.must(t, subscriptions(put(1, "acme", "sub_1", "a")))
		b.ledger.setMode(b.ledger.subscriptions[1], mode, "because", &Result{})
		if got := b.ledger.tenants["acme"].index.match("a"); len(got) > 0 {
			t.Errorf("%v: the index finds %v", mode, got)
		}
		for s := range b.ledger.Laggards() {
			t.Errorf("%v: subscription %d is caught up", mode, s.Number)
		}
	}
}

func TestRoom(t *testing.T) {
	b := begin(t, &linkv1.Limits{OutstandingHealthy: 10, OutstandingFailing: 3, OutstandingPartition: 12})
	b.must(t, subscriptions(put(1, "acme", "sub_1", "a"), put(2, "acme", "sub_2", "b")))
	room := func(want1, want2 int) {
		t.Helper()
		if got1, got2 := b.ledger.Room(b.ledger.Subscription(1)), b.ledger.Room(b.ledger.Subscription(2)); got1 != want1 || got2 != want2 {
			t.Errorf("room for %d and %d, want %d and %d", got1, got2, want1, want2)
		}
	}
	room(10, 10)
	var published []*linkv1.LoggedEvent
	for i := range 4 {
		published = append(published, event("acme", fmt.Sprint(i), "a"))
	}
	b.must(t, events(published...))
	room(6, 10)
	var failed []Reported
	for i := range uint32(failingAfter) {
		failed = append(failed, outcome(linkv1.Outcome_RETRY, Delivery{1, Position{3, 0}}, i+1))
	}
	b.must(t, &linkv1.Record{Outcomes: EncodeOutcomes(0, failed)})
	room(0, 10) // it has one more than a failing one may have
	b.must(t, &linkv1.Record{Readmits: []*linkv1.Readmit{readmit(2, 0, Position{1, 0}, Position{2, 0})}})
	room(0, 8)
}

// TestRoomOfTheFailing: they leave half of the partition's budget to others.
func TestRoomOfTheFailing(t *testing.T) {
	b := begin(t, &linkv1.Limits{OutstandingPartition: 200})
	b.must(t, subscriptions(put(1, "acme", "sub_1", "a"), put(2, "acme", "sub_2", "b")))
	b.must(t, events(event("acme", "1", "a")))
	failing := b.ledger.Subscription(1)
	var failed []Reported
	for i := range uint32(failingAfter) {
		failed = append(failed, outcome(linkv1.Outcome_RETRY, Delivery{1, Position{b.ledger.Sequence(), 0}}, i+1))
	}
	b.must(t, &linkv1.Record{Outcomes: EncodeOutcomes(0, failed)})
	room := func(outstanding, want int) {
		t.Helper()
		for b.ledger.Outstanding() < outstanding {
			b.must(t, events(event("acme", fmt.Sprint("b", b.ledger.Outstanding()), "b")))
		}
		if got := b.ledger.Room(failing) + failing.OutstandingCount(); got != want {
			t.Errorf("with %d outstanding a failing one may have %d, want %d", outstanding, got, want)
		}
	}
	room(99, 64)
	room(100, failingReserved)
	if got := b.ledger.Room(b.ledger.Subscription(2)); got < 1000 {
		t.Errorf("there is room for %d of the healthy one, want thousands", got)
	}
}

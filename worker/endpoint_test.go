package worker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// eid names an endpoint in tests of queues.
func eid(number uint64) endpointID { return endpointID{partition: 1, number: number} }

// queuesOf returns queues with endpoints 1 to n.
func queuesOf(slots, n int) *queues {
	q := newQueues(slots)
	for number := range uint64(n) {
		q.put(eid(number+1), &route{})
	}
	return q
}

// fill queues n deliveries for an endpoint, with sequences from 1.
func fill(q *queues, number uint64, n int) {
	for sequence := range uint64(n) {
		q.push(eid(number), &delivery{ref: ref{subscription: number, sequence: sequence + 1}}, 0)
	}
}

// startAll starts all that may be started and returns it as "endpoint/sequence".
func startAll(q *queues) []string {
	var started []string
	for s, ok := q.next(0); ok; s, ok = q.next(0) {
		started = append(started, fmt.Sprintf("%d/%d", s.id.number, s.delivery.sequence))
	}
	return started
}

func sequences(deliveries []*delivery) []uint64 {
	var list []uint64
	for _, d := range deliveries {
		list = append(list, d.sequence)
	}
	return list
}

func TestQueuesServeTheOneThatHoldsLeast(t *testing.T) {
	q := queuesOf(1024, 3)
	fill(q, 1, 3)
	fill(q, 2, 1)
	fill(q, 3, 2)
	want := []string{"1/1", "2/1", "3/1", "1/2", "3/2", "1/3"}
	if diff := cmp.Diff(want, startAll(q)); diff != "" {
		t.Errorf("started (-want +got):\n%s", diff)
	}
}

func TestQueuesWindow(t *testing.T) {
	tests := []struct {
		name     string
		verdicts []verdict
		want     int
	}{
		{"at first", nil, 8},
		{"success widens", []verdict{verdictSuccess, verdictSuccess}, 10},
		{"up to the most", slices.Repeat([]verdict{verdictSuccess}, 100), 64},
		{"failure halves", []verdict{verdictFailing}, 4},
		{"down to one", slices.Repeat([]verdict{verdictFailing}, 4), 1},
		{"and up again", []verdict{verdictFailing, verdictFailing, verdictFailing, verdictSuccess}, 2},
		{"a refusal changes nothing", []verdict{verdictAnswered, verdictAnswered}, 8},
		{"nor does what says nothing", []verdict{verdictNone}, 8},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := queuesOf(1024, 1)
			for _, v := range test.verdicts {
				fill(q, 1, 1)
				if _, ok := q.next(0); !ok {
					t.Fatal("nothing started")
				}
				q.done(eid(1), v)
			}
			fill(q, 1, 100)
			if got := len(startAll(q)); got != test.want {
				t.Errorf("%d requests at a time, want %d", got, test.want)
			}
		})
	}
}

func TestQueuesHandBackAfterFailuresInARow(t *testing.T) {
	q := queuesOf(1024, 1)
	fill(q, 1, 20)
	fail := func(v verdict) []uint64 {
		t.Helper()
		if _, ok := q.next(0); !ok {
			t.Fatal("nothing started")
		}
		return sequences(q.done(eid(1), v))
	}
	for _, v := range []verdict{
		verdictFailing, verdictFailing, verdictFailing, verdictFailing, verdictAnswered, // begins anew
		verdictFailing, verdictFailing, verdictNone, verdictFailing, verdictFailing,
	} {
		if back := fail(v); back != nil {
			t.Fatalf("handed back %v too soon", back)
		}
	}
	want := []uint64{12, 13, 14, 15, 16, 17, 18, 19, 20}
	if diff := cmp.Diff(want, fail(verdictFailing)); diff != "" {
		t.Errorf("handed back at the fifth failure (-want +got):\n%s", diff)
	}
	fill(q, 1, 2)
	if diff := cmp.Diff([]uint64{2}, fail(verdictFailing)); diff != "" {
		t.Errorf("handed back at the sixth failure (-want +got):\n%s", diff)
	}
	fill(q, 1, 2)
	if back := fail(verdictSuccess); back != nil {
		t.Errorf("handed back %v after a success", back)
	}
	if got := startAll(q); len(got) != 1 {
		t.Errorf("after a success %v is started, want the one that waited", got)
	}
}

func TestQueuesRemove(t *testing.T) {
	q := queuesOf(1024, 1)
	fill(q, 1, 10)
	startAll(q) // 8 of them
	if diff := cmp.Diff([]uint64{9, 10}, sequences(q.remove(eid(1)))); diff != "" {
		t.Errorf("handed back (-want +got):\n%s", diff)
	}
	if q.push(eid(1), &delivery{}, 0) {
		t.Error("a removed endpoint took a delivery")
	}
	if q.push(eid(2), &delivery{}, 0) {
		t.Error("an unknown endpoint took a delivery")
	}
	for range 8 {
		q.done(eid(1), verdictSuccess)
	}
	if q.inFlight() != 0 || len(q.endpoints) != 0 {
		t.Errorf("after the last request: %d on the wire, %d endpoints", q.inFlight(), len(q.endpoints))
	}
}

func TestQueuesReplaceRoute(t *testing.T) {
	q := queuesOf(1024, 1)
	fill(q, 1, 1)
	changed := &route{}
	q.put(eid(1), changed)
	if s, ok := q.next(0); !ok || s.route != changed {
		t.Errorf("next = %v, %v; want the changed route", s, ok)
	}
}

// Endpoints that hang, however many, leave slots to others.
func TestQueuesIsolation(t *testing.T) {
	const slots = 256
	for _, hanging := range []int{1, 10, 100, 1000} {
		t.Run(fmt.Sprint(hanging), func(t *testing.T) {
			q := queuesOf(slots, hanging+2)
			good, fresh := uint64(hanging+1), uint64(hanging+2)
			fill(q, good, 1)
			startAll(q)
			q.done(eid(good), verdictSuccess) // it has proven itself
			for number := range uint64(hanging) {
				fill(q, number+1, 100)
			}
			startAll(q) // none of it ends
			fill(q, good, 20)
			if got := len(startAll(q)); got < 9 {
				t.Errorf("an endpoint that works gets %d slots, want its window", got)
			}
			fill(q, fresh, 1)
			if got := len(startAll(q)); hanging <= slots/trialDivisor/2 && got != 1 {
				t.Errorf("a new endpoint gets %d slots, want 1", got)
			}
		})
	}
}

// Endpoints that worked and then all hang at once leave slots to others too,
// and move to the trial class when their requests time out.
func TestQueuesIsolationOfProvenEndpoints(t *testing.T) {
	const slots, hanging = 256, 50
	q := queuesOf(slots, hanging+1)
	for number := range uint64(hanging + 1) {
		for range 60 {
			fill(q, number+1, 1)
			startAll(q)
			q.done(eid(number+1), verdictSuccess)
		}
	}
	for number := range uint64(hanging) {
		fill(q, number+1, 100)
	}
	held := startAll(q)
	if free := slots - len(held); free < slots*shareDivisor/(hanging+shareDivisor)/2 {
		t.Errorf("%d endpoints that hang leave %d of %d slots", hanging, free, slots)
	}
	fill(q, hanging+1, 100)
	if got := len(startAll(q)); got < 3 {
		t.Errorf("an endpoint that works gets %d slots", got)
	}
	for number := range uint64(hanging) {
		q.done(eid(number+1), verdictFailing)
	}
	if q.trial.inFlight == 0 || q.proven.inFlight+q.trial.inFlight != q.inFlight() {
		t.Errorf("after time-outs %d requests are in the trial class", q.trial.inFlight)
	}
}

// A random history against a naive model: nothing is lost, doubled or taken
// out of turn, no limit is passed, and no slot is idle that may be used.
func TestQueuesSeeded(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &queuesModel{
				t: t, q: newQueues(40), random: rand.New(rand.NewPCG(seed, 1)),
				queued: map[uint64][]uint64{}, wire: map[uint64]int{}, known: map[uint64]bool{},
			}
			for range 2000 {
				m.step()
				m.check()
			}
		})
	}
}

type queuesModel struct {
	t      *testing.T
	q      *queues
	random *rand.Rand
	last   uint64              // sequence given out last
	queued map[uint64][]uint64 // by endpoint
	wire   map[uint64]int      // by endpoint
	known  map[uint64]bool     // endpoints that are there
}

func (m *queuesModel) step() {
	number := m.random.Uint64N(12)
	switch m.random.IntN(10) {
	case 0:
		m.q.put(eid(number), &route{})
		m.known[number] = true
	case 1:
		if m.random.IntN(8) == 0 {
			m.expect(number, m.q.remove(eid(number)))
			m.known[number] = false
		}
	case 2, 3, 4:
		m.last++
		ok := m.q.push(eid(number), &delivery{ref: ref{sequence: m.last}}, 0)
		if ok != m.known[number] {
			m.t.Fatalf("push to %d = %v", number, ok)
		}
		if ok {
			m.queued[number] = append(m.queued[number], m.last)
		}
	case 5, 6, 7:
		s, ok := m.q.next(0)
		if !ok {
			m.checkNoneMayStart()
			return
		}
		from := m.queued[s.id.number]
		if len(from) == 0 || from[0] != s.delivery.sequence || s.route == nil {
			m.t.Fatalf("started %d of %d, queued are %v", s.delivery.sequence, s.id.number, from)
		}
		m.queued[s.id.number] = from[1:]
		m.wire[s.id.number]++
	default:
		if m.wire[number] == 0 {
			return
		}
		m.wire[number]--
		back := m.q.done(eid(number), verdict(m.random.IntN(4)))
		if back != nil {
			m.expect(number, back)
		}
	}
}

// expect checks that all that was queued for an endpoint came back.
func (m *queuesModel) expect(number uint64, back []*delivery) {
	if !slices.Equal(sequences(back), m.queued[number]) {
		m.t.Fatalf("endpoint %d handed back %v, queued were %v", number, sequences(back), m.queued[number])
	}
	m.queued[number] = nil
}

func (m *queuesModel) check() {
	total := 0
	for number, n := range m.wire {
		total += n
		e := m.q.endpoints[eid(number)]
		if e == nil && (n > 0 || m.known[number]) {
			m.t.Fatalf("endpoint %d is gone with %d on the wire", number, n)
		}
		if e != nil && e.inFlight != n {
			m.t.Fatalf("endpoint %d counts %d on the wire, has %d", number, e.inFlight, n)
		}
	}
	proven := 0
	for _, e := range m.q.endpoints {
		if e.proven {
			proven += e.inFlight
		}
		if ready := len(e.queue) > 0 && e.inFlight < e.window; ready != (e.ready != nil) {
			m.t.Fatalf("endpoint %d: ready is %v, want %v", e.id.number, e.ready != nil, ready)
		}
	}
	if total > m.q.limit || total != m.q.inFlight() || proven != m.q.proven.inFlight {
		m.t.Fatalf("%d on the wire, %d proven; counted %d and %d, limit %d",
			total, proven, m.q.inFlight(), m.q.proven.inFlight, m.q.limit)
	}
}

// checkNoneMayStart applies the four rules to every endpoint by hand.
func (m *queuesModel) checkNoneMayStart() {
	for number, queued := range m.queued {
		e := m.q.endpoints[eid(number)]
		if len(queued) == 0 || e.inFlight >= e.window {
			continue
		}
		free := m.q.limit - m.q.inFlight()
		if !e.proven {
			free = min(free, m.q.limit/2-m.q.trial.inFlight)
		}
		if free > 0 && (e.inFlight == 0 || e.inFlight*8 < free) {
			m.t.Fatalf("endpoint %d waits with %d on the wire, window %d and %d slots free",
				number, e.inFlight, e.window, free)
		}
	}
}

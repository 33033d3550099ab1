package worker

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// hosted puts endpoints from..to at a host.
func hosted(q *queues, host string, from, to uint64) {
	for number := from; number <= to; number++ {
		q.put(eid(number), &route{host: host})
	}
}

// startedBy starts all that may be started, and counts it by endpoint.
func startedBy(q *queues) map[uint64]int {
	counts := make(map[uint64]int)
	for s, ok := q.next(0); ok; s, ok = q.next(0) {
		counts[s.id.number]++
	}
	return counts
}

func total(counts map[uint64]int) int {
	n := 0
	for _, count := range counts {
		n += count
	}
	return n
}

func TestHostOf(t *testing.T) {
	for raw, want := range map[string]string{
		"https://Example.com/hook":   "example.com:443",
		"http://example.com":         "example.com:80",
		"https://example.com:8443/a": "example.com:8443",
		"https://[2001:DB8::1]/":     "[2001:db8::1]:443",
		"":                           "",
		"/only/a/path":               "",
		"https://exa mple.com/":      "",
	} {
		if got := hostOf(raw); got != want {
			t.Errorf("hostOf(%q) = %q, want %q", raw, got, want)
		}
	}
}

// A thousand subscriptions at one host get its part of the slots, by turns, and
// leave the rest to others.
func TestQueuesLimitHosts(t *testing.T) {
	const slots, perHost, many = 256, 32, 1000
	q := newQueues(slots)
	q.perHost = perHost
	hosted(q, "one:443", 1, many)
	hosted(q, "other:443", many+1, many+1)
	for number := range uint64(many) {
		fill(q, number+1, 5)
	}
	counts := startedBy(q)
	if total(counts) != perHost || len(counts) != perHost {
		t.Errorf("%d endpoints of a host have %d requests, want one each of %d", len(counts), total(counts), perHost)
	}
	fill(q, many+1, 100)
	if got := startedBy(q); got[many+1] < initialWindow || total(got) != got[many+1] {
		t.Errorf("another host gets %v", got)
	}
	// Places that are free again go round: those who had none have their turn,
	// by turns with those that work.
	turns := make(map[uint64]int)
	current := counts
	for range many {
		for number := range current {
			q.done(eid(number), verdictSuccess)
			delete(current, number)
			break
		}
		for number, n := range startedBy(q) {
			if number <= many {
				current[number] += n
				turns[number]++
			}
		}
	}
	if len(turns) < many/3 || total(current) != perHost {
		t.Errorf("%d of %d had a turn when as many requests had ended; %d are on the wire", len(turns), many, total(current))
	}
}

// Endpoints of a host that hang leave places at it to the others.
func TestQueuesShareHosts(t *testing.T) {
	const perHost = 64
	for _, hanging := range []uint64{1, 5, 30} {
		t.Run(fmt.Sprint(hanging), func(t *testing.T) {
			q := newQueues(1024)
			q.perHost = perHost
			hosted(q, "one:443", 1, hanging+1)
			for number := range hanging { // they worked well before
				for range maxWindow {
					fill(q, number+1, 1)
					startAll(q)
					q.done(eid(number+1), verdictSuccess)
				}
			}
			for number := range hanging {
				fill(q, number+1, 200)
			}
			startAll(q)
			held := q.hosts["one:443"].inFlight
			if held >= perHost || hanging == 1 && held != perHost/(siteDivisor+1) {
				t.Errorf("%d endpoints that hang hold %d of %d places", hanging, held, perHost)
			}
			fill(q, hanging+1, 200)
			if got := startedBy(q)[hanging+1]; got == 0 {
				t.Error("one that works gets no place")
			}
		})
	}
}

// Hosts at one address share that, wherever their names lead to by turns.
func TestQueuesLimitAddresses(t *testing.T) {
	const hosts, perAddress = 30, 24 // at each of two
	one, other := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	q := newQueues(256)
	q.perHost, q.perAddress = 16, perAddress
	for number := range uint64(2 * hosts) {
		q.put(eid(number+1), &route{host: fmt.Sprintf("h%d:443", number+1)})
		fill(q, number+1, 50)
		at := one
		if number >= hosts {
			at = other
		}
		q.locate(fmt.Sprintf("h%d:443", number+1), at, 0)
	}
	q.locate("unknown:443", one, 0)
	counts := startedBy(q)
	var at [2]int
	for number, n := range counts {
		at[(number-1)/hosts] += n
	}
	if at != [2]int{perAddress, perAddress} {
		t.Fatalf("at the two addresses are %v requests, want %d each", at, perAddress)
	}
	// Seen elsewhere, a host stays for a while where it was, and then moves
	// with what it has.
	q.locate("h1:443", other, addressLasts-1)
	if got := startedBy(q); total(got) != 0 {
		t.Errorf("a host that moved too soon: %v", got)
	}
	q.locate("h1:443", other, addressLasts)
	more := startedBy(q)
	for number, n := range more {
		if number == 1 || number > hosts {
			t.Errorf("endpoint %d gets %d more", number, n)
		}
		counts[number] += n
	}
	first, second := q.addresses[netip.MustParsePrefix("203.0.113.1/32")], q.addresses[netip.MustParsePrefix("203.0.113.2/32")]
	if total(more) != counts[1] || first.inFlight != perAddress || second.inFlight != perAddress+counts[1] {
		t.Errorf("%d more are begun; the addresses have %d and %d", total(more), first.inFlight, second.inFlight)
	}
	for number := range uint64(2 * hosts) {
		q.remove(eid(number + 1))
		for range counts[number+1] {
			q.done(eid(number+1), verdictSuccess)
		}
	}
	if len(q.hosts)+len(q.addresses)+len(q.endpoints) != 0 {
		t.Errorf("left are %d hosts, %d addresses, %d endpoints", len(q.hosts), len(q.addresses), len(q.endpoints))
	}
}

// What addresses are one place.
func TestQueuesLocate(t *testing.T) {
	for at, want := range map[string]string{
		"203.0.113.7":        "203.0.113.7/32",
		"::ffff:203.0.113.7": "203.0.113.7/32",
		"2001:db8:1:2:3::4":  "2001:db8:1:2::/64",
		"127.0.0.1":          "",
		"::1":                "",
	} {
		q := newQueues(8)
		hosted(q, "h:80", 1, 1)
		q.locate("h:80", netip.MustParseAddr(at), 0)
		got := ""
		for key := range q.addresses {
			got = key.String()
		}
		if got != want {
			t.Errorf("%s is at %q, want %q", at, got, want)
		}
	}
}

// A random history with hosts and addresses: no limit is passed, what is counted
// is what there is, and no slot is idle that may be used.
func TestQueuesSitesSeeded(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &sitesModel{t: t, q: newQueues(40), random: rand.New(rand.NewPCG(seed, 7)), wire: make(map[uint64]int)}
			m.q.perHost, m.q.perAddress = 1+m.random.IntN(12), 1+m.random.IntN(20)
			for range 2000 {
				m.step()
				m.check()
			}
			m.end()
		})
	}
}

type sitesModel struct {
	t      *testing.T
	q      *queues
	random *rand.Rand
	wire   map[uint64]int // by endpoint
	now    int64
	last   uint64
}

func (m *sitesModel) host() string {
	if n := m.random.IntN(6); n < 5 {
		return fmt.Sprintf("h%d:443", n)
	}
	return ""
}

func (m *sitesModel) step() {
	number := m.random.Uint64N(16)
	m.now += m.random.Int64N(2000)
	switch m.random.IntN(16) {
	case 0, 1:
		m.q.put(eid(number), &route{host: m.host()})
	case 2:
		if m.random.IntN(6) == 0 {
			m.q.remove(eid(number))
		}
	case 3:
		m.q.locate(m.host(), netip.AddrFrom4([4]byte{203, 0, 113, byte(m.random.IntN(3))}), m.now)
	case 4, 5, 6, 7:
		m.last++
		m.q.push(eid(number), &delivery{ref: ref{sequence: m.last}}, m.now)
	case 8, 9, 10, 11:
		if s, ok := m.q.next(m.now); ok {
			m.wire[s.id.number]++
		} else {
			m.checkNoneMayStart()
		}
	case 12:
		m.q.emptyOne(eid(number))
	default:
		if m.wire[number] > 0 {
			m.wire[number]--
			m.q.done(eid(number), verdict(m.random.IntN(4)))
		}
	}
}

func (m *sitesModel) check() {
	hosts, addresses := make(map[*host]int), make(map[*site]int)
	for number, n := range m.wire {
		e := m.q.endpoints[eid(number)]
		if e == nil && n > 0 || e != nil && e.inFlight != n {
			m.t.Fatalf("endpoint %d has %d on the wire, counted otherwise", number, n)
		}
		if e != nil && e.host != nil {
			hosts[e.host] += n
			if e.host.address != nil {
				addresses[e.host.address] += n
			}
		}
	}
	members := make(map[*site]int)
	for _, h := range m.q.hosts {
		if h.inFlight != hosts[h] {
			m.t.Fatalf("host %s counts %d on the wire, has %d", h.name, h.inFlight, hosts[h])
		}
		if h.address != nil {
			members[h.address]++
		}
	}
	for key, at := range m.q.addresses {
		if at.inFlight != addresses[at] || at.members != members[at] || at.members == 0 {
			m.t.Fatalf("address %v counts %d on the wire and %d hosts, has %d and %d", key, at.inFlight, at.members, addresses[at], members[at])
		}
	}
	for _, e := range m.q.endpoints {
		if ready := len(e.queue) > 0 && e.inFlight < e.window; ready != (e.ready != nil) || e.ready == nil && e.parked != nil {
			m.t.Fatalf("endpoint %d: ready is %v, want %v", e.id.number, e.ready != nil, ready)
		}
	}
}

// checkNoneMayStart applies all rules to every endpoint by hand.
func (m *sitesModel) checkNoneMayStart() {
	for _, e := range m.q.endpoints {
		if len(e.queue) == 0 || e.inFlight >= e.window {
			continue
		}
		free := m.q.limit - m.q.inFlight()
		if !e.proven {
			free = min(free, m.q.limit/2-m.q.trial.inFlight)
		}
		may := free > 0 && (e.inFlight == 0 || e.inFlight*8 < free)
		if h := e.host; h != nil && may {
			free := m.q.perHost - h.inFlight
			may = free > 0 && (e.inFlight == 0 || e.inFlight*3 < free)
			if h.address != nil && may {
				free := m.q.perAddress - h.address.inFlight
				may = free > 0 && (e.inFlight == 0 || e.inFlight*3 < free)
			}
		}
		if may {
			m.t.Fatalf("endpoint %d waits with %d on the wire and a window of %d (parked: %v)", e.id.number, e.inFlight, e.window, e.parked != nil)
		}
	}
}

// end lets all end, and checks that nothing is left.
func (m *sitesModel) end() {
	for number := range uint64(16) {
		m.q.remove(eid(number))
	}
	for number, n := range m.wire {
		for range n {
			m.q.done(eid(number), verdictNone)
		}
	}
	if len(m.q.hosts)+len(m.q.addresses)+len(m.q.endpoints) != 0 {
		m.t.Errorf("left are %d hosts, %d addresses, %d endpoints", len(m.q.hosts), len(m.q.addresses), len(m.q.endpoints))
	}
}

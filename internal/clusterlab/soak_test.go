package clusterlab_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// settle bounds how long what is owed may take to arrive after the last fault.
const settle = 5 * time.Minute

// TestSoak does harm at random for as long as SOAK says. SEED repeats an order,
// HARM does only the harms it matches, and what all processes say is kept in
// LAB_DIR if that is set.
func TestSoak(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv("SOAK"))
	if err != nil {
		t.Skip("SOAK is not set to a duration; see make soak")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("reading SEED: %v", err)
		}
	}
	t.Logf("SEED=%d", seed)
	l := newLab(t, 3, 4)
	r := newReceiver(t, 10*time.Millisecond, 0.01)
	p := newLoad(l, r)
	<-time.After(2 * time.Second)
	s := &soak{lab: l, receiver: r, random: rand.New(rand.NewPCG(seed, 1)), gaps: make(map[string][]time.Duration)}
	only, err := regexp.Compile(os.Getenv("HARM"))
	if err != nil {
		t.Fatalf("reading HARM: %v", err)
	}
	s.harms = slices.DeleteFunc(harms(), func(h harm) bool { return !only.MatchString(h.name) })
	if len(s.harms) == 0 {
		t.Fatalf("HARM is %q, which matches none", only)
	}
	for end := time.Now().Add(lasts); time.Now().Before(end) && !t.Failed(); {
		s.step()
	}
	p.end()
	l.awaitOwned()
	l.awaitSettled(settle)
	owed, duplicates := p.check(r, s.impolite)
	p.checkOrder(r)
	t.Logf("%d events acknowledged, %d calls refused, the slowest acknowledgement after %v; %d deliveries owed, 0 lost, %d made twice",
		len(p.acknowledged), p.failed, p.slowest.Round(time.Millisecond), owed, duplicates)
	s.report()
}

// soak is one random order of harm.
type soak struct {
	lab      *lab
	receiver *receiver
	random   *rand.Rand
	harms    []harm
	impolite []span
	gaps     map[string][]time.Duration // :: what was done -> the longest time a hook got nothing around it
}

// harm is something that is done to a cluster. It returns when it is over, but
// for what the cluster has to do then.
type harm struct {
	name   string
	polite bool
	do     func(*soak)
}

func harms() []harm {
	return []harm{
		{"worker killed", false, func(s *soak) { s.killed(s.worker()) }},
		{"coordinator killed", false, func(s *soak) { s.killed(s.coordinator()) }},
		{"worker paused beyond its lease", false, func(s *soak) { s.paused(s.worker()) }},
		{"coordinator paused beyond its lease", false, func(s *soak) { s.paused(s.coordinator()) }},
		{"worker cut from etcd", false, func(s *soak) { s.cut(s.worker().cutEtcd) }},
		{"coordinator cut from etcd", false, func(s *soak) { s.cut(s.coordinator().cutEtcd) }},
		{"coordinator cut from NATS", false, func(s *soak) { s.cut(s.coordinator().cutNATS) }},
		{"coordinator cut from members", false, func(s *soak) { s.cut(s.coordinator().front.setCut) }},
		{"all cut from etcd", false, func(s *soak) { s.cutAll(member.cutEtcd) }},
		{"all cut from NATS", false, func(s *soak) { s.cutAll(member.cutNATS) }},
		{"etcd server killed", false, func(s *soak) { s.killedEngine(s.lab.etcd) }},
		{"NATS server killed", false, func(s *soak) { s.killedEngine(s.lab.nats) }},
		{"worker restarted", true, func(s *soak) { s.restarted(s.worker()) }},
		{"coordinator restarted", true, func(s *soak) { s.restarted(s.coordinator()) }},
		{"worker drained", true, func(s *soak) { s.drained(s.worker()) }},
		{"coordinator drained", true, func(s *soak) { s.drained(s.coordinator()) }},
	}
}

func pick[T any](s *soak, from []T) T { return from[s.random.IntN(len(from))] }

func (s *soak) worker() *member      { return pick(s, s.lab.workers) }
func (s *soak) coordinator() *member { return pick(s, s.lab.coordinators) }

// between waits for a time between two, by chance.
func (s *soak) between(least, most time.Duration) {
	<-time.After(least + time.Duration(s.random.Int64N(int64(most-least))))
}

// step does one harm, waits until everything is owned again and a little more,
// and takes note of the longest gap meanwhile.
func (s *soak) step() {
	h := pick(s, s.harms)
	start := time.Now()
	h.do(s)
	s.lab.awaitOwned()
	s.between(2*time.Second, 4*time.Second)
	end := time.Now()
	gap := s.receiver.gap(start, end)
	s.gaps[h.name] = append(s.gaps[h.name], gap)
	if !h.polite {
		s.impolite = append(s.impolite, span{start, end})
	}
	s.lab.t.Logf("%s: over after %v, a hook got nothing for %v",
		h.name, end.Sub(start).Round(100*time.Millisecond), gap.Round(10*time.Millisecond))
}

func (s *soak) killed(m *member) {
	m.kill()
	s.between(0, 2*leaseTTL)
	m.start()
}

func (s *soak) paused(m *member) {
	m.signal(syscall.SIGSTOP)
	<-time.After(leaseTTL + leaseTTL/2)
	m.signal(syscall.SIGCONT)
}

func (s *soak) cut(set func(bool)) {
	set(true)
	s.between(time.Second, 3*leaseTTL)
	set(false)
}

func (s *soak) cutAll(set func(member, bool)) {
	s.cut(func(cut bool) {
		for _, m := range s.lab.members() {
			set(*m, cut)
		}
	})
}

func (s *soak) killedEngine(all []*process) {
	e := pick(s, all)
	e.kill()
	s.between(time.Second, 2*leaseTTL)
	e.start()
}

func (s *soak) restarted(m *member) {
	m.stop()
	m.start()
}

func (s *soak) drained(m *member) {
	l := s.lab
	has := func() string {
		c, err := l.describe()
		if err != nil {
			return err.Error()
		}
		for _, described := range c.GetMembers() {
			if described.GetId() == m.name && described.GetPartitions()+described.GetShards() == 0 {
				return ""
			}
		}
		return "it has something still"
	}
	// On a busy machine its lease may have run out just now.
	drain := func(undo bool) func() string {
		return func() string {
			if err := l.drain(m.name, undo); err != nil {
				return err.Error()
			}
			return ""
		}
	}
	l.await(m.name+" begins to drain", ownedLimit, drain(false))
	l.await(m.name+" is drained", ownedLimit, has)
	l.await(m.name+" is given work again", ownedLimit, drain(true))
}

func (s *soak) report() {
	for _, name := range slices.Sorted(maps.Keys(s.gaps)) {
		gaps := slices.Sorted(slices.Values(s.gaps[name]))
		s.lab.t.Logf("%-36s %2d times; a hook got nothing for: median %8v, at most %8v", name, len(gaps),
			gaps[len(gaps)/2].Round(10*time.Millisecond), gaps[len(gaps)-1].Round(10*time.Millisecond))
	}
}

package worker

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// Sessions are cut, the shard is given anew, outcomes are said again, each
// session has a leader that knows only the ledger: through all of it a worker
// that lives delivers everything, and nothing twice.
func TestSessionsSeeded(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSeeded(t, seed)
				for s.session() {
				}
				for sequence := range uint64(seededEvents) {
					if got := s.endpoint.accepted(sequence + 1); got != 1 {
						t.Errorf("event %d was accepted %d times", sequence+1, got)
					}
				}
			})
		})
	}
}

const seededEvents = 40

// seeded is a ledger that is all a leader has.
type seeded struct {
	*world
	random   *rand.Rand
	lease    cluster.LeaseID
	leader   *leader
	owed     map[uint64]uint32 // sequence -> attempt to make
	endpoint *flaky
}

func newSeeded(t *testing.T, seed uint64) *seeded {
	s := &seeded{
		world: newWorld(t), random: rand.New(rand.NewPCG(seed, 2)), owed: make(map[uint64]uint32),
		endpoint: &flaky{random: rand.New(rand.NewPCG(seed, 3)), count: make(map[string]int)},
	}
	for sequence := range uint64(seededEvents) {
		s.owed[sequence+1] = 1
	}
	s.serve("hook.test", s.endpoint)
	s.leader = s.lead(1, "leader-a", 7)
	s.start(nil)
	s.lease = s.world.lease(0)
	s.give(s.lease, 1, 3)
	return s
}

// session leads for one session and reports whether another is needed.
func (s *seeded) session() bool {
	peer, claims := s.leader.welcome(1, hookEndpoints())
	held := make(map[uint64]bool)
	for _, r := range claims[0].GetInHand() {
		held[r.GetSequence()] = true
	}
	for _, sequence := range slices.Sorted(maps.Keys(s.owed)) {
		if !held[sequence] {
			s.dispatch(peer, sequence)
		}
	}
	for range s.random.IntN(30) {
		if s.random.IntN(10) == 0 {
			s.give(s.lease, 1, 3) // with a new epoch
		}
		s.listen(peer)
		if len(s.owed) == 0 {
			return false
		}
	}
	peer.cut <- status.Error(codes.Unavailable, "cut")
	return true
}

// listen takes what the worker says next, if it says anything soon.
func (s *seeded) listen(peer *peer) {
	select {
	case m := <-peer.received:
		if c := m.GetClaim(); c != nil {
			peer.snapshot(c, hookEndpoints()[3]...)
		}
		for _, o := range m.GetOutcomes().GetOutcomes() {
			s.fold(peer, o)
		}
		if b := m.GetOutcomes(); b != nil && s.random.IntN(3) > 0 {
			peer.durable(b.GetNumber())
		}
	case <-time.After(300 * time.Millisecond):
	}
}

// fold does to the ledger what an outcome says, once.
func (s *seeded) fold(peer *peer, o *linkv1.Outcome) {
	attempt, owed := s.owed[o.GetSequence()]
	switch {
	case o.GetKind() == linkv1.Outcome_DELIVERED, o.GetKind() == linkv1.Outcome_DEAD:
		delete(s.owed, o.GetSequence())
	case !owed, o.GetAttempt() != attempt: // counted already
	case o.GetKind() == linkv1.Outcome_RETRY:
		s.owed[o.GetSequence()]++
		s.dispatch(peer, o.GetSequence())
	default:
		s.dispatch(peer, o.GetSequence())
	}
}

func (s *seeded) dispatch(peer *peer, sequence uint64) {
	d := pingDispatch(s.t, sequence)
	d.Targets = []*linkv1.Target{{Subscription: 1, Attempt: s.owed[sequence], Step: s.owed[sequence]}}
	peer.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Dispatch{Dispatch: d}})
}

// flaky is an endpoint that takes its time and fails at times.
type flaky struct {
	mu     sync.Mutex
	random *rand.Rand     // guarded by mu
	count  map[string]int // guarded by mu; events accepted, by webhook-id
}

func (f *flaky) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	f.mu.Lock()
	delay, fails := time.Duration(f.random.IntN(400))*time.Millisecond, f.random.IntN(10) < 3
	f.mu.Unlock()
	pass(delay)
	if fails {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	f.mu.Lock()
	f.count[r.Header.Get("Webhook-Id")]++
	f.mu.Unlock()
}

func (f *flaky) accepted(sequence uint64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[fmt.Sprintf("evt_%d", sequence)]
}

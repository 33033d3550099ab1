package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// misbehaviours are what endpoints do to who calls them, each with one
// connection until that breaks or it returns, which closes it.
func misbehaviours() map[string]func(net.Conn) {
	asked := func(conn net.Conn) bool {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		return err == nil
	}
	// says answers with a text, and then with another one again and again.
	says := func(first, again string, pause time.Duration) func(net.Conn) {
		return func(conn net.Conn) {
			if !asked(conn) {
				return
			}
			_, err := io.WriteString(conn, first)
			for err == nil {
				pass(pause)
				_, err = io.WriteString(conn, again)
			}
		}
	}
	return map[string]func(net.Conn){
		"hangs":         func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"never-reads":   func(net.Conn) { pass(time.Minute) },
		"drips-body":    says("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x", time.Second),
		"drips-head":    says("HTTP/1.1 200 OK\r\nX-Slow: ", "x", time.Second),
		"endless-head":  says("HTTP/1.1 200 OK\r\n", "X-Long: "+strings.Repeat("x", 1000)+"\r\n", 10*time.Millisecond),
		"endless-chunk": says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", 10*time.Millisecond),
		"resets":        func(conn net.Conn) { _ = asked(conn) },
		"late": func(conn net.Conn) {
			for asked(conn) {
				pass(14 * time.Second)
				if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
					return
				}
			}
		},
	}
}

// misbehave serves http://host by a misbehaviour.
func (w *world) misbehave(host string, behaviour func(net.Conn)) {
	var conns sync.WaitGroup
	w.t.Cleanup(conns.Wait)
	w.listen(host+":80", func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		conns.Go(func() {
			defer func() { _ = far.Close() }()
			behaviour(far)
		})
		return near, nil
	})
}

// mixed is a load on endpoints that are well, beside others that are not.
type mixed struct {
	w    *world
	peer *peer
	bad  []uint64

	mu   sync.Mutex
	sent map[string]time.Time // guarded by mu; :: event id
	took []time.Duration      // guarded by mu; from dispatch to arrival, of those that are well
}

const (
	wellEndpoints = 8                     // numbers 1 to 8
	wellBurst     = 24                    // events to one of them at a time, each tick
	wellAnswers   = 10 * time.Millisecond // after so long
	wellTick      = 50 * time.Millisecond // the next of them has its turn
	wellTicks     = 400                   // in all: 20 s
	badEach       = 5                     // endpoints of each misbehaviour
	badInHand     = 16                    // deliveries of each in hand, as many as a leader gives it at first
	badTicks      = 20                    // between two times that those in hand are filled up
	badFirst      = uint64(1000)          // number of the first bad one, and of its first event
	isolationSlop = 1 * time.Millisecond  // by how much the bad may delay the healthy
)

// run returns how long each event took to the endpoints that are well.
func (m *mixed) run() []time.Duration {
	sequence, wanting := badFirst, map[uint64]int{}
	for _, number := range m.bad {
		wanting[number] = badInHand
	}
	tick := time.NewTicker(wellTick)
	defer tick.Stop()
	for ticks, left := 0, wellTicks*wellBurst; left > 0; {
		select {
		case <-tick.C:
			if ticks%badTicks == 0 {
				for _, number := range m.bad {
					for ; wanting[number] > 0; wanting[number]-- {
						sequence++
						m.peer.dispatch(sequence, number)
					}
				}
			}
			if ticks < wellTicks {
				for range wellBurst {
					sequence++
					m.dispatched(sequence)
					m.peer.dispatch(sequence, uint64(ticks%wellEndpoints)+1)
				}
			}
			ticks++
		case message, ok := <-m.peer.received:
			if !ok {
				m.w.t.Fatal("the worker has ended the session")
			}
			batch := message.GetOutcomes()
			for _, o := range batch.GetOutcomes() {
				if o.GetSubscription() >= badFirst {
					wanting[o.GetSubscription()]++
				} else if left--; o.GetKind() != linkv1.Outcome_DELIVERED {
					m.w.t.Errorf("outcome of an endpoint that is well: %v", o)
				}
			}
			m.peer.durable(batch.GetNumber())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.Sort(m.took)
	return m.took
}

func (m *mixed) dispatched(sequence uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent[fmt.Sprintf("evt_%d", sequence)] = time.Now()
}

// ServeHTTP implements http.Handler: an endpoint that is well.
func (m *mixed) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	if sent, ok := m.sent[r.Header.Get("Webhook-Id")]; ok {
		m.took = append(m.took, time.Since(sent))
	}
	m.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body)
	pass(wellAnswers)
}

// withBad runs the load beside endpoints that misbehave.
func withBad(t *testing.T, bad map[string]func(net.Conn)) (took []time.Duration) {
	inBubble(t, func(w *world) {
		m := &mixed{w: w, sent: make(map[string]time.Time)}
		var endpoints []*linkv1.Endpoint
		var well []uint64
		for number := uint64(1); number <= wellEndpoints; number++ {
			host := fmt.Sprintf("well%d.test", number)
			w.serve(host, m)
			endpoints = append(endpoints, testEndpoint(number, "http://"+host+"/"))
			well = append(well, number)
		}
		number := badFirst
		for name, behaviour := range bad {
			for i := range badEach {
				host := fmt.Sprintf("%s%d.test", name, i)
				w.misbehave(host, behaviour)
				endpoints = append(endpoints, testEndpoint(number, "http://"+host+"/"))
				m.bad = append(m.bad, number)
				number++
			}
		}
		l := w.lead(1, "leader-a", 7)
		w.start(nil)
		w.give(w.lease(0), 1, 3)
		m.peer, _ = l.welcome(1, map[int32][]*linkv1.Endpoint{3: endpoints})
		m.peer.dispatch(1, well...)
		m.peer.collect(len(well)) // they have shown that they are well
		took = m.run()
	})
	return took
}

// Endpoints that hang, drip, flood, reset or answer late cost those that are
// well nothing: what these are sent arrives as soon as without them. (I9)
func TestIsolation(t *testing.T) {
	alone, beside := withBad(t, nil), withBad(t, misbehaviours())
	if len(alone) != len(beside) || len(alone) != wellTicks*wellBurst {
		t.Fatalf("%d arrived alone and %d beside the bad, of %d", len(alone), len(beside), wellTicks*wellBurst)
	}
	for name, at := range map[string]int{"p50": len(alone) / 2, "p99": len(alone) * 99 / 100, "longest": len(alone) - 1} {
		t.Logf("%s: %v alone, %v beside %d that misbehave", name, alone[at], beside[at], len(misbehaviours())*badEach)
		if beside[at] > alone[at]+isolationSlop {
			t.Errorf("%s: %v alone, %v beside the bad", name, alone[at], beside[at])
		}
	}
}

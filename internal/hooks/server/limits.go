package server

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// The body of a request cannot be had.
var (
	errBodyTooLarge = errors.New("the body is larger than the limit")
	errNoMemory     = errors.New("the bodies of all requests together are at their limit")
	errBodyCut      = errors.New("the body ended before its end")
)

// memory is what the bodies of all requests may take together.
type memory struct {
	mu   sync.Mutex
	free int64 // guarded by mu
}

// share is what one request has of the memory. It is owned by one goroutine at
// a time.
type share struct {
	from *memory
	held int64
}

// take takes n bytes more, or none.
func (s *share) take(n int64) bool {
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	if n > s.from.free {
		return false
	}
	s.from.free -= n
	s.held += n
	return true
}

// release gives everything back.
func (s *share) release() {
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	s.from.free += s.held
	s.held = 0
}

// readBody reads the whole body of r, which may have limit bytes, and takes
// memory for it as it comes: who sends nothing holds nothing. It fails with
// errBodyTooLarge, errNoMemory, or what wraps errBodyCut.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration, memory *share) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, errBodyTooLarge
	}
	control := http.NewResponseController(w)
	// Not every connection has deadlines; those of net.Listen do.
	_ = control.SetReadDeadline(time.Now().Add(timeout))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	const first, most = 4 << 10, 4 << 20
	body := []byte(nil)
	limited := http.MaxBytesReader(w, r.Body, limit)
	for {
		if len(body) == cap(body) {
			grown := min(max(first, 2*cap(body)), cap(body)+most)
			if !memory.take(int64(grown - cap(body))) {
				return nil, errNoMemory
			}
			body = append(make([]byte, 0, grown), body...)
		}
		n, err := limited.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, errBodyTooLarge
		}
		if err != nil {
			return nil, errors.Join(errBodyCut, err)
		}
	}
}

// gates bounds how many commands of a hook run at a time and wait for it, by
// the hook's id, over reloads.
type gates struct {
	mu  sync.Mutex
	all map[string]*gate // guarded by mu; only those that somebody is in
}

// gate is guarded by its gates' mu.
type gate struct {
	limit   int
	running int
	waiting []chan struct{} // in the order they came; closed when it is their turn
}

// pass is a place in a gate. The zero pass is one where there is no gate.
type pass struct {
	gates *gates
	id    string
	turn  chan struct{} // closed when it may run
}

// enter takes a place: one of those that run, or else one of those that wait.
// It reports false if there is neither. The limits are those of the hook as it
// is now.
func (g *gates) enter(id string, limit, queue int) (pass, bool) {
	if limit == 0 {
		return pass{}, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.all[id]
	if one == nil {
		one = &gate{}
		g.all[id] = one
	}
	one.limit = limit
	turn := make(chan struct{})
	switch {
	case one.running < limit && len(one.waiting) == 0:
		one.running++
		close(turn)
	case len(one.waiting) < queue:
		one.waiting = append(one.waiting, turn)
	default:
		return pass{}, false
	}
	return pass{gates: g, id: id, turn: turn}, true
}

// leave gives the place back, and lets who waits in. It is called once.
func (p pass) leave() {
	if p.gates == nil {
		return
	}
	p.gates.mu.Lock()
	defer p.gates.mu.Unlock()
	one := p.gates.all[p.id]
	if !one.drop(p.turn) {
		one.running--
	}
	for len(one.waiting) > 0 && one.running < one.limit {
		one.running++
		close(one.waiting[0])
		one.waiting = one.waiting[1:]
	}
	if one.running == 0 && len(one.waiting) == 0 {
		delete(p.gates.all, p.id)
	}
}

// drop takes who waits out of the queue, and reports whether it was there.
func (g *gate) drop(turn chan struct{}) bool {
	for i, waiting := range g.waiting {
		if waiting == turn {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// head keeps the first bytes of what is written to it, and drops the rest.
type head struct {
	max     int
	kept    []byte
	dropped int64
}

// Write implements io.Writer. It never fails.
func (h *head) Write(p []byte) (int, error) {
	fits := min(len(p), h.max-len(h.kept))
	h.kept = append(h.kept, p[:fits]...)
	h.dropped += int64(len(p) - fits)
	return len(p), nil
}

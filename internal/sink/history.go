package sink

import "unique"

// MaxPaths bounds the paths of which the greatest id is remembered. On further
// ones nothing is out of order.
const MaxPaths = 1024

// delivery is what makes two requests the same.
type delivery struct {
	path unique.Handle[string] // there are many ids to a path
	id   string
}

// history remembers a bounded number of ids, the newest ones. It is not safe
// for concurrent use.
type history struct {
	max       int
	known     map[delivery]struct{}
	ring      []delivery // what is known, in the order it came; full, next is the oldest
	next      int
	greatest  map[string]string // :: path -> greatest id accepted on it
	forgotten int64
}

func newHistory(limit int) *history {
	return &history{
		max:      limit,
		known:    map[delivery]struct{}{},
		greatest: map[string]string{},
	}
}

// add remembers an id and reports whether it was known, and if it was not,
// whether a greater one was added before on the same path.
func (h *history) add(path, id string) (duplicate, outOfOrder bool) {
	key := delivery{unique.Make(path), id}
	if _, ok := h.known[key]; ok {
		return true, false
	}
	h.remember(key)
	greatest, ok := h.greatest[path]
	switch {
	case ok && id < greatest:
		return false, true
	case ok || len(h.greatest) < MaxPaths:
		h.greatest[path] = id
	}
	return false, false
}

// remember adds key, in place of the oldest if there are max already.
func (h *history) remember(key delivery) {
	h.known[key] = struct{}{}
	if len(h.ring) < h.max {
		h.ring = append(h.ring, key)
		return
	}
	delete(h.known, h.ring[h.next])
	h.ring[h.next] = key
	h.next = (h.next + 1) % h.max
	h.forgotten++
}

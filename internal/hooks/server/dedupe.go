package server

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/request"
)

// Limits of what is remembered to recognise duplicates.
const (
	// DefaultWindow is how long an id is remembered.
	DefaultWindow = 24 * time.Hour
	// MaxIDs is how many are, over all hooks. Beyond it the oldest that are
	// done are forgotten.
	MaxIDs = 100_000
	// maxIDBytes bounds an id.
	maxIDBytes = 512
)

// idOf returns by what a request to the hook is recognised: empty if by nothing,
// and an error if there should be something.
func (h *hook) idOf(r *request.Request) (string, error) {
	by := h.spec.DeduplicateBy
	if by == nil {
		return "", nil
	}
	id, err := r.Value(*by)
	switch {
	case err != nil:
		return "", err
	case id == "":
		return "", errors.New("it is empty")
	case len(id) > maxIDBytes:
		return "", fmt.Errorf("it has %d bytes, more than %d", len(id), maxIDBytes)
	}
	return id, nil
}

// claimed says what is known of an id.
type claimed int

const (
	claimNew     claimed = iota // it is the caller's now
	claimRunning                // somebody else has it
	claimDone                   // its command has ended well
)

// delivered remembers by id what was run, so that a second delivery does not
// run it again. An id is claimed before its command runs; then the claim is
// either done, or, if the command failed, released, so that the sender's retry
// runs it.
type delivered struct {
	mu    sync.Mutex
	known map[deliveryKey]*list.Element // guarded by mu; of *delivery
	order list.List                     // guarded by mu; done ones, oldest first
}

type deliveryKey struct{ hook, id string }

type delivery struct {
	key     deliveryKey
	expires time.Time
}

func newDelivered() *delivered {
	return &delivered{known: map[deliveryKey]*list.Element{}}
}

// claim takes the id for the caller, who must call done or release if it is
// claimNew. Claims are as many as there are requests, which are bounded.
func (d *delivered) claim(hook, id string, now time.Time) claimed {
	key := deliveryKey{hook, id}
	d.mu.Lock()
	defer d.mu.Unlock()
	element, ok := d.known[key]
	switch {
	case !ok:
	case element == nil:
		return claimRunning
	case element.Value.(*delivery).expires.After(now):
		return claimDone
	default:
		d.order.Remove(element)
	}
	d.known[key] = nil
	return claimNew
}

// done remembers the id for window.
func (d *delivered) done(hook, id string, now time.Time, window time.Duration) {
	key := deliveryKey{hook, id}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[key] = d.order.PushBack(&delivery{key: key, expires: now.Add(window)})
	for oldest := d.order.Front(); oldest != nil; oldest = d.order.Front() {
		entry := oldest.Value.(*delivery)
		if d.order.Len() <= MaxIDs && entry.expires.After(now) {
			return
		}
		d.order.Remove(oldest)
		delete(d.known, entry.key)
	}
}

// release forgets the id.
func (d *delivered) release(hook, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, deliveryKey{hook, id})
}

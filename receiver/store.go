package receiver

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Standing is how an event stands when it is claimed.
type Standing int

// The standings.
const (
	// Claimed: it is the caller's to handle, until the lease ends.
	Claimed Standing = iota + 1
	// Held: somebody else has claimed it.
	Held
	// Handled: it was handled before.
	Handled
)

// ErrLost says that a claim is not, or no longer, the owner's.
var ErrLost = errors.New("receiver: the claim has been lost")

// Store remembers which events were handled. Safe for concurrent use. All
// processes that share a sender's events share a Store, or each handles its own.
type Store interface {
	// Claim takes the right to handle the event of a key. An owner that has it
	// already has it for the lease from now on. The claims of one key follow
	// each other: while it is one owner's it is nobody else's, and after its
	// lease it is whose comes first.
	Claim(ctx context.Context, key, owner string, lease time.Duration) (Standing, error)
	// Done says that the owner has handled the event. ErrLost if the claim is
	// another's by now: then it was handled twice, or is about to be.
	Done(ctx context.Context, key, owner string) error
	// Release gives the claim back: the next who asks has it. It is no error
	// if the claim is lost.
	Release(ctx context.Context, key, owner string) error
}

// Defaults of the stores.
const (
	// DefaultRetention is how long an event that was handled is remembered:
	// longer than Fanfare's own schedule sends it again.
	DefaultRetention = 7 * 24 * time.Hour
	// DefaultMemoryKeys is how many events a Memory remembers. As many take
	// about 20 MB.
	DefaultMemoryKeys = 100_000
)

// Memory is a Store in this process, bounded: it forgets first what was handled
// longest ago. What it knows ends with the process.
type Memory struct {
	retention time.Duration
	most      int

	mu      sync.Mutex
	entries map[string]*entry // guarded by mu
	handled list.List         // guarded by mu; of *entry, in the order in which they were handled
}

// entry is an event that is claimed, or was handled.
type entry struct {
	key     string
	owner   string
	expires time.Time
	place   *list.Element // in handled; nil while it is claimed
}

// NewMemory returns an empty Memory. Its arguments stand for DefaultMemoryKeys
// and DefaultRetention where they are 0.
func NewMemory(keys int, retention time.Duration) *Memory {
	if keys <= 0 {
		keys = DefaultMemoryKeys
	}
	if retention <= 0 {
		retention = DefaultRetention
	}
	return &Memory{retention: retention, most: keys, entries: make(map[string]*entry)}
}

// Claim implements Store.
func (m *Memory) Claim(_ context.Context, key, owner string, lease time.Duration) (Standing, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.forget(now)
	e := m.entries[key]
	switch {
	case e == nil:
		m.entries[key] = &entry{key: key, owner: owner, expires: now.Add(lease)}
	case e.place != nil:
		return Handled, nil
	case e.owner != owner && now.Before(e.expires):
		return Held, nil
	default:
		e.owner, e.expires = owner, now.Add(lease)
	}
	return Claimed, nil
}

// Done implements Store.
func (m *Memory) Done(_ context.Context, key, owner string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if e == nil || e.owner != owner {
		return ErrLost
	}
	if e.place == nil {
		e.expires = time.Now().Add(m.retention)
		e.place = m.handled.PushBack(e)
		m.forget(time.Now())
	}
	return nil
}

// Release implements Store.
func (m *Memory) Release(_ context.Context, key, owner string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[key]; e != nil && e.owner == owner && e.place == nil {
		delete(m.entries, key)
	}
	return nil
}

// forget drops what was handled too long ago, or is too much. m.mu must be held.
func (m *Memory) forget(now time.Time) {
	for m.handled.Len() > 0 {
		oldest, _ := m.handled.Front().Value.(*entry) // nothing else is ever put there
		if m.handled.Len() <= m.most && now.Before(oldest.expires) {
			return
		}
		m.handled.Remove(oldest.place)
		delete(m.entries, oldest.key)
	}
}

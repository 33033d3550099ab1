package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// errUnreachable is what a cut-off MemoryClient answers.
var errUnreachable = errors.New("cluster: store is unreachable")

// Memory is a store in memory, for tests. Each process of a test gets its own
// Client, which can be cut off from the rest. Leases expire by timers of
// package time, so that inside a testing/synctest bubble they follow the
// bubble's clock. It keeps nothing open and needs no closing.
type Memory struct {
	mu        sync.Mutex
	state     view               // guarded by mu
	revision  int64              // guarded by mu; of the last change to any key
	lastLease LeaseID            // guarded by mu
	leases    map[LeaseID]*lease // guarded by mu; those that have not ended
	changed   chan struct{}      // guarded by mu; closed, and replaced, at each revision
	down      bool               // guarded by mu: no lease ends
}

// lease is guarded by the mu of its Memory.
type lease struct {
	ttl     time.Duration
	expires time.Time
	timer   *time.Timer
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{leases: make(map[LeaseID]*lease), changed: make(chan struct{})}
}

// SetDown has the store stand still, as etcd does that has no quorum: no lease
// ends while it is down, and each has its full ttl again when it is back. It is
// for the test to Break its clients meanwhile.
func (m *Memory) SetDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
	for _, held := range m.leases {
		held.timer.Stop()
		if !down {
			held.expires = time.Now().Add(held.ttl)
			held.timer.Reset(held.ttl)
		}
	}
}

// Client returns a new way to reach the store, for one process.
func (m *Memory) Client() *MemoryClient {
	return &MemoryClient{memory: m, turned: make(chan struct{})}
}

// grant makes a lease.
func (m *Memory) grant(ttl time.Duration) LeaseID {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastLease++
	id := m.lastLease
	m.leases[id] = &lease{
		ttl:     ttl,
		expires: time.Now().Add(ttl),
		timer:   time.AfterFunc(ttl, func() { m.expire(id) }),
	}
	return id
}

// keepAlive renews a lease.
func (m *Memory) keepAlive(id LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	held, found := m.leases[id]
	if !found {
		return fmt.Errorf("renewing lease: %w", ErrLeaseGone)
	}
	held.expires = time.Now().Add(held.ttl)
	held.timer.Reset(held.ttl)
	return nil
}

// expire ends a lease whose timer has fired, unless it was renewed meanwhile.
func (m *Memory) expire(id LeaseID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held, found := m.leases[id]; found && !m.down && !time.Now().Before(held.expires) {
		m.endLocked(id)
	}
}

// revoke ends a lease, if it has not ended.
func (m *Memory) revoke(id LeaseID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held, found := m.leases[id]; found {
		held.timer.Stop()
		m.endLocked(id)
	}
}

// endLocked removes a lease and, in one revision, its keys.
func (m *Memory) endLocked(id LeaseID) {
	delete(m.leases, id)
	kept := slices.DeleteFunc(slices.Clone(m.state.entries), func(e Entry) bool { return e.Lease == id })
	if len(kept) < len(m.state.entries) {
		m.state.entries = kept
		m.commitLocked()
	}
}

// put sets a key. Like etcd it looks at the condition first: when that does
// not hold, it does not matter whether the lease has ended.
func (m *Memory) put(key string, value []byte, on LeaseID, ifRevision int64) (int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now, _ := m.state.get(key); now.Revision != ifRevision {
		return 0, false, nil
	}
	if _, found := m.leases[on]; !found && on != NoLease {
		return 0, false, fmt.Errorf("putting %s: %w", key, ErrLeaseGone)
	}
	m.state.put(Entry{Key: key, Value: slices.Clone(value), Lease: on, Revision: m.revision + 1})
	m.commitLocked()
	return m.revision, true, nil
}

// remove deletes a key.
func (m *Memory) remove(key string, ifRevision int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, found := m.state.get(key)
	if now.Revision != ifRevision {
		return false
	}
	if found {
		m.state.remove(key)
		m.commitLocked()
	}
	return true
}

// commitLocked makes what was changed the next revision.
func (m *Memory) commitLocked() {
	m.revision++
	close(m.changed)
	m.changed = make(chan struct{})
}

// under returns the keys under prefix, and a channel that is closed when
// anything in the store changes after that.
func (m *Memory) under(prefix string) ([]Entry, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.under(prefix), m.changed
}

// Leases returns the leases that have not ended, in order: a test's way to see
// that processes left politely.
func (m *Memory) Leases() []LeaseID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.leases))
}

// Fault is what stands between a MemoryClient and its store.
type Fault int

// The ways in which a store can be out of reach. A watch sends nothing under
// Refuse and Hang, and goes on with the newest view once healed.
const (
	// NoFault: calls are answered.
	NoFault Fault = iota
	// Refuse fails calls at once; they have no effect.
	Refuse
	// Hang lets calls wait until their context ends, or until healed; then
	// they are done, late. It stands for a paused process too.
	Hang
	// LoseReply lets calls have their effect and fail in the caller's eyes.
	LoseReply
)

// MemoryClient is the Store of one process in a test.
type MemoryClient struct {
	memory *Memory

	mu     sync.Mutex
	fault  Fault         // guarded by mu
	turned chan struct{} // guarded by mu; closed, and replaced, when fault changes
}

// Break puts a fault in the way of every call that begins from now on.
func (c *MemoryClient) Break(fault Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
	close(c.turned)
	c.turned = make(chan struct{})
}

// Heal takes the fault away.
func (c *MemoryClient) Heal() {
	c.Break(NoFault)
}

func (c *MemoryClient) standing() (Fault, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault, c.turned
}

// do calls effect as far as the fault lets it. It returns an error when the
// caller must not see what came of it.
func (c *MemoryClient) do(ctx context.Context, effect func()) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		fault, turned := c.standing()
		switch fault {
		case NoFault:
			effect()
			return nil
		case Refuse:
			return errUnreachable
		case LoseReply:
			effect()
			return errUnreachable
		case Hang:
		}
		select {
		case <-ctx.Done():
		case <-turned:
		}
	}
}

// Grant implements Store.
func (c *MemoryClient) Grant(ctx context.Context, ttl time.Duration) (id LeaseID, err error) {
	if cut := c.do(ctx, func() { id = c.memory.grant(ttl) }); cut != nil {
		return NoLease, fmt.Errorf("granting lease: %w", cut)
	}
	return id, nil
}

// KeepAlive implements Store.
func (c *MemoryClient) KeepAlive(ctx context.Context, lease LeaseID) (err error) {
	if cut := c.do(ctx, func() { err = c.memory.keepAlive(lease) }); cut != nil {
		return fmt.Errorf("renewing lease: %w", cut)
	}
	return err
}

// Revoke implements Store.
func (c *MemoryClient) Revoke(ctx context.Context, lease LeaseID) error {
	if cut := c.do(ctx, func() { c.memory.revoke(lease) }); cut != nil {
		return fmt.Errorf("revoking lease: %w", cut)
	}
	return nil
}

// Put implements Store.
func (c *MemoryClient) Put(ctx context.Context, key string, value []byte, lease LeaseID, ifRevision int64) (revision int64, ok bool, err error) {
	if cut := c.do(ctx, func() { revision, ok, err = c.memory.put(key, value, lease, ifRevision) }); cut != nil {
		return 0, false, fmt.Errorf("putting %s: %w", key, cut)
	}
	return revision, ok, err
}

// Delete implements Store.
func (c *MemoryClient) Delete(ctx context.Context, key string, ifRevision int64) (ok bool, err error) {
	if cut := c.do(ctx, func() { ok = c.memory.remove(key, ifRevision) }); cut != nil {
		return false, fmt.Errorf("deleting %s: %w", key, cut)
	}
	return ok, nil
}

// List implements Store.
func (c *MemoryClient) List(ctx context.Context, prefix string) (entries []Entry, err error) {
	if cut := c.do(ctx, func() { entries, _ = c.memory.under(prefix) }); cut != nil {
		return nil, fmt.Errorf("listing %s: %w", prefix, cut)
	}
	return entries, nil
}

// Watch implements Store.
func (c *MemoryClient) Watch(ctx context.Context, prefix string) <-chan []Entry {
	views := make(chan []Entry)
	go func() {
		defer close(views)
		var last lastView
		for ctx.Err() == nil {
			last = c.offer(ctx, prefix, views, last)
		}
	}()
	return views
}

// offer sends the view of now, if it is not the one sent last, until it is
// taken, outdated, or cut off. It returns the view sent last.
func (c *MemoryClient) offer(ctx context.Context, prefix string, views chan<- []Entry, last lastView) lastView {
	fault, turned := c.standing()
	entries, changed := c.memory.under(prefix)
	out := views
	if fault == Refuse || fault == Hang || last.is(entries) {
		out = nil
	}
	select {
	case <-ctx.Done():
	case <-turned:
	case <-changed:
	case out <- entries:
		return lastView{entries: entries, sent: true}
	}
	return last
}

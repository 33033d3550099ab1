package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultTTL is how long a lease lasts after its last renewal.
	DefaultTTL = 10 * time.Second

	// The life of a lease is counted in quarters of its ttl: it is renewed in
	// each, one renewal may take as long as one, and the last is the margin
	// by which a member stops being sure of its lease before the store ends
	// it. The margin pays for clocks that run at different speeds and for the
	// time between asking Alive and what is done about the answer.
	quarters = 4
	// retryFraction of a ttl is the pause after a renewal that failed.
	retryFraction = 16
	// jitterFraction of a wait is how much it is shortened, at most.
	jitterFraction = 10
	// joinPause is the pause between attempts to join, of which up to half is
	// left out by chance.
	joinPause = 2 * time.Second
	// leaveTimeout bounds the revoking of a lease nobody waits for.
	leaveTimeout = 2 * time.Second
)

// MemberConfig is what Join needs to know.
type MemberConfig struct {
	// Info is published. Started is filled in when it is zero.
	Info Info
	// TTL of the lease; zero is DefaultTTL. The shorter, the sooner others
	// notice a death, and the sooner a store that is slow to answer makes
	// members doubt their leases.
	TTL time.Duration
	// Clock counts the lease's deadline; nil is BootClock. Tests in a bubble
	// give it MonotonicClock.
	Clock Clock
	// Logger is told about renewals that fail. It must not be nil.
	Logger *slog.Logger
}

func (c MemberConfig) ttl() time.Duration {
	if c.TTL == 0 {
		return DefaultTTL
	}
	return c.TTL
}

func (c MemberConfig) clock() Clock {
	if c.Clock == nil {
		return BootClock()
	}
	return c.Clock
}

// Validate reports what is wrong with the config, naming the field.
func (c MemberConfig) Validate() error {
	if _, ok := ParseMemberKey(MemberKey(c.Info.ID)); !ok {
		return fmt.Errorf("member id %q is empty or has a slash in it", c.Info.ID)
	}
	if c.Info.Role != Coordinator && c.Info.Role != Worker {
		return fmt.Errorf("member role %q is neither %s nor %s", c.Info.Role, Coordinator, Worker)
	}
	if c.TTL < 0 {
		return fmt.Errorf("member ttl %s is negative", c.TTL)
	}
	return nil
}

// Member is one life of a process in the cluster: one lease, and the key on it
// that says who is there. It begins with Join, is kept up by Run, and ends with
// Leave, or when the store ends the lease; then the process must give up what
// it owns, and may Join again, as a new Member. Live does all of this.
// Safe for concurrent use.
type Member struct {
	store  Store
	logger *slog.Logger
	clock  Clock
	ttl    time.Duration
	lease  LeaseID

	deadline atomic.Int64  // a time.Duration on clock
	lost     chan struct{} // closed by end
	ended    sync.Once     // guards the closing of lost

	info     Info  // as it was when the member joined
	revision int64 // of the member's key when the member joined
}

// Join makes a process a member. While another member has the same id, alive
// or not yet expired, it waits. It returns an error when ctx ends or the store
// cannot be reached; then Join may be tried again.
func Join(ctx context.Context, store Store, config MemberConfig) (*Member, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	info := config.Info
	if info.Started.IsZero() {
		info.Started = time.Now()
	}
	for {
		m, free, err := tryJoin(ctx, store, config, info)
		if free || err != nil {
			return m, err
		}
		config.Logger.WarnContext(ctx, "waiting for an earlier member with the same id to expire", "member", info.ID)
		if err := awaitFree(ctx, store, MemberKey(info.ID)); err != nil {
			return nil, err
		}
	}
}

// tryJoin joins unless the id is taken.
func tryJoin(ctx context.Context, store Store, config MemberConfig, info Info) (m *Member, free bool, err error) {
	value, err := EncodeValue(info)
	if err != nil {
		return nil, false, err
	}
	m = &Member{
		store: store, logger: config.Logger, clock: config.clock(), ttl: config.ttl(),
		lost: make(chan struct{}), info: info,
	}
	sent := m.clock()
	m.lease, err = store.Grant(ctx, m.ttl)
	if err != nil {
		return nil, false, fmt.Errorf("joining as %s: %w", info.ID, err)
	}
	m.extend(sent)
	m.revision, free, err = store.Put(ctx, MemberKey(info.ID), value, m.lease, 0)
	if err != nil {
		m.abandon(ctx)
		return nil, false, fmt.Errorf("joining as %s: %w", info.ID, err)
	}
	if !free {
		m.abandon(ctx)
		return nil, false, nil
	}
	return m, true, nil
}

// Lease is the member's lease, for the keys of what it owns.
func (m *Member) Lease() LeaseID {
	return m.lease
}

// ID is the id the member joined with.
func (m *Member) ID() MemberID {
	return m.info.ID
}

// Alive reports whether the store certainly still has the lease. When it is
// false but Lost is open, the lease is in doubt: the store has not answered in
// time. Who is in doubt begins nothing on the strength of the lease alone.
func (m *Member) Alive() bool {
	return !m.gone() && m.clock() < m.Deadline()
}

// Deadline is until when, on the Clock of the config, the lease is certain: a
// quarter of the ttl less than the whole after the last good renewal was sent.
func (m *Member) Deadline() time.Duration {
	return time.Duration(m.deadline.Load())
}

// Margin is how long the lease is certain yet; negative: it is in doubt.
func (m *Member) Margin() time.Duration { return m.Deadline() - m.clock() }

// Lost is closed when the lease is gone, by the store's word, or given up by
// Leave. Somebody needs to be in Run for it to be noticed.
func (m *Member) Lost() <-chan struct{} {
	return m.lost
}

// Run keeps the lease alive until ctx ends, which is no error, or until it is
// gone, which is ErrLeaseGone. A store that does not answer is asked again and
// again: only the store can say that a lease is gone.
func (m *Member) Run(ctx context.Context) error {
	failing := false
	for pause(ctx, m.untilRenewal(failing)) {
		err := m.renew(ctx)
		if errors.Is(err, ErrLeaseGone) {
			m.end()
			return fmt.Errorf("living as %s: %w", m.ID(), err)
		}
		if ctx.Err() == nil {
			m.report(ctx, failing, err)
		}
		failing = err != nil
	}
	return nil
}

// untilRenewal is how long to wait for the next renewal.
func (m *Member) untilRenewal(failing bool) time.Duration {
	wait := m.ttl / quarters
	if failing {
		wait = m.ttl / retryFraction
	}
	return wait - rand.N(wait/jitterFraction+1) //nolint:gosec // spreading, not secrecy
}

// renew asks for one renewal. What counts is when it was asked for: the store
// may have renewed the lease any time after.
func (m *Member) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.ttl/quarters)
	defer cancel()
	sent := m.clock()
	if err := m.store.KeepAlive(ctx, m.lease); err != nil {
		return err
	}
	m.extend(sent)
	return nil
}

func (m *Member) report(ctx context.Context, failing bool, err error) {
	switch {
	case err != nil && !failing:
		m.logger.WarnContext(ctx, "cannot renew the lease", "member", m.ID(), "error", err)
	case err == nil && failing:
		m.logger.InfoContext(ctx, "lease renewed again", "member", m.ID())
	}
}

// Drain publishes that the member wants to leave and should get nothing new.
// It stays a member until Leave. Draining twice is no error.
func (m *Member) Drain(ctx context.Context) error {
	info := m.info
	info.Draining = true
	value, err := EncodeValue(info)
	if err != nil {
		return err
	}
	key := MemberKey(info.ID)
	_, ok, err := m.store.Put(ctx, key, value, m.lease, m.revision)
	if err == nil && !ok {
		err = m.drained(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("draining %s: %w", info.ID, err)
	}
	return nil
}

// drained is asked when the member's key is not as it was at the start. Only
// the member writes it, so it has drained before, or the key went with the
// lease.
func (m *Member) drained(ctx context.Context, key string) error {
	entries, err := m.store.List(ctx, key)
	if err != nil {
		return err
	}
	if find(entries, key).Lease != m.lease {
		return ErrLeaseGone
	}
	return nil
}

// undrain takes back what an earlier process of this id was told.
func (m *Member) undrain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.ttl/quarters)
	defer cancel()
	return SetDrain(ctx, m.store, m.ID(), false)
}

// SetDrain says whether a member is to be given nothing, and to lose what it
// has, as far as there are others. It is up to the assigner to heed it; the
// member itself is not asked.
func SetDrain(ctx context.Context, store Store, id MemberID, drain bool) error {
	key := DrainKey(id)
	entries, err := store.List(ctx, key)
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	there := find(entries, key)
	if drain == (there.Revision > 0) {
		return nil
	}
	if !drain {
		_, err = store.Delete(ctx, key, there.Revision)
		return err
	}
	value, err := EncodeValue(id)
	if err != nil {
		return err
	}
	_, _, err = store.Put(ctx, key, value, NoLease, 0)
	return err
}

// Leave gives up the lease and everything on it, at once. The member is not
// alive from the moment of the call, whatever comes of it; if Leave fails, the
// store ends the lease when its time is over. A Run that goes on meanwhile may
// return ErrLeaseGone.
func (m *Member) Leave(ctx context.Context) error {
	m.end()
	if err := m.store.Revoke(ctx, m.lease); err != nil {
		return fmt.Errorf("leaving as %s: %w", m.ID(), err)
	}
	return nil
}

// abandon leaves as well as it can, also when ctx has ended.
func (m *Member) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := m.Leave(ctx); err != nil {
		m.logger.WarnContext(ctx, "lease left to expire", "error", err)
	}
}

func (m *Member) extend(sent time.Duration) {
	m.deadline.Store(int64(sent + m.ttl - m.ttl/quarters))
}

func (m *Member) end() {
	m.ended.Do(func() { close(m.lost) })
}

func (m *Member) gone() bool {
	select {
	case <-m.lost:
		return true
	default:
		return false
	}
}

// Live makes a process a member for as long as ctx lasts, and calls serve for
// each of its lives, one after the other. The context of serve ends when ctx
// does, or when the lease is lost, with ErrLeaseGone as its cause; serve must
// then give up what it owns and return. The lease is kept until it has: time
// to drain. Live leaves politely, and returns what serve returned in the life
// that did not end with the loss of the lease, or nil if ctx ended first. A
// process that begins to live is no longer to be drained: see SetDrain.
func Live(ctx context.Context, store Store, config MemberConfig, serve func(context.Context, *Member) error) error {
	if err := config.Validate(); err != nil {
		return err
	}
	fresh := true
	for ctx.Err() == nil {
		m, err := Join(ctx, store, config)
		if err == nil && fresh {
			if err = m.undrain(ctx); err != nil {
				m.abandon(ctx)
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				config.Logger.WarnContext(ctx, "cannot join the cluster", "member", config.Info.ID, "error", err)
				pause(ctx, joinPause/2+rand.N(joinPause/2)) //nolint:gosec // spreading, not secrecy
			}
			continue
		}
		fresh = false
		lost, err := m.serve(ctx, serve)
		if !lost {
			return err
		}
		config.Logger.WarnContext(ctx, "lease lost, joining anew", "member", config.Info.ID, "error", err)
	}
	return nil
}

// serve keeps the lease for as long as serve runs.
func (m *Member) serve(ctx context.Context, serve func(context.Context, *Member) error) (lost bool, err error) {
	serving, stop := context.WithCancelCause(ctx)
	renewing, rest := context.WithCancel(context.WithoutCancel(ctx))
	var renewal sync.WaitGroup
	renewal.Go(func() {
		if err := m.Run(renewing); err != nil {
			stop(err)
		}
	})
	err = serve(serving, m)
	rest()
	renewal.Wait()
	lost = m.gone() && ctx.Err() == nil
	stop(nil)
	if !m.gone() {
		m.abandon(ctx)
	}
	return lost, err
}

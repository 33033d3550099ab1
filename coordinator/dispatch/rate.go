package dispatch

import (
	"math"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// Rate is how fast something may be sent.
type Rate struct {
	PerSecond float64 // deliveries; 0: there is no limit
	Burst     uint32  // deliveries at once; 0: a tenth of a second's, and at least 1
}

// Bursts returns how many deliveries may be sent at once.
func (r Rate) Bursts() float64 {
	if r.Burst == 0 {
		return max(1, math.Ceil(r.PerSecond/10))
	}
	return float64(r.Burst)
}

// lateness is how much later than it might a delivery may be sent without the
// rate being lower for it: inputs come when they come, and time is in ms.
const lateness = 10e6 // ns

// bucket is a token bucket, told the time: the generic cell rate algorithm
// (ITU-T I.371), of which the whole state is the time at which it is full.
//
// Invariant: over any stretch of time no more is taken than its rate allows,
// plus its burst and what its rate allows in lateness.
type bucket struct {
	interval  int64 // ns from one token to the next
	tolerance int64 // ns: how long before it is full again a token may be taken
	full      int64 // unix ns
}

// set changes the rate, and leaves what was taken taken. The rate must be
// limited.
func (b *bucket) set(rate Rate) {
	b.interval = max(1, int64(math.Round(1e9/rate.PerSecond)))
	b.tolerance = int64(rate.Bursts()-1)*b.interval + lateness
}

// due returns when a token can be taken, in unix ms.
func (b *bucket) due() int64 {
	const ms = 1e6
	return (b.full - b.tolerance + ms - 1) / ms
}

// take takes a token, which must be due, at a time in unix ms.
func (b *bucket) take(now int64) { b.full = max(b.full, now*1e6) + b.interval }

// give returns a token that was not used.
func (b *bucket) give() { b.full -= b.interval }

// tokens returns how many can be taken.
func (b *bucket) tokens(now int64) int {
	if b.due() > now {
		return 0
	}
	return int((now*1e6-max(b.full, now*1e6)+b.tolerance)/b.interval) + 1
}

// shared is the rate of a tenant: of all its subscriptions together. Those that
// have something to send, and find it used up, stand in a queue, so that each
// has its turn and none looks again for nothing.
type shared struct {
	tenant ledger.TenantID
	bucket bucket
	queue  []*subscription
	timer  int // its index in the timers; -1: it has none
	wake   int64
}

// Limit sets the rate of a subscription.
func (d *Dispatch) Limit(number ledger.Number, rate Rate) {
	s := d.subscriptions[number]
	if s == nil {
		return
	}
	if rate.PerSecond <= 0 {
		s.bucket = nil
	} else {
		if s.bucket == nil {
			s.bucket = new(bucket)
		}
		s.bucket.set(rate)
	}
	d.arm(s)
}

// LimitTenant sets the rate of a tenant. members are its subscriptions; those
// that come later Join it.
func (d *Dispatch) LimitTenant(tenant ledger.TenantID, rate Rate, members []ledger.Number) {
	t := d.tenants[tenant]
	switch {
	case rate.PerSecond <= 0 && t == nil:
		return
	case rate.PerSecond <= 0:
		d.pause(t)
		delete(d.tenants, tenant)
	case t == nil:
		t = &shared{tenant: tenant, timer: -1}
		d.tenants[tenant] = t
		t.bucket.set(rate)
	default:
		t.bucket.set(rate)
	}
	for _, number := range members {
		d.Join(number, tenant)
	}
	if t != nil {
		d.resume(t)
	}
}

// Join makes a subscription one of a tenant's, if that has a rate.
func (d *Dispatch) Join(number ledger.Number, tenant ledger.TenantID) {
	s := d.subscriptions[number]
	if s == nil || s.tenant == d.tenants[tenant] {
		return
	}
	s.tenant, s.queued, s.called = d.tenants[tenant], false, false
	d.arm(s)
}

// admits takes a token of the tenant's rate, or lets a subscription queue for
// one. Only one that was called goes before those that queue.
func (d *Dispatch) admits(s *subscription, now int64) bool {
	t := s.tenant
	if t == nil {
		return true
	}
	called := s.called
	s.called = false
	if t.bucket.due() <= now && (called || len(t.queue) == 0) {
		return true
	}
	s.queued = true
	t.queue = append(t.queue, s)
	d.resume(t)
	return false
}

// callNext lets those have their turn for whom there are tokens.
func (d *Dispatch) callNext(t *shared, now int64) {
	d.pause(t)
	for n := t.bucket.tokens(now); n > 0 && len(t.queue) > 0; {
		s := t.queue[0]
		t.queue[0] = nil
		t.queue = t.queue[1:]
		if s.tenant != t || !s.queued {
			continue // it has left
		}
		s.queued = false
		if d.subscriptions[s.number] == s && s.open() {
			s.called = true
			n--
			d.ready(s)
		}
	}
	if len(t.queue) > 0 { // some of those called may not use theirs
		t.wake = max(t.bucket.due(), now+1)
		d.calls.push(t)
	}
}

// resume sees to it that those who queue are called.
func (d *Dispatch) resume(t *shared) {
	if due := t.bucket.due(); len(t.queue) > 0 && (t.timer < 0 || t.wake > due) {
		d.pause(t)
		t.wake = due
		d.calls.push(t)
	}
}

func (d *Dispatch) pause(t *shared) {
	if t.timer >= 0 {
		d.calls.remove(t.timer)
		t.timer = -1
	}
}

// spend takes the tokens of a delivery that is sent.
func (s *subscription) spend(now int64) {
	if s.bucket != nil {
		s.bucket.take(now)
	}
	if s.tenant != nil {
		s.tenant.bucket.take(now)
	}
}

// refund returns the tokens of a delivery that was not attempted.
func (s *subscription) refund() {
	if s.bucket != nil {
		s.bucket.give()
	}
	if s.tenant != nil {
		s.tenant.bucket.give()
	}
}

// Hold says that nothing is sent to a subscription before a time, in unix ms,
// until SetPace says otherwise.
func (d *Dispatch) Hold(number ledger.Number, until int64) {
	if s := d.subscriptions[number]; s != nil {
		s.pace.After = max(s.pace.After, until)
	}
}

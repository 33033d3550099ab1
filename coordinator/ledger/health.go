package ledger

import (
	"slices"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// distinctEvents is over how many different events an endpoint must have failed
// before its breaker opens: one event that cannot be delivered is the event's
// failure, and dies alone.
const distinctEvents = 3

// Status codes of HTTP (RFC 9110, section 15) that say something of the
// endpoint. Package net/http has them too, but does I/O.
const (
	statusRequestTimeout  = 408
	statusGone            = 410
	statusTooManyRequests = 429
	statusServerErrors    = 500 // and above
)

// Mode is whether a subscription is sent to.
type Mode = linkv1.SubscriptionMode

// The modes of a subscription.
const (
	Active   = linkv1.SubscriptionMode_SUBSCRIPTION_MODE_UNSPECIFIED
	Paused   = linkv1.SubscriptionMode_SUBSCRIPTION_MODE_PAUSED
	Disabled = linkv1.SubscriptionMode_SUBSCRIPTION_MODE_DISABLED
)

// breaker tells the failure of an endpoint from the failure of an event. While
// it is open only probes are sent, and what waits uses up no attempts.
type breaker struct {
	failures uint64     // of the endpoint, in a row
	events   []Position // up to distinctEvents that failed
	open     bool
	probes   uint32 // that failed since it opened
	next     int64  // unix ms: when the next probe is due
}

// EndpointFailed reports whether a failure says that the endpoint is not
// well, rather than that it did not want this event: no answer, 5xx, 408, 429.
func EndpointFailed(o *linkv1.Outcome) bool {
	switch code := o.GetStatusCode(); code {
	case 0:
		return o.GetErrorClass() != "payload" // the event could not be rendered
	case statusRequestTimeout, statusTooManyRequests:
		return true
	default:
		return code >= statusServerErrors
	}
}

// fail counts a failure of the endpoint. While the breaker is open only what
// comes after the time of the next probe is one that failed: before that it is
// what was in flight when the breaker opened.
func (b *breaker) fail(at Position, now int64, limits *linkv1.Limits) {
	b.failures++
	if len(b.events) < distinctEvents && !slices.Contains(b.events, at) {
		b.events = append(b.events, at)
	}
	switch {
	case b.open && now < b.next:
		return
	case b.open:
		b.probes++
	case b.failures >= uint64(limits.GetBreakerFailures()) && len(b.events) == distinctEvents:
		b.open = true
	default:
		return
	}
	wait := limits.GetProbeFirstMs() << min(b.probes, 20)
	b.next = now + min(wait, limits.GetProbeLastMs())
}

// Health is what is known of a subscription's endpoint.
type Health struct {
	Mode       Mode
	ModeReason string
	ModeSince  time.Time // zero while Active
	Failures   uint64    // attempts in a row
	Since      time.Time // when that row began; zero if there is none
	Open       bool      // the breaker's
	NextProbe  time.Time // while Open
	Hold       time.Time // nothing is sent before; zero: the endpoint asks for nothing
}

// Health returns what is known of the subscription's endpoint.
func (s *Subscription) Health() Health {
	return Health{
		Mode: s.mode, ModeReason: s.modeReason, ModeSince: unixMs(s.modeSince),
		Failures: s.failures, Since: unixMs(s.failingSince),
		Open: s.breaker.open, NextProbe: unixMs(s.breaker.next), Hold: unixMs(s.hold),
	}
}

func unixMs(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Pace is how a subscription may be sent to.
type Pace struct {
	Stopped bool // paused or disabled: not at all
	// Probing: one delivery at a time, the first at Probe (unix ms); the
	// newest if Newest, else the oldest.
	Probing bool
	Probe   int64
	Newest  bool
	// After: nothing before that, in unix ms, because the endpoint asked for it.
	After int64
}

// Pace returns how the subscription may be sent to now.
func (s *Subscription) Pace() Pace {
	return Pace{
		Stopped: s.mode != Active,
		Probing: s.breaker.open,
		Probe:   s.breaker.next,
		After:   s.hold,
		Newest:  s.breaker.open && s.breaker.probes%2 == 1 && s.Ordering() == Unordered,
	}
}

// maxHold bounds for how long an endpoint can ask that nothing is sent to it.
const maxHold = 24 * time.Hour

// holdBack keeps what an endpoint asks for. What another answer asked for is
// not shortened.
func (l *Ledger) holdBack(s *Subscription, until int64, result *Result) {
	until = min(until, l.time+maxHold.Milliseconds())
	if until > s.hold && until > l.time {
		s.hold = until
		result.paced(s)
	}
}

// letGo ends that.
func (s *Subscription) letGo(result *Result) {
	if s.hold != 0 {
		s.hold = 0
		result.paced(s)
	}
}

// succeeded forgets what failed before. What waited behind an open breaker is
// due at once.
func (l *Ledger) succeeded(s *Subscription, result *Result) {
	s.failures, s.failingSince = 0, 0
	l.endpointWell(s, result)
}

// endpointWell is told that the endpoint answered, whatever it said.
func (l *Ledger) endpointWell(s *Subscription, result *Result) {
	opened := s.breaker.open
	s.breaker = breaker{}
	if !opened {
		return
	}
	result.paced(s)
	for i := range s.owed {
		if o := &s.owed[i]; o.next > l.time {
			o.next = l.time
			result.Deliveries = append(result.Deliveries, s.change(Rescheduled, *o))
		}
	}
}

// failed counts a failed attempt against the subscription, and reports whether
// it uses up the delivery's schedule.
func (l *Ledger) failed(s *Subscription, at Position, o *linkv1.Outcome, result *Result) (charged bool) {
	s.failures++
	if s.failingSince == 0 {
		s.failingSince = l.time
	}
	if !EndpointFailed(o) {
		l.endpointWell(s, result)
		return true
	}
	charged = !s.breaker.open
	s.breaker.fail(at, l.time, l.limits)
	if s.breaker.open {
		result.paced(s)
	}
	if s.mode == Active && l.time-s.failingSince >= l.limits.GetDisableAfterMs() {
		l.setMode(s, Disabled, "failing for "+(time.Duration(l.limits.GetDisableAfterMs())*time.Millisecond).String(), result)
	}
	return charged
}

// setMode stops or starts sending to a subscription. One that is stopped is
// behind from here on: it costs new events nothing.
func (l *Ledger) setMode(s *Subscription, mode Mode, reason string, result *Result) {
	if s.mode == mode {
		return
	}
	s.mode, s.modeReason, s.modeSince = mode, reason, l.time
	if mode == Active {
		s.modeSince = 0
	}
	if mode != Active && !s.behind {
		l.fallBehind(s, Position{l.sequence, 0})
	}
	l.refile(s)
	result.paced(s)
}

// foldControl pauses or resumes a subscription.
func (l *Ledger) foldControl(control *linkv1.Control, result *Result) {
	s := l.subscriptions[Number(control.GetSubscription())]
	if s == nil {
		return
	}
	switch control.GetAction() {
	case linkv1.Control_PAUSE:
		if s.mode == Active {
			l.setMode(s, Paused, "paused", result)
		}
	case linkv1.Control_RESUME:
		l.resume(s, result)
	case linkv1.Control_RESUME_FROM_NOW:
		l.resume(s, result)
		l.cancelOwed(s, result)
		if s.behind {
			s.cursor = Position{l.sequence, 0}
			l.catchUp(s)
		}
	case linkv1.Control_ACTION_UNSPECIFIED:
	}
	l.refile(s)
}

// resume sends again, as to an endpoint of which nothing is known. If no event
// came meanwhile it is current at once.
func (l *Ledger) resume(s *Subscription, result *Result) {
	l.setMode(s, Active, "", result)
	s.letGo(result)
	l.succeeded(s, result)
	if s.behind && s.cursor.Sequence > l.lastEvents {
		l.catchUp(s)
	}
}

// cancelOwed ends all that a subscription is owed.
func (l *Ledger) cancelOwed(s *Subscription, result *Result) {
	for _, o := range s.owed {
		result.Deliveries = append(result.Deliveries, s.change(Cancelled, o))
	}
	l.outstanding -= len(s.owed)
	s.owed, s.lanes = nil, nil
}

// fallBehind takes a subscription out of the match index: it is caught up from
// a position on.
func (l *Ledger) fallBehind(s *Subscription, from Position) {
	s.behind, s.cursor = true, from
	l.behind[s.Number] = s
	l.tenants[s.Tenant].index.remove(s.Number, s.patterns())
	l.refile(s)
}

// catchUp makes a subscription current.
func (l *Ledger) catchUp(s *Subscription) {
	s.behind, s.cursor, s.eras = false, Position{}, nil
	delete(l.behind, s.Number)
	l.tenants[s.Tenant].index.add(s.Number, s.patterns())
}

// expire ends what is owed of records before this one, and moves those that
// are behind past them: the oldest first, up to a limit.
func (l *Ledger) expire(before uint64, result *Result) {
	for done := 0; done < int(l.limits.GetExpiredRecord()); {
		sequence, s, ok := l.needed.least()
		if !ok || sequence >= before {
			break
		}
		done += 1 + l.expireOne(s, before, result)
	}
	l.timeline.trim(before)
}

// expireOne expires all there is of one subscription, and returns how many
// deliveries that were.
func (l *Ledger) expireOne(s *Subscription, before uint64, result *Result) (n int) {
	l.needed.remove(s) // until refile notes what it needs now
	for n < len(s.owed) && s.owed[n].position.Sequence < before {
		result.Deliveries = append(result.Deliveries, s.change(Expired, s.owed[n]))
		delete(s.lanes, s.owed[n].position)
		n++
	}
	s.owed = slices.Delete(s.owed, 0, n)
	l.outstanding -= n
	if s.behind && s.cursor.Sequence < before {
		if s.cursor.Sequence <= l.lastEvents { // else there is nothing in it
			result.Expired = append(result.Expired, Range{s.Number, s.cursor, Position{before, 0}})
		}
		s.cursor = Position{before, 0}
		s.eras = s.Interest().after(before).eras
	}
	l.refile(s)
	return n
}

// foldReadmit makes deliveries owed again that had ended, if their events are
// kept.
func (l *Ledger) foldReadmit(readmit *linkv1.Readmit, result *Result) {
	s := l.subscriptions[Number(readmit.GetSubscription())]
	if s == nil {
		return
	}
	for i, sequence := range readmit.GetSequences() {
		at := Position{sequence, readmit.GetIndexes()[i]}
		if at.Sequence == 0 || at.Sequence < l.keptFrom || at.Sequence >= l.sequence || s.behind && at.Compare(s.cursor) >= 0 {
			continue // there is no such event, or it is given up, or will be admitted as any other
		}
		if s.find(at) == nil {
			s.setLane(at, WholeLane)
		}
		l.owe(s, owed{position: at, attempts: readmit.GetAttempts()[i], next: l.time, since: l.time}, result)
	}
	l.refile(s)
}

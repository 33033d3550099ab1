package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// FoldVersion is the version of the fold's logic. A change that makes any log
// fold to another state raises it, and keeps the old way for logs whose fence
// names the old version.
const FoldVersion = 1

// HashSize is the length of a record's hash, SHA-256, in bytes.
const HashSize = 32

// What can be wrong with a record. The state is unchanged then, and the log
// must not be followed further.
var (
	// ErrChain: the record is not the one that follows: its sequence, or the
	// hash it carries, is not that of the record before plus one.
	ErrChain = errors.New("record does not follow the one before")
	// ErrEpoch: the record is of an older epoch, or a fence skips one.
	ErrEpoch = errors.New("record is of the wrong epoch")
	// ErrVersion: a newer member has changed the fold's logic.
	ErrVersion = errors.New("fold version is not known")
	// ErrInvalid: the record contradicts itself or the state.
	ErrInvalid = errors.New("record is invalid")
)

// Number names a subscription within its partition. Numbers rise in the order
// of creation and are never given twice.
type Number uint64

// TenantID is a tenant's id, as in `acme`.
type TenantID string

// Position names an event within its partition.
type Position struct {
	Sequence uint64 // of the record
	Index    uint32 // in the record's events
}

// Compare orders positions as their events were published.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Sequence, q.Sequence), cmp.Compare(p.Index, q.Index))
}

// String returns the position as sequence/index.
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Sequence, p.Index) }

// Delivery names an event owed to a subscription.
type Delivery struct {
	Subscription Number
	Position     Position
}

// DefaultLimits are in force where a fence leaves a limit 0.
func DefaultLimits() *linkv1.Limits {
	return &linkv1.Limits{
		OutstandingHealthy:   8192,
		OutstandingFailing:   64,
		OutstandingPartition: 1 << 20,
		IdempotencyMs:        (24 * time.Hour).Milliseconds(),
		IdempotencyCount:     1 << 20,
		BreakerFailures:      10,
		ProbeFirstMs:         (5 * time.Second).Milliseconds(),
		ProbeLastMs:          (5 * time.Minute).Milliseconds(),
		DisableAfterMs:       (5 * 24 * time.Hour).Milliseconds(),
		ExpiredRecord:        16 << 10,
	}
}

const (
	// failingAfter failures in a row make an endpoint a failing one.
	failingAfter = 5
	// reserved is how many deliveries a subscription may have outstanding
	// even when the partition's budget is used up, so that the dead cannot
	// starve the living.
	reserved = 16
	// failingShare is the part of the budget that those that fail may use, so
	// that very many dead ones do not leave the others with what is reserved;
	// beyond it each may have failingReserved, which is enough to be probed.
	failingShare    = 2
	failingReserved = 4
)

// Ledger is the state of one partition: a fold over its log. It is for one
// goroutine at a time, readers included.
type Ledger struct {
	sequence   uint64
	hash       []byte // of record sequence
	epoch      uint64
	time       int64 // unix ms, of record sequence; never falls
	version    uint32
	limits     *linkv1.Limits
	nextNumber Number
	lastEvents uint64 // newest record that holds events
	keptFrom   uint64 // first record that was not given up to be purged

	tenants       map[TenantID]*tenant
	subscriptions map[Number]*Subscription
	replays       map[string]*linkv1.StoredReplay
	alerts        map[string]*linkv1.StoredAlert
	window        window
	timeline      timeline
	outstanding   int // over all subscriptions
	behind        map[Number]*Subscription
	hungry        map[Number]*Subscription // of those behind, who may be admitted more: see Laggards
	needed        lowest                   // by the oldest record they need
	waiting       lowest                   // by when their oldest delivery began to be owed
	encoded       int                      // bytes of the last snapshot; about as long is the next
}

// New returns the ledger of an empty log.
func New() *Ledger {
	return &Ledger{
		limits:        DefaultLimits(),
		nextNumber:    1,
		tenants:       make(map[TenantID]*tenant),
		subscriptions: make(map[Number]*Subscription),
		behind:        make(map[Number]*Subscription),
		hungry:        make(map[Number]*Subscription),
		needed: lowest{
			now: (*Subscription).needs,
			at:  func(s *Subscription) *int { return &s.neededAt },
		},
		waiting: lowest{
			now: (*Subscription).waitsSince,
			at:  func(s *Subscription) *int { return &s.waitingAt },
		},
		replays: make(map[string]*linkv1.StoredReplay),
		alerts:  make(map[string]*linkv1.StoredAlert),
	}
}

// Result is what one record changed.
type Result struct {
	// Subscriptions that were put or deleted.
	Subscriptions []SubscriptionChange
	// Deliveries in the order of what happened to them.
	Deliveries []DeliveryChange
	// Paced are the subscriptions that may be sent to in another way than
	// before; each may be there more than once.
	Paced []*Subscription
	// Reordered are those whose ordering has changed: what they are owed is in
	// other lanes than before.
	Reordered []*Subscription
	// Expired are stretches of the log that nobody was asked about in time.
	Expired []Range
}

// Range is a stretch of the log that a subscription was behind of.
type Range struct {
	Subscription Number
	From, Until  Position // [From, Until)
}

func (r *Result) paced(s *Subscription) { r.Paced = append(r.Paced, s) }

// SubscriptionChange says that a subscription was put or deleted.
type SubscriptionChange struct {
	Number  Number
	Current *Subscription // nil: deleted
}

// DeliveryChange says what happened to a delivery.
type DeliveryChange struct {
	Delivery
	Kind     ChangeKind
	Tenant   TenantID
	ID       string // of the subscription
	Lane     Lane
	Attempts uint32 // made so far
	Charged  uint32 // of these, how many used up the schedule
	Next     int64  // unix ms: when it is due, while it is owed
	Since    int64  // unix ms: when it began to be owed
	// Outcome is the attempt that changed it, if one did.
	Outcome *linkv1.Outcome
	Worker  string // who made the attempt
}

// ChangeKind is what happened to a delivery.
type ChangeKind int

// What can happen to a delivery.
const (
	Owed        ChangeKind = iota // began to be owed, and is due
	Retried                       // an attempt failed, and another is due later
	Rescheduled                   // is due at another time, without an attempt
	Delivered                     // ended: an attempt succeeded
	Died                          // ended: the last attempt failed
	Expired                       // ended: retention was over before an attempt succeeded
	Cancelled                     // ended: its subscription was deleted, or resumed without it
)

// Fold takes the record that follows. hash is the SHA-256 of the record's
// bytes in the log. The result's subscriptions belong to the ledger.
func (l *Ledger) Fold(sequence uint64, hash []byte, record *linkv1.Record) (Result, error) {
	if err := l.check(sequence, hash, record); err != nil {
		return Result{}, fmt.Errorf("folding record %d: %w", sequence, err)
	}
	before := l.time
	l.sequence, l.hash = sequence, slices.Clone(hash)
	l.time = max(l.time, record.GetTimeUnixMs())
	l.timeline.add(sequence, before, l.time)
	if fence := record.GetFence(); fence != nil {
		l.epoch = record.GetEpoch()
		l.version = fence.GetFoldVersion()
		l.limits = resolve(fence.GetLimits())
		for _, s := range l.behind {
			l.refile(s) // what it has room for may have changed
		}
	}
	var result Result
	l.foldOutcomes(record.GetOutcomes(), &result)
	for _, change := range record.GetTenants() {
		l.foldTenant(change)
	}
	for _, change := range record.GetSubscriptions() {
		l.foldSubscription(change, &result)
	}
	for _, control := range record.GetControls() {
		l.foldControl(control, &result)
	}
	for _, change := range record.GetReplays() {
		l.foldReplay(change)
	}
	for _, change := range record.GetAlerts() {
		l.foldAlert(change)
	}
	if until := record.GetExpireBefore(); until > 0 {
		l.expire(min(until, sequence), &result)
	}
	for _, admit := range record.GetAdmits() {
		l.foldAdmit(admit, &result)
	}
	for _, readmit := range record.GetReadmits() {
		l.foldReadmit(readmit, &result)
	}
	for i, event := range record.GetEvents() {
		l.foldEvent(Position{sequence, uint32(i)}, event, &result)
	}
	if len(record.GetEvents()) > 0 {
		l.lastEvents = sequence
	}
	if before := record.GetPurgeBefore(); before > 0 {
		l.keptFrom = max(l.keptFrom, min(before, l.Floor()))
	}
	l.window.trim(l.time-l.limits.GetIdempotencyMs(), int(l.limits.GetIdempotencyCount()))
	return result, nil
}

// check refuses a record before anything is changed.
func (l *Ledger) check(sequence uint64, hash []byte, record *linkv1.Record) error {
	if sequence != l.sequence+1 {
		return fmt.Errorf("%w: expected sequence %d", ErrChain, l.sequence+1)
	}
	if len(hash) != HashSize {
		return fmt.Errorf("%w: hash of %d bytes", ErrInvalid, len(hash))
	}
	if !slices.Equal(record.GetPreviousHash(), l.hash) {
		return fmt.Errorf("%w: it carries the hash %x, record %d has %x",
			ErrChain, record.GetPreviousHash(), l.sequence, l.hash)
	}
	if fence := record.GetFence(); fence != nil {
		if record.GetEpoch() != l.epoch+1 {
			return fmt.Errorf("%w: fence of epoch %d after epoch %d", ErrEpoch, record.GetEpoch(), l.epoch)
		}
		if fence.GetFoldVersion() == 0 || fence.GetFoldVersion() > FoldVersion {
			return fmt.Errorf("%w: %d", ErrVersion, fence.GetFoldVersion())
		}
	} else if record.GetEpoch() != l.epoch || l.epoch == 0 {
		return fmt.Errorf("%w: %d in epoch %d", ErrEpoch, record.GetEpoch(), l.epoch)
	}
	if err := checkOutcomes(record.GetOutcomes()); err != nil {
		return err
	}
	return l.checkReferences(record)
}

// checkReferences refuses what contradicts the subscriptions there are, and
// admits that contradict themselves.
func (l *Ledger) checkReferences(record *linkv1.Record) error {
	if err := l.checkSubscriptions(record.GetSubscriptions()); err != nil {
		return err
	}
	for _, admit := range record.GetAdmits() {
		if err := checkPositions(admit.GetSequences(), admit.GetIndexes()); err != nil {
			return err
		}
		if n := len(admit.GetLanes()); n != 0 && n != len(admit.GetSequences()) {
			return fmt.Errorf("%w: uneven columns in an admit", ErrInvalid)
		}
	}
	for _, readmit := range record.GetReadmits() {
		if len(readmit.GetAttempts()) != len(readmit.GetSequences()) {
			return fmt.Errorf("%w: uneven columns in a readmit", ErrInvalid)
		}
		if err := checkPositions(readmit.GetSequences(), readmit.GetIndexes()); err != nil {
			return err
		}
	}
	return nil
}

// checkPositions refuses uneven columns, and positions that do not rise.
func checkPositions(sequences []uint64, indexes []uint32) error {
	if len(sequences) != len(indexes) {
		return fmt.Errorf("%w: uneven columns of positions", ErrInvalid)
	}
	last := Position{}
	for i, sequence := range sequences {
		at := Position{sequence, indexes[i]}
		if at.Compare(last) <= 0 {
			return fmt.Errorf("%w: positions out of order", ErrInvalid)
		}
		last = at
	}
	return nil
}

// resolve fills the limits that a fence leaves open.
func resolve(given *linkv1.Limits) *linkv1.Limits {
	limits := DefaultLimits()
	set(&limits.OutstandingHealthy, given.GetOutstandingHealthy())
	set(&limits.OutstandingFailing, given.GetOutstandingFailing())
	set(&limits.OutstandingPartition, given.GetOutstandingPartition())
	set(&limits.IdempotencyMs, given.GetIdempotencyMs())
	set(&limits.IdempotencyCount, given.GetIdempotencyCount())
	set(&limits.BreakerFailures, given.GetBreakerFailures())
	set(&limits.ProbeFirstMs, given.GetProbeFirstMs())
	set(&limits.ProbeLastMs, given.GetProbeLastMs())
	set(&limits.DisableAfterMs, given.GetDisableAfterMs())
	set(&limits.ExpiredRecord, given.GetExpiredRecord())
	return limits
}

func set[T comparable](limit *T, given T) {
	*limit = cmp.Or(given, *limit)
}

// foldEvent makes an event owed to all who want it.
func (l *Ledger) foldEvent(at Position, event *linkv1.LoggedEvent, result *Result) {
	id := TenantID(event.GetTenant())
	if !event.GetIdGenerated() {
		l.window.add(keyOf(id, event.GetId()), l.time)
	}
	t := l.tenants[id]
	if t == nil {
		return
	}
	wanted := t.index.match(event.GetType())
	var full []*Subscription
	for _, number := range wanted {
		s := l.subscriptions[number]
		if len(s.owed) >= l.capacity(s) {
			full = append(full, s)
			continue
		}
		if s.Ordering() == OrderedByKey {
			s.setLane(at, LaneOfKey(event.GetOrderingKey()))
		}
		l.owe(s, l.fresh(at), result)
	}
	// Not in the loop above: it changes the index. Backwards, so that a list of
	// which all go is not moved up for each.
	for _, s := range slices.Backward(full) {
		l.fallBehind(s, at)
	}
}

// Reach returns how many deliveries an event makes at once, or a little more:
// to those who want its type and are not behind.
func (l *Ledger) Reach(tenant TenantID, eventType string) int {
	t := l.tenants[tenant]
	if t == nil {
		return 0
	}
	return t.index.atMost(eventType)
}

// owe adds a delivery to what a subscription is owed, if it is not there.
func (l *Ledger) owe(s *Subscription, o owed, result *Result) {
	if !s.add(o) {
		return
	}
	l.outstanding++
	l.needed.note(s, o.position.Sequence)
	l.waiting.note(s, uint64(max(0, o.since)))
	result.Deliveries = append(result.Deliveries, s.change(Owed, o))
}

// fresh is a delivery that begins to be owed now.
func (l *Ledger) fresh(at Position) owed {
	return owed{position: at, next: l.time, since: l.time}
}

// ceiling is how many deliveries a subscription may have outstanding while the
// partition's budget lasts.
func (l *Ledger) ceiling(s *Subscription) int {
	if s.Failing() {
		return int(l.limits.GetOutstandingFailing())
	}
	return int(l.limits.GetOutstandingHealthy())
}

// capacity is how many deliveries a subscription may have outstanding now.
func (l *Ledger) capacity(s *Subscription) int {
	most, budget := l.ceiling(s), int(l.limits.GetOutstandingPartition())
	if l.outstanding >= budget {
		most = min(most, reserved)
	}
	if s.Failing() && l.outstanding >= budget/failingShare {
		most = min(most, failingReserved)
	}
	return most
}

// Room returns how many more deliveries a subscription may have outstanding.
func (l *Ledger) Room(s *Subscription) int { return max(0, l.capacity(s)-len(s.owed)) }

// foldAdmit takes positions from the log into the set of one that is behind, as
// far as there is room: a proposal may come late, or be one of many, and the
// limits hold all the same. What does not fit is proposed again.
func (l *Ledger) foldAdmit(admit *linkv1.Admit, result *Result) {
	s := l.subscriptions[Number(admit.GetSubscription())]
	next := Position{admit.GetNextSequence(), admit.GetNextIndex()}
	if s == nil || !s.behind || s.mode != Active || next.Compare(s.cursor) < 0 {
		return // deleted or paused meanwhile, or a stale proposal
	}
	for i, sequence := range admit.GetSequences() {
		at := Position{sequence, admit.GetIndexes()[i]}
		if at.Compare(s.cursor) < 0 || at.Compare(next) >= 0 {
			continue
		}
		if len(s.owed) >= l.capacity(s) {
			next = at
			break
		}
		s.setLane(at, laneOfAdmit(admit, i))
		l.owe(s, l.fresh(at), result)
	}
	s.cursor = next
	s.eras = s.Interest().after(next.Sequence).eras
	if next.Sequence > l.lastEvents {
		l.catchUp(s)
	}
	l.refile(s)
}

// laneOfAdmit returns the lane of an admitted position.
func laneOfAdmit(admit *linkv1.Admit, i int) Lane {
	if i < len(admit.GetLanes()) {
		return Lane(admit.GetLanes()[i])
	}
	return WholeLane // the log was read before the subscription was ordered by key
}

// foldOutcomes counts attempts. What the ledger does not know as owed, or has
// counted already, changes nothing: outcomes may come more than once.
func (l *Ledger) foldOutcomes(outcomes *linkv1.Outcomes, result *Result) {
	for reported := range DecodeOutcomes(l.time, outcomes) {
		outcome := reported.Outcome
		s := l.subscriptions[Number(outcome.GetSubscription())]
		if s == nil {
			continue
		}
		at := Position{outcome.GetSequence(), outcome.GetIndex()}
		o := s.find(at)
		if o == nil {
			continue
		}
		if outcome.GetKind() != linkv1.Outcome_DELIVERED && outcome.GetAttempt() != o.attempts+1 {
			continue
		}
		l.foldAttempt(s, *o, reported, result)
		l.refile(s)
	}
}

// foldAttempt counts one attempt of a delivery that is owed.
func (l *Ledger) foldAttempt(s *Subscription, o owed, reported Reported, result *Result) {
	outcome := reported.Outcome
	note := func(kind ChangeKind) {
		change := s.change(kind, o)
		change.Outcome, change.Worker = outcome, reported.Worker
		result.Deliveries = append(result.Deliveries, change)
	}
	o.attempts++
	switch outcome.GetKind() {
	case linkv1.Outcome_DELIVERED:
		l.drop(s, o.position)
		note(Delivered)
		l.succeeded(s, result)
	case linkv1.Outcome_RETRY, linkv1.Outcome_DEAD:
		l.holdBack(s, outcome.GetHoldUntilUnixMs(), result)
		gone := outcome.GetStatusCode() == statusGone
		if l.failed(s, o.position, outcome, result) {
			o.charged++
		} else if outcome.GetKind() == linkv1.Outcome_DEAD {
			outcome.NextTimeUnixMs = l.time // the schedule was not used up: the endpoint failed, not the event
			outcome.Kind = linkv1.Outcome_RETRY
		}
		if outcome.GetKind() == linkv1.Outcome_DEAD {
			l.drop(s, o.position)
			note(Died)
		} else {
			o.next = outcome.GetNextTimeUnixMs()
			*s.find(o.position) = o
			note(Retried)
		}
		if gone {
			l.setMode(s, Disabled, "the endpoint answered 410 Gone", result)
		}
	case linkv1.Outcome_KIND_UNSPECIFIED, linkv1.Outcome_RETURNED: // change nothing
	}
}

func (l *Ledger) drop(s *Subscription, at Position) {
	if s.remove(at) {
		l.outstanding--
	}
}

// Sequence returns the number of the last record folded; 0 before the first.
func (l *Ledger) Sequence() uint64 { return l.sequence }

// Hash returns the hash of the last record folded; nil before the first.
func (l *Ledger) Hash() []byte { return l.hash }

// Epoch returns the epoch of the last fence; 0 before the first.
func (l *Ledger) Epoch() uint64 { return l.epoch }

// Time returns the time of the last record folded, in unix ms.
func (l *Ledger) Time() int64 { return l.time }

// NextNumber returns the number the next new subscription must have.
func (l *Ledger) NextNumber() Number { return l.nextNumber }

// SubscriptionCount returns how many subscriptions there are.
func (l *Ledger) SubscriptionCount() int { return len(l.subscriptions) }

// Outstanding returns how many deliveries are owed, over all subscriptions.
func (l *Ledger) Outstanding() int { return l.outstanding }

// BehindCount returns how many subscriptions are behind.
func (l *Ledger) BehindCount() int { return len(l.behind) }

// Laggards returns the subscriptions that are behind and have room again, with
// how many deliveries they have room for, in the order of their numbers. One
// whose set is still more than half full is left out, so that what is admitted
// is worth reading the log for; and one whose breaker is open and that has
// something to be probed with, since more would only lie there. So the dead cost
// nothing here.
func (l *Ledger) Laggards() iter.Seq2[*Subscription, int] {
	rooms := make(map[Number]int)
	for number, s := range l.hungry {
		capacity := l.capacity(s)
		if room := capacity - len(s.owed); 2*room >= capacity && room > 0 {
			rooms[number] = room
		}
	}
	return func(yield func(*Subscription, int) bool) {
		for _, number := range slices.Sorted(maps.Keys(rooms)) {
			if !yield(l.subscriptions[number], rooms[number]) {
				return
			}
		}
	}
}

// Seen reports whether the tenant published an event of this id within the
// idempotency window.
func (l *Ledger) Seen(tenant TenantID, id string) bool {
	return l.window.has(keyOf(tenant, id))
}

// Floor returns the sequence of the oldest record that is still owed to
// somebody: all before it may be purged, as far as the ledger is concerned.
func (l *Ledger) Floor() uint64 {
	floor := l.sequence + 1
	if sequence, _, ok := l.needed.least(); ok {
		floor = min(floor, sequence)
	}
	return floor
}

// KeptFrom returns the first record that was not given up to be purged: what is
// before it may be gone, is owed to nobody, and cannot be made owed again. It
// is 0 if none was.
func (l *Ledger) KeptFrom() uint64 { return l.keptFrom }

// OldestSince returns when the oldest outstanding delivery began to be owed,
// in unix ms; 0 if nothing is owed.
func (l *Ledger) OldestSince() int64 {
	since, _, _ := l.waiting.least()
	return int64(since) //nolint:gosec // was an int64
}

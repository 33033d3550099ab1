package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	gocmp "github.com/google/go-cmp/cmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// oracle says what a ledger should, told the slow way: it keeps every event,
// a map of what each subscription is owed, and for one that is behind the list
// of the events it wanted when they were published and waits for. It knows
// nothing of indexes, eras, rings, columns or counters.
type oracle struct {
	limits  *linkv1.Limits
	now     int64
	events  map[Position]*linkv1.LoggedEvent
	last    Position              // of events
	subs    map[Number]*oracleSub // nil: deleted
	tenants map[string]bool
	window  []oracleID
	wanted  map[Delivery]bool // by the patterns in force when the event was published
	owed    map[Delivery]bool // all that were ever owed
}

// oracleSub is a subscription and where each of its events is.
type oracleSub struct {
	tenant   string
	matches  func(eventType string) bool
	owed     map[Position]oracleOwed
	behind   bool
	waiting  []Position // while behind: wanted, and not owed yet; by position
	cursor   Position
	failures int
}

type oracleOwed struct {
	Attempts uint32
	Next     int64
}

type oracleID struct {
	tenant, id string
	time       int64
}

// oracleChange is a DeliveryChange without what only explains it.
type oracleChange struct {
	Delivery Delivery
	Kind     ChangeKind
	Attempts uint32
	Next     int64
}

func newOracle() *oracle {
	return &oracle{
		events: map[Position]*linkv1.LoggedEvent{}, subs: map[Number]*oracleSub{},
		tenants: map[string]bool{}, wanted: map[Delivery]bool{}, owed: map[Delivery]bool{},
	}
}

// fold takes a record with its outcomes as they were before they were put into
// columns, and returns the changes that the ledger should report.
func (o *oracle) fold(sequence uint64, record *linkv1.Record, outcomes []Reported) []oracleChange {
	if record.GetFence() != nil {
		o.limits = record.GetFence().GetLimits()
	}
	o.now = max(o.now, record.GetTimeUnixMs())
	for _, change := range record.GetTenants() {
		o.tenants[change.GetId()] = change.GetPut() != nil
	}
	var changes []oracleChange
	for _, change := range record.GetSubscriptions() {
		changes = append(changes, o.subscription(change)...)
	}
	for _, r := range outcomes {
		changes = append(changes, o.outcome(r.Outcome)...)
	}
	for _, a := range record.GetAdmits() {
		changes = append(changes, o.admit(a)...)
	}
	for i, e := range record.GetEvents() {
		changes = append(changes, o.publish(Position{sequence, uint32(i)}, e)...)
	}
	o.window = slices.DeleteFunc(o.window, func(id oracleID) bool {
		return id.time <= o.now-o.limits.GetIdempotencyMs()
	})
	o.window = o.window[max(0, len(o.window)-int(o.limits.GetIdempotencyCount())):]
	return changes
}

func (o *oracle) subscription(change *linkv1.SubscriptionChange) []oracleChange {
	number, put := Number(change.GetNumber()), change.GetPut()
	s, known := o.subs[number]
	switch {
	case known && s == nil: // deleted
	case known && put == nil:
		var changes []oracleChange
		for _, at := range slices.SortedFunc(maps.Keys(s.owed), Position.Compare) {
			changes = append(changes, oracleChange{Delivery{number, at}, Cancelled, s.owed[at].Attempts, 0})
		}
		o.subs[number] = nil
		return changes
	case known:
		s.matches = slowMatcher(put.GetSubscription().GetEventTypes())
	case put != nil:
		o.subs[number] = &oracleSub{
			tenant: put.GetTenant(), matches: slowMatcher(put.GetSubscription().GetEventTypes()),
			owed: map[Position]oracleOwed{},
		}
	}
	return nil
}

func (o *oracle) outcome(out *linkv1.Outcome) []oracleChange {
	at := Position{out.GetSequence(), out.GetIndex()}
	d := Delivery{Number(out.GetSubscription()), at}
	s := o.subs[d.Subscription]
	if s == nil {
		return nil
	}
	owed, ok := s.owed[at]
	if !ok {
		return nil
	}
	attempts := owed.Attempts + 1
	if out.GetKind() == linkv1.Outcome_DELIVERED {
		s.failures = 0
		delete(s.owed, at)
		return []oracleChange{{d, Delivered, attempts, 0}}
	}
	if out.GetAttempt() != attempts {
		return nil
	}
	switch out.GetKind() {
	case linkv1.Outcome_RETRY:
		s.failures++
		s.owed[at] = oracleOwed{attempts, out.GetNextTimeUnixMs()}
		return []oracleChange{{d, Retried, attempts, out.GetNextTimeUnixMs()}}
	case linkv1.Outcome_DEAD:
		s.failures++
		delete(s.owed, at)
		return []oracleChange{{d, Died, attempts, 0}}
	case linkv1.Outcome_DELIVERED, linkv1.Outcome_RETURNED, linkv1.Outcome_KIND_UNSPECIFIED:
	}
	return nil
}

// admit takes what the subscription waits for, up to where the leader has read
// the log, whatever it has found there: it must be the same.
func (o *oracle) admit(a *linkv1.Admit) []oracleChange {
	number := Number(a.GetSubscription())
	next := Position{a.GetNextSequence(), a.GetNextIndex()}
	s := o.subs[number]
	if s == nil || !s.behind || next.Compare(s.cursor) < 0 {
		return nil
	}
	var changes []oracleChange
	for len(s.waiting) > 0 && s.waiting[0].Compare(next) < 0 {
		if o.room(s) <= 0 {
			next = s.waiting[0]
			break
		}
		changes = append(changes, o.owe(number, s.waiting[0]))
		s.waiting = s.waiting[1:]
	}
	s.cursor, s.behind = next, next.Compare(o.last) <= 0
	return changes
}

func (o *oracle) publish(at Position, e *linkv1.LoggedEvent) []oracleChange {
	o.events[at], o.last = e, at
	if !e.GetIdGenerated() && !o.seen(e.GetTenant(), e.GetId()) {
		o.window = append(o.window, oracleID{e.GetTenant(), e.GetId(), o.now})
	}
	var changes []oracleChange
	for _, number := range slices.Sorted(maps.Keys(o.subs)) {
		s := o.subs[number]
		if s == nil || !s.wants(e) {
			continue
		}
		o.wanted[Delivery{number, at}] = true
		switch {
		case s.behind:
			s.waiting = append(s.waiting, at)
		case o.room(s) <= 0:
			s.behind, s.cursor, s.waiting = true, at, []Position{at}
		default:
			changes = append(changes, o.owe(number, at))
		}
	}
	return changes
}

func (o *oracle) owe(number Number, at Position) oracleChange {
	o.subs[number].owed[at] = oracleOwed{Next: o.now}
	o.owed[Delivery{number, at}] = true
	return oracleChange{Delivery{number, at}, Owed, 0, o.now}
}

// room is how many deliveries a subscription may be owed more.
func (o *oracle) room(s *oracleSub) int {
	limit := int(o.limits.GetOutstandingHealthy())
	if s.failures >= 5 {
		limit = int(o.limits.GetOutstandingFailing())
	}
	if o.outstanding() >= int(o.limits.GetOutstandingPartition()) {
		limit = min(limit, 16)
	}
	return limit - len(s.owed)
}

// laggards is who is behind and worth reading the log for, and for how many
// deliveries.
func (o *oracle) laggards() map[Number]int {
	rooms := map[Number]int{}
	for number, s := range o.subs {
		if s != nil && s.behind && o.room(s) > 0 && o.room(s) >= len(s.owed) {
			rooms[number] = o.room(s)
		}
	}
	return rooms
}

func (o *oracle) outstanding() int {
	sum := 0
	for _, s := range o.subs {
		if s != nil {
			sum += len(s.owed)
		}
	}
	return sum
}

func (s *oracleSub) wants(e *linkv1.LoggedEvent) bool {
	return s.tenant == e.GetTenant() && s.matches(e.GetType())
}

func (o *oracle) seen(tenant, id string) bool {
	return slices.ContainsFunc(o.window, func(e oracleID) bool { return e.tenant == tenant && e.id == id })
}

// floor is the first record that is still needed, of those up to sequence.
func (o *oracle) floor(sequence uint64) uint64 {
	floor := sequence + 1
	for _, s := range o.subs {
		if s == nil {
			continue
		}
		for at := range s.owed {
			floor = min(floor, at.Sequence)
		}
		if s.behind {
			floor = min(floor, s.cursor.Sequence)
		}
	}
	return floor
}

// compare says where a ledger differs, and which of the ledger's promises it
// breaks.
func (o *oracle) compare(l *Ledger) error {
	for _, number := range slices.Sorted(maps.Keys(o.subs)) {
		if err := o.compareSubscription(o.subs[number], l.Subscription(number)); err != nil {
			return fmt.Errorf("subscription %d: %w", number, err)
		}
	}
	if got := Number(len(o.subs) + 1); l.NextNumber() != got {
		return fmt.Errorf("next number is %d, want %d", l.NextNumber(), got)
	}
	if want := o.outstanding(); l.Outstanding() != want {
		return fmt.Errorf("%d outstanding, want %d", l.Outstanding(), want)
	}
	if want := o.floor(l.Sequence()); l.Floor() != want {
		return fmt.Errorf("floor is %d, want %d", l.Floor(), want)
	}
	if got, want := maps.Collect(l.Laggards()), numbered(l, o.laggards()); !maps.Equal(got, want) {
		return fmt.Errorf("laggards are %v, want %v", got, want)
	}
	var tenants []TenantID
	for _, id := range slices.Sorted(maps.Keys(o.tenants)) {
		if o.tenants[id] {
			tenants = append(tenants, TenantID(id))
		}
	}
	if !slices.Equal(tenants, l.Tenants()) {
		return fmt.Errorf("tenants are %q, want %q", l.Tenants(), tenants)
	}
	for _, e := range o.events {
		if got, want := l.Seen(TenantID(e.GetTenant()), e.GetId()), o.seen(e.GetTenant(), e.GetId()); got != want {
			return fmt.Errorf("id %s of tenant %s seen: %t, want %t", e.GetId(), e.GetTenant(), got, want)
		}
	}
	return l.consistent()
}

// numbered puts a ledger's subscriptions in the place of their numbers.
func numbered(l *Ledger, rooms map[Number]int) map[*Subscription]int {
	found := map[*Subscription]int{}
	for number, room := range rooms {
		found[l.Subscription(number)] = room
	}
	return found
}

func (o *oracle) compareSubscription(want *oracleSub, got *Subscription) error {
	if want == nil || got == nil {
		if (want == nil) != (got == nil) {
			return fmt.Errorf("there: %t, want %t", got != nil, want != nil)
		}
		return nil
	}
	owed := map[Position]oracleOwed{}
	for at := range got.Outstanding() {
		owed[at.Position] = oracleOwed{at.Attempts, at.Next.UnixMilli()}
	}
	if !maps.Equal(want.owed, owed) {
		return fmt.Errorf("outstanding (-want +got):\n%s", gocmp.Diff(want.owed, owed))
	}
	cursor, behind := got.Behind()
	if behind != want.behind || behind && cursor != want.cursor {
		return fmt.Errorf("behind: %t from %v, want %t from %v", behind, cursor, want.behind, want.cursor)
	}
	if behind {
		if err := o.compareInterest(got); err != nil {
			return err
		}
	}
	if failures, _ := got.Failures(); failures != uint64(want.failures) {
		return fmt.Errorf("%d failures in a row, want %d", failures, want.failures)
	}
	return nil
}

// compareInterest checks that one that is behind wants what it wanted when it
// was published, in all that it has still to be caught up from.
func (o *oracle) compareInterest(s *Subscription) error {
	cursor, _ := s.Behind()
	for at, e := range o.events {
		if at.Compare(cursor) < 0 || TenantID(e.GetTenant()) != s.Tenant {
			continue
		}
		got, want := s.Interest().Wants(at.Sequence, e.GetType()), o.wanted[Delivery{s.Number, at}]
		if got != want {
			return fmt.Errorf("wants the event %v: %t, want %t", at, got, want)
		}
	}
	return nil
}

// changesOf reduces a ledger's changes to what the oracle predicts.
func changesOf(result Result) []oracleChange {
	var changes []oracleChange
	for _, c := range result.Deliveries {
		changes = append(changes, oracleChange{c.Delivery, c.Kind, c.Attempts, c.Next})
	}
	return changes
}

// compareDeliveries orders deliveries by subscription, then by position.
func compareDeliveries(a, b Delivery) int {
	return cmp.Or(cmp.Compare(a.Subscription, b.Subscription), a.Position.Compare(b.Position))
}

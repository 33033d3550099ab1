package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

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
	passed  map[Delivery]bool // wanted, but expired or given up before it was owed
	times   []int64           // of the records
	trimmed uint64            // records before it have expired
	kept    uint64            // records before it may be purged
	replays map[string]*linkv1.StoredReplay
}

// oracleSub is a subscription and where each of its events is.
type oracleSub struct {
	number  Number
	tenant  string
	url     string
	matches func(eventType string) bool
	owed    map[Position]oracleOwed
	behind  bool
	waiting []Position // while behind: wanted, and not owed yet; by position
	cursor  Position
	mode    Mode
	since   int64 // of the mode
	oracleHealth
}

// oracleHealth is what an endpoint did since it did well.
type oracleHealth struct {
	failures int
	failing  int64             // since then
	streak   int               // failures of the endpoint since it answered
	over     map[Position]bool // the events of these
	probes   []int64           // while the breaker is open: when one was or is due
}

type oracleOwed struct {
	Attempts, Charged uint32
	Next              int64
}

type oracleID struct {
	tenant, id string
	time       int64
}

// oracleResult is a Result without what only explains it.
type oracleResult struct {
	Changes []oracleChange
	Expired []Range
}

// oracleChange is a DeliveryChange without what only explains it.
type oracleChange struct {
	Delivery Delivery
	Kind     ChangeKind
	Attempts uint32
	Charged  uint32
	Next     int64
}

func newOracle() *oracle {
	return &oracle{
		events: map[Position]*linkv1.LoggedEvent{}, subs: map[Number]*oracleSub{},
		tenants: map[string]bool{}, wanted: map[Delivery]bool{}, owed: map[Delivery]bool{},
		passed: map[Delivery]bool{}, replays: map[string]*linkv1.StoredReplay{},
	}
}

// fold takes a record with its outcomes as they were before they were put into
// columns, and returns what the ledger should report.
func (o *oracle) fold(record *linkv1.Record, outcomes []Reported) oracleResult {
	if record.GetFence() != nil {
		o.limits = record.GetFence().GetLimits()
	}
	o.now = max(o.now, record.GetTimeUnixMs())
	o.times = append(o.times, o.now)
	for _, change := range record.GetTenants() {
		o.tenants[change.GetId()] = change.GetPut() != nil
	}
	var result oracleResult
	for _, r := range outcomes {
		o.outcome(r.Outcome, &result)
	}
	for _, change := range record.GetSubscriptions() {
		o.subscription(change, &result)
	}
	for _, c := range record.GetControls() {
		o.control(c, &result)
	}
	for _, change := range record.GetReplays() {
		if o.replays[change.GetId()] = change.GetPut(); change.GetPut() == nil {
			delete(o.replays, change.GetId())
		}
	}
	o.expire(min(record.GetExpireBefore(), o.sequence()), &result)
	for _, a := range record.GetAdmits() {
		o.admit(a, &result)
	}
	for _, r := range record.GetReadmits() {
		o.readmit(r, &result)
	}
	for i, e := range record.GetEvents() {
		o.publish(Position{o.sequence(), uint32(i)}, e, &result)
	}
	o.kept = max(o.kept, min(record.GetPurgeBefore(), o.floor(o.sequence())))
	o.window = slices.DeleteFunc(o.window, func(id oracleID) bool {
		return id.time <= o.now-o.limits.GetIdempotencyMs()
	})
	o.window = o.window[max(0, len(o.window)-int(o.limits.GetIdempotencyCount())):]
	return result
}

// sequence is that of the record being folded.
func (o *oracle) sequence() uint64 { return uint64(len(o.times)) }

// note says what happens to a delivery that is owed, before it ends.
func (s *oracleSub) note(result *oracleResult, kind ChangeKind, at Position) {
	owed := s.owed[at]
	if kind != Owed && kind != Retried && kind != Rescheduled {
		owed.Next = 0
		delete(s.owed, at)
	}
	result.Changes = append(result.Changes, oracleChange{
		Delivery{s.number, at}, kind, owed.Attempts, owed.Charged, owed.Next,
	})
}

// positions are those owed, oldest first.
func (s *oracleSub) positions() []Position {
	return slices.SortedFunc(maps.Keys(s.owed), Position.Compare)
}

func (o *oracle) subscription(change *linkv1.SubscriptionChange, result *oracleResult) {
	number, put := Number(change.GetNumber()), change.GetPut()
	s, known := o.subs[number]
	switch {
	case known && s == nil: // deleted
	case known && put == nil:
		for _, at := range s.positions() {
			s.note(result, Cancelled, at)
		}
		o.subs[number] = nil
	case known:
		s.matches = slowMatcher(put.GetSubscription().GetEventTypes())
		if url := put.GetSubscription().GetUrl(); url != s.url {
			s.url = url
			o.well(s, result)
			s.failures, s.failing = 0, 0
		}
	case put != nil:
		o.subs[number] = &oracleSub{
			number: number, tenant: put.GetTenant(), url: put.GetSubscription().GetUrl(),
			matches: slowMatcher(put.GetSubscription().GetEventTypes()),
			owed:    map[Position]oracleOwed{},
		}
	}
}

func (o *oracle) control(c *linkv1.Control, result *oracleResult) {
	s := o.subs[Number(c.GetSubscription())]
	if s == nil {
		return
	}
	switch c.GetAction() {
	case linkv1.Control_PAUSE:
		if s.mode == Active {
			o.stop(s, Paused)
		}
	case linkv1.Control_RESUME, linkv1.Control_RESUME_FROM_NOW:
		s.mode, s.since = Active, 0
		o.well(s, result)
		s.failures, s.failing = 0, 0
		if c.GetAction() == linkv1.Control_RESUME_FROM_NOW {
			for _, at := range s.positions() {
				s.note(result, Cancelled, at)
			}
			o.pass(s, Position{o.sequence(), 0})
			s.behind = false
		}
		s.behind = s.behind && s.cursor.Compare(o.last) <= 0
	case linkv1.Control_ACTION_UNSPECIFIED:
	}
}

// stop pauses or disables a subscription: from here on its events wait.
func (o *oracle) stop(s *oracleSub, mode Mode) {
	if s.mode == mode {
		return
	}
	s.mode, s.since = mode, o.now
	if !s.behind {
		s.behind, s.cursor = true, Position{o.sequence(), 0}
	}
}

// pass gives up what waits before a position.
func (o *oracle) pass(s *oracleSub, before Position) {
	for len(s.waiting) > 0 && s.waiting[0].Compare(before) < 0 {
		o.passed[Delivery{s.number, s.waiting[0]}] = true
		s.waiting = s.waiting[1:]
	}
}

func (o *oracle) expire(before uint64, result *oracleResult) {
	o.trimmed = max(o.trimmed, before)
	type old struct {
		needs  uint64
		number Number
	}
	var all []old
	for number, s := range o.subs {
		if s == nil {
			continue
		}
		if needs, ok := s.needs(); ok && needs < before {
			all = append(all, old{needs, number})
		}
	}
	slices.SortFunc(all, func(a, b old) int {
		return cmp.Or(cmp.Compare(a.needs, b.needs), cmp.Compare(a.number, b.number))
	})
	for done := 0; len(all) > 0 && done < int(o.limits.GetExpiredRecord()); all = all[1:] {
		done += 1 + o.expireOne(o.subs[all[0].number], before, result)
	}
}

// needs returns the oldest record that a subscription waits for.
func (s *oracleSub) needs() (sequence uint64, ok bool) {
	for at := range s.owed {
		if !ok || at.Sequence < sequence {
			sequence, ok = at.Sequence, true
		}
	}
	if s.behind && (!ok || s.cursor.Sequence < sequence) {
		sequence, ok = s.cursor.Sequence, true
	}
	return sequence, ok
}

func (o *oracle) expireOne(s *oracleSub, before uint64, result *oracleResult) (n int) {
	for _, at := range s.positions() {
		if at.Sequence < before {
			s.note(result, Expired, at)
			n++
		}
	}
	if until := (Position{before, 0}); s.behind && s.cursor.Compare(until) < 0 {
		if s.cursor.Compare(o.last) <= 0 {
			result.Expired = append(result.Expired, Range{s.number, s.cursor, until})
		}
		o.pass(s, until)
		s.cursor = until
	}
	return n
}

func (o *oracle) outcome(out *linkv1.Outcome, result *oracleResult) {
	at := Position{out.GetSequence(), out.GetIndex()}
	s := o.subs[Number(out.GetSubscription())]
	if s == nil {
		return
	}
	owed, ok := s.owed[at]
	kind, failed := out.GetKind(), out.GetKind() == linkv1.Outcome_RETRY || out.GetKind() == linkv1.Outcome_DEAD
	if !ok || kind != linkv1.Outcome_DELIVERED && (!failed || out.GetAttempt() != owed.Attempts+1) {
		return
	}
	if !failed {
		owed.Attempts++
		s.owed[at] = owed
		s.note(result, Delivered, at)
		o.well(s, result)
		s.failures, s.failing = 0, 0
		return
	}
	next := out.GetNextTimeUnixMs()
	if o.failed(s, at, out, result) {
		owed.Charged++
	} else if out.GetKind() == linkv1.Outcome_DEAD {
		kind, next = linkv1.Outcome_RETRY, o.now
	}
	owed.Attempts++
	owed.Next = next
	s.owed[at] = owed
	if kind == linkv1.Outcome_DEAD {
		s.note(result, Died, at)
	} else {
		s.note(result, Retried, at)
	}
	if out.GetStatusCode() == 410 {
		o.stop(s, Disabled)
	}
}

// failed counts a failure, and reports whether it is the event's own affair.
func (o *oracle) failed(s *oracleSub, at Position, out *linkv1.Outcome, result *oracleResult) (charged bool) {
	s.failures++
	if s.failing == 0 {
		s.failing = o.now
	}
	unwell := map[uint32]bool{0: out.GetErrorClass() != "payload", 408: true, 429: true, 500: true, 503: true, 599: true}
	if !unwell[out.GetStatusCode()] {
		o.well(s, result)
		return true
	}
	charged = !s.open()
	o.unwell(s, at)
	if s.mode == Active && o.now-s.failing >= o.limits.GetDisableAfterMs() {
		o.stop(s, Disabled)
	}
	return charged
}

func (s *oracleSub) open() bool { return len(s.probes) > 0 }

// unwell is told that the endpoint failed, and plans the next probe.
func (o *oracle) unwell(s *oracleSub, at Position) {
	s.streak++
	if s.over == nil {
		s.over = map[Position]bool{}
	}
	s.over[at] = true
	if s.open() && o.now < s.probes[len(s.probes)-1] {
		return // it was sent before the breaker opened
	}
	if s.open() || s.streak >= int(o.limits.GetBreakerFailures()) && len(s.over) >= 3 {
		wait := o.limits.GetProbeFirstMs()
		for range s.probes {
			wait = min(2*wait, o.limits.GetProbeLastMs())
		}
		s.probes = append(s.probes, o.now+min(wait, o.limits.GetProbeLastMs()))
	}
}

// well is told that the endpoint answered, or may do so now.
func (o *oracle) well(s *oracleSub, result *oracleResult) {
	opened := s.open()
	s.streak, s.over, s.probes = 0, nil, nil
	for _, at := range s.positions() {
		if owed := s.owed[at]; opened && owed.Next > o.now {
			owed.Next = o.now
			s.owed[at] = owed
			s.note(result, Rescheduled, at)
		}
	}
}

// pace says how the subscription may be sent to.
func (s *oracleSub) pace() Pace {
	pace := Pace{Stopped: s.mode != Active, Probing: s.open()}
	if s.open() {
		pace.Probe, pace.Newest = s.probes[len(s.probes)-1], len(s.probes)%2 == 0
	}
	return pace
}

// admit takes what the subscription waits for, up to where the leader has read
// the log, whatever it has found there: it must be the same.
func (o *oracle) admit(a *linkv1.Admit, result *oracleResult) {
	next := Position{a.GetNextSequence(), a.GetNextIndex()}
	s := o.subs[Number(a.GetSubscription())]
	if s == nil || !s.behind || s.mode != Active || next.Compare(s.cursor) < 0 {
		return
	}
	for len(s.waiting) > 0 && s.waiting[0].Compare(next) < 0 {
		if o.room(s) <= 0 {
			next = s.waiting[0]
			break
		}
		o.owe(s, s.waiting[0], 0, result)
		s.waiting = s.waiting[1:]
	}
	s.cursor, s.behind = next, next.Compare(o.last) <= 0
}

// readmit makes owed again what is not owed, and does not wait to be.
func (o *oracle) readmit(r *linkv1.Readmit, result *oracleResult) {
	s := o.subs[Number(r.GetSubscription())]
	if s == nil {
		return
	}
	for i, sequence := range r.GetSequences() {
		at := Position{sequence, r.GetIndexes()[i]}
		_, owed := s.owed[at]
		written := sequence > 0 && sequence < o.sequence() && sequence >= o.kept
		if waits := s.behind && at.Compare(s.cursor) >= 0; written && !owed && !waits {
			o.owe(s, at, r.GetAttempts()[i], result)
		}
	}
}

func (o *oracle) publish(at Position, e *linkv1.LoggedEvent, result *oracleResult) {
	o.events[at], o.last = e, at
	if !e.GetIdGenerated() && !o.seen(e.GetTenant(), e.GetId()) {
		o.window = append(o.window, oracleID{e.GetTenant(), e.GetId(), o.now})
	}
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
			o.owe(s, at, 0, result)
		}
	}
}

func (o *oracle) owe(s *oracleSub, at Position, attempts uint32, result *oracleResult) {
	s.owed[at] = oracleOwed{Attempts: attempts, Next: o.now}
	o.owed[Delivery{s.number, at}] = true
	s.note(result, Owed, at)
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
	if s.failures >= 5 && o.outstanding() >= int(o.limits.GetOutstandingPartition())/2 {
		limit = min(limit, 4)
	}
	return limit - len(s.owed)
}

// laggards is who is behind and worth reading the log for, and for how many
// deliveries. One whose breaker is open needs only something to be probed with.
func (o *oracle) laggards() map[Number]int {
	rooms := map[Number]int{}
	for number, s := range o.subs {
		if s != nil && s.behind && s.mode == Active && o.room(s) > 0 && o.room(s) >= len(s.owed) &&
			(!s.open() || len(s.owed) == 0) {
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

// oldestSince asks every delivery that is owed since when it is.
func oldestSince(l *Ledger) (oldest int64) {
	for _, s := range l.subscriptions {
		for _, o := range s.owed {
			if oldest == 0 || o.since < oldest {
				oldest = o.since
			}
		}
	}
	return oldest
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
	if want := oldestSince(l); l.OldestSince() != want {
		return fmt.Errorf("the oldest delivery is owed since %d, want %d", l.OldestSince(), want)
	}
	if l.KeptFrom() != o.kept {
		return fmt.Errorf("kept from %d on, want %d", l.KeptFrom(), o.kept)
	}
	if l.KeptFrom() > l.Floor() {
		return fmt.Errorf("kept from %d on, but %d is owed", l.KeptFrom(), l.Floor())
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
	if err := o.compareTimes(l); err != nil {
		return err
	}
	if err := o.compareReplays(l); err != nil {
		return err
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
		owed[at.Position] = oracleOwed{at.Attempts, at.Charged, at.Next.UnixMilli()}
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
	health := Health{
		Mode: want.mode, ModeSince: unixMs(want.since),
		Failures: uint64(want.failures), Since: unixMs(want.failing), Open: want.open(),
	}
	if want.open() {
		health.NextProbe = time.UnixMilli(want.pace().Probe)
	}
	had := got.Health()
	if (had.ModeReason == "") != (want.mode == Active) {
		return fmt.Errorf("the reason of mode %v is %q", want.mode, had.ModeReason)
	}
	had.ModeReason = ""
	if had != health {
		return fmt.Errorf("health (-want +got):\n%s", gocmp.Diff(health, had))
	}
	if got.Pace() != want.pace() {
		return fmt.Errorf("pace is %+v, want %+v", got.Pace(), want.pace())
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

// compareTimes asks where in the log some times are.
func (o *oracle) compareTimes(l *Ledger) error {
	for i := 0; i < len(o.times); i += 10 {
		for _, at := range []int64{o.times[i] - 1, o.times[i], o.times[i] + markEvery.Milliseconds()} {
			from := l.SequenceAt(time.UnixMilli(at))
			for j, written := range o.times {
				sequence := uint64(j + 1)
				if sequence < from && written > at {
					return fmt.Errorf("record %d is before %d, where %d is, but of %d", sequence, from, at, written)
				}
				if sequence >= max(1, from) && from >= o.trimmed && written <= at-markEvery.Milliseconds() {
					return fmt.Errorf("record %d is of %d, but %d is at %d", sequence, written, at, from)
				}
			}
		}
	}
	return nil
}

// compareReplays compares what is remembered of replays.
func (o *oracle) compareReplays(l *Ledger) error {
	if got, want := l.Replays(), slices.Sorted(maps.Keys(o.replays)); !slices.Equal(got, want) {
		return fmt.Errorf("replays are %v, want %v", got, want)
	}
	for id, want := range o.replays {
		if got := l.Replay(id); !proto.Equal(got, want) {
			return fmt.Errorf("replay %s is %v, want %v", id, got, want)
		}
	}
	return nil
}

// resultOf reduces what a ledger reports to what the oracle predicts.
func resultOf(result Result) oracleResult {
	return oracleResult{changesOf(result), result.Expired}
}

func changesOf(result Result) []oracleChange {
	var changes []oracleChange
	for _, c := range result.Deliveries {
		changes = append(changes, oracleChange{c.Delivery, c.Kind, c.Attempts, c.Charged, c.Next})
	}
	return changes
}

// compareDeliveries orders deliveries by subscription, then by position.
func compareDeliveries(a, b Delivery) int {
	return cmp.Or(cmp.Compare(a.Subscription, b.Subscription), a.Position.Compare(b.Position))
}

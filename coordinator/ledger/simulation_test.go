package ledger

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	defaultSeeds = 200 // how many seeds are simulated, unless SEEDS says so
	simRecords   = 120 // records of one simulation, before it is brought to its end
)

// TestSimulation folds random records and compares the ledger with the oracle
// after each. SEEDS=5000 tries more; -run 'TestSimulation/seed=17$' repeats one.
func TestSimulation(t *testing.T) {
	seeds := uint64(defaultSeeds)
	if given := os.Getenv("SEEDS"); given != "" {
		var err error
		if seeds, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("SEEDS: %v", err)
		}
	}
	var all simStats
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := newSimulation(seed)
			if err := s.run(); err != nil {
				t.Fatalf("seed %d, record %d: %v", seed, s.book.ledger.Sequence(), err)
			}
			all.add(s.stats)
		})
	}
	t.Logf("%+v", all)
	if !t.Failed() && seeds >= defaultSeeds {
		all.check(t)
	}
}

// simStats counts what a simulation came across: one that never meets the
// hard cases proves nothing.
type simStats struct {
	WentBehind, CameBack, StaleAdmits, Failing, OverBudget, IgnoredOutcomes int
	// Proposals of those that changed while behind, once and more often.
	OneEra, SeveralEras int
	// Breakers, attempts that were not charged, and of these those that their
	// workers took for the last.
	Opened, Closed, Uncharged, Spared int
	// Modes, and stretches of the log.
	Paused, Disabled, Resumed, GivenUp, Ranges int
	Readmitted, KeptOut                        int
	Kinds                                      [Cancelled + 1]int
}

// counts are all of them.
func (a *simStats) counts() []*int {
	counts := []*int{
		&a.WentBehind, &a.CameBack, &a.StaleAdmits, &a.Failing, &a.OverBudget, &a.IgnoredOutcomes, &a.OneEra,
		&a.SeveralEras, &a.Opened, &a.Closed, &a.Uncharged, &a.Spared, &a.Paused, &a.Disabled, &a.Resumed, &a.GivenUp,
		&a.Ranges, &a.Readmitted, &a.KeptOut,
	}
	for kind := range a.Kinds {
		counts = append(counts, &a.Kinds[kind])
	}
	return counts
}

func (a *simStats) add(b simStats) {
	more := b.counts()
	for i, count := range a.counts() {
		*count += *more[i]
	}
}

func (a *simStats) check(t *testing.T) {
	for _, count := range a.counts() {
		if *count < 100 {
			t.Errorf("some case hardly ever happened: %+v", *a)
			return
		}
	}
}

// simulation is a leader, its workers and their endpoints, by one seed.
type simulation struct {
	rng     *rand.Rand
	book    *book
	oracle  *oracle
	records []*linkv1.Record
	clock   int64
	moods   map[Number]float64 // of endpoints: how likely an attempt fails
	sent    []Reported         // outcomes reported so far, some to come again
	admits  []*linkv1.Admit    // proposed so far, some to come late or again
	ended   map[Delivery]int   // how often since it was readmitted, by what the ledger reported
	again   map[Delivery]bool  // owed because it was readmitted: the limits do not count it
	paces   map[Number]Pace    // as reported
	most    int                // the highest limit of one subscription so far
	budget  int                // and of the partition
	stats   simStats

	// sabotage, if set, may damage the ledger after a record and says whether
	// it has.
	sabotage func(*simulation) bool
}

func newSimulation(seed uint64) *simulation {
	return &simulation{
		rng: rand.New(rand.NewPCG(seed, 1)), book: newBook(), oracle: newOracle(), clock: 1_000_000,
		moods: map[Number]float64{}, ended: map[Delivery]int{}, again: map[Delivery]bool{}, paces: map[Number]Pace{},
	}
}

// run returns the first difference between ledger and oracle.
func (s *simulation) run() error {
	for range simRecords {
		record, outcomes := s.nextRecord()
		if err := s.fold(record, outcomes); err != nil {
			return err
		}
	}
	return s.finish()
}

// fold folds a record on both sides and compares.
func (s *simulation) fold(record *linkv1.Record, outcomes []Reported) error {
	l := s.book.ledger
	// Columns are relative to the time the fold counts by.
	record.Outcomes = EncodeOutcomes(max(l.Time(), record.GetTimeUnixMs()), outcomes)
	behind := l.BehindCount()
	s.countControls(record)
	result, err := s.book.append(record)
	if err != nil {
		return err
	}
	s.records = append(s.records, record)
	if diff := gocmp.Diff(s.oracle.fold(record, outcomes), resultOf(result)); diff != "" {
		return fmt.Errorf("result (-want +got):\n%s", diff)
	}
	s.count(record, result, len(outcomes), l.BehindCount()-behind)
	if s.sabotage != nil && s.sabotage(s) {
		s.sabotage = nil
	}
	if err := s.oracle.compare(l); err != nil {
		return err
	}
	if err := s.comparePaces(result); err != nil {
		return err
	}
	return s.invariants(record, result)
}

// comparePaces checks that every change of how one may be sent to is reported.
func (s *simulation) comparePaces(result Result) error {
	for _, change := range result.Subscriptions {
		if change.Current == nil {
			delete(s.paces, change.Number)
		}
	}
	for _, sub := range result.Paced {
		s.paces[sub.Number] = sub.Pace()
	}
	for _, sub := range s.book.ledger.Subscriptions() {
		if sub.Pace() != s.paces[sub.Number] {
			return fmt.Errorf("subscription %d: pace is %+v, reported was %+v", sub.Number, sub.Pace(), s.paces[sub.Number])
		}
	}
	return nil
}

// countControls counts what is about to be done.
func (s *simulation) countControls(record *linkv1.Record) {
	for _, c := range record.GetControls() {
		sub := s.book.ledger.Subscription(Number(c.GetSubscription()))
		switch {
		case sub == nil:
		case c.GetAction() == linkv1.Control_PAUSE && sub.mode == Active:
			s.stats.Paused++
		case c.GetAction() == linkv1.Control_RESUME && sub.mode != Active:
			s.stats.Resumed++
		case c.GetAction() == linkv1.Control_RESUME_FROM_NOW && sub.mode != Active:
			s.stats.GivenUp++
		}
	}
}

func (s *simulation) count(record *linkv1.Record, result Result, outcomes, behind int) {
	s.stats.WentBehind += max(0, behind)
	s.stats.CameBack += max(0, -behind)
	s.stats.IgnoredOutcomes += outcomes
	s.stats.Ranges += len(result.Expired)
	for _, c := range result.Deliveries {
		s.stats.Kinds[c.Kind]++
		if c.Outcome != nil {
			s.stats.IgnoredOutcomes--
		}
		if c.Kind == Owed && s.ended[c.Delivery] > 0 {
			s.stats.Readmitted++
		}
		if c.Kind == Retried && c.Charged < c.Attempts {
			s.stats.Uncharged++
		}
		if c.Kind == Retried && c.Outcome.GetErrorClass() == lastAttempt {
			s.stats.Spared++
		}
	}
	for _, sub := range result.Paced {
		switch was, is := s.paces[sub.Number], sub.Pace(); {
		case is.Probing && !was.Probing:
			s.stats.Opened++
		case was.Probing && !is.Probing:
			s.stats.Closed++
		}
	}
	for _, sub := range s.book.ledger.Subscriptions() {
		if sub.Failing() {
			s.stats.Failing++
		}
		if sub.mode == Disabled {
			s.stats.Disabled++
		}
	}
	if s.book.ledger.Outstanding() >= int(s.oracle.limits.GetOutstandingPartition()) {
		s.stats.OverBudget++
	}
	for _, r := range record.GetReadmits() {
		if s.oracle.subs[Number(r.GetSubscription())] != nil {
			s.stats.KeptOut += len(slices.DeleteFunc(slices.Clone(r.GetSequences()), func(sequence uint64) bool {
				return sequence == 0 || sequence >= s.oracle.kept
			}))
		}
	}
	for _, a := range record.GetAdmits() {
		sub := s.oracle.subs[Number(a.GetSubscription())]
		if sub != nil && sub.behind && sub.cursor != (Position{a.GetNextSequence(), a.GetNextIndex()}) {
			s.stats.StaleAdmits++
		}
	}
}

// invariants checks what must hold whatever the oracle thinks.
func (s *simulation) invariants(record *linkv1.Record, result Result) error {
	readmitted := map[Delivery]bool{}
	for _, r := range record.GetReadmits() {
		for i, sequence := range r.GetSequences() {
			readmitted[Delivery{Number(r.GetSubscription()), Position{sequence, r.GetIndexes()[i]}}] = true
		}
	}
	for _, c := range result.Deliveries {
		ends := false
		switch c.Kind {
		case Owed:
			if readmitted[c.Delivery] {
				s.again[c.Delivery], s.ended[c.Delivery] = true, 0
			}
		case Retried, Rescheduled:
		case Delivered, Died, Expired, Cancelled:
			ends = true
			s.ended[c.Delivery]++
			delete(s.again, c.Delivery)
		}
		if s.ended[c.Delivery] > 1 || s.ended[c.Delivery] == 1 && !ends {
			return fmt.Errorf("%v: change %d after its end", c.Delivery, c.Kind)
		}
	}
	limits := s.oracle.limits
	s.most = max(s.most, int(limits.GetOutstandingHealthy()), int(limits.GetOutstandingFailing()))
	s.budget = max(s.budget, int(limits.GetOutstandingPartition()))
	all := s.book.ledger.Subscriptions()
	again := map[Number]int{}
	for d := range s.again {
		again[d.Subscription]++
	}
	for _, sub := range all {
		if got := sub.OutstandingCount() - again[sub.Number]; got > s.most {
			return fmt.Errorf("subscription %d is owed %d, more than the limit of %d", sub.Number, got, s.most)
		}
	}
	if most := s.budget + reserved*len(all); s.book.ledger.Outstanding()-len(s.again) > most {
		return fmt.Errorf("%d are owed, more than the budget allows: %d", s.book.ledger.Outstanding(), most)
	}
	return nil
}

// nextRecord makes the next record, with its outcomes apart.
func (s *simulation) nextRecord() (*linkv1.Record, []Reported) {
	s.clock += s.rng.Int64N(300)
	if s.chance(2) {
		s.clock += s.rng.Int64N(2 * markEvery.Milliseconds())
	}
	record := &linkv1.Record{TimeUnixMs: s.clock}
	if s.chance(5) {
		record.TimeUnixMs -= s.rng.Int64N(500) // the next leader's clock is behind
	}
	if len(s.records) == 0 || s.chance(2) {
		record.Fence = fence(s.limits())
	}
	if s.chance(10) {
		record.Tenants = append(record.Tenants, s.tenantChange())
	}
	if s.chance(25) || len(s.records) < 3 {
		s.changeSubscriptions(record)
	}
	if s.chance(15) {
		s.control(record)
	}
	if s.chance(5) {
		s.expire(record)
	}
	if s.chance(5) {
		record.PurgeBefore = s.rng.Uint64N(uint64(len(s.records)) + 10) // whatever is owed
	}
	if s.chance(5) {
		record.Replays = append(record.Replays, s.replayChange())
	}
	outcomes := s.outcomes()
	if s.chance(50) {
		s.admit(record)
	}
	if s.chance(10) {
		s.readmit(record)
	}
	if s.chance(60) {
		for range s.rng.IntN(7) {
			record.Events = append(record.Events, s.event())
		}
	}
	return record, outcomes
}

func (s *simulation) chance(percent int) bool { return s.rng.IntN(100) < percent }

// limits returns small limits, so that they are often met. With half of the
// seeds it is the budget that is met, and so they are above what is reserved.
func (s *simulation) limits() *linkv1.Limits {
	limits := &linkv1.Limits{
		OutstandingHealthy:   uint32(1 + s.rng.IntN(6)),
		OutstandingFailing:   uint32(1 + s.rng.IntN(3)),
		OutstandingPartition: 1000,
		IdempotencyMs:        1 + s.rng.Int64N(2000),
		IdempotencyCount:     uint32(1 + s.rng.IntN(30)),
		BreakerFailures:      uint32(3 + s.rng.IntN(4)),
		ProbeFirstMs:         1 + s.rng.Int64N(300),
		ProbeLastMs:          1 + s.rng.Int64N(3000),
		DisableAfterMs:       1000 + s.rng.Int64N(20_000),
		ExpiredRecord:        uint32(1 + s.rng.IntN(20)),
	}
	if s.chance(50) {
		limits.OutstandingHealthy = uint32(reserved + s.rng.IntN(20))
		limits.OutstandingPartition = uint32(20 + s.rng.IntN(40))
	}
	return limits
}

func (s *simulation) tenant() string { return []string{"acme", "umbrella", "wonka"}[s.rng.IntN(3)] }

func (s *simulation) tenantChange() *linkv1.TenantChange {
	if s.chance(70) {
		return putTenant(s.tenant())
	}
	return &linkv1.TenantChange{Id: s.tenant()}
}

func (s *simulation) event() *linkv1.LoggedEvent {
	e := event(s.tenant(), fmt.Sprintf("ev_%d", s.rng.IntN(100)), someType(s.rng))
	e.IdGenerated = s.chance(20)
	return e
}

// changeSubscriptions creates, changes and deletes some, also the same one
// twice in a record. One that is behind is changed no more often than it
// remembers: beyond that it is sent more than the oracle expects.
func (s *simulation) changeSubscriptions(record *linkv1.Record) {
	next := s.book.ledger.NextNumber()
	for range 1 + s.rng.IntN(3) {
		change, url := put(next, s.tenant(), fmt.Sprintf("sub_%d", next), somePatterns(s.rng)...), ""
		number := Number(1 + s.rng.Uint64N(uint64(next)))
		known := s.book.ledger.Subscription(number)
		if lag := s.laggard(); lag != nil && s.chance(40) {
			number, known = lag.Number, lag
		}
		switch {
		case number < next && s.chance(30):
			change = remove(number)
		case known != nil && len(known.eras) < maxEras && s.chance(50):
			change = put(number, string(known.Tenant), known.ID(), somePatterns(s.rng)...)
			url = known.Stored.GetSubscription().GetUrl()
		default:
			next++
		}
		if s.chance(30) {
			url = fmt.Sprintf("https://%d.example", s.rng.IntN(3))
		}
		if change.GetPut() != nil {
			change.Put.Subscription.Url = url
		}
		record.Subscriptions = append(record.Subscriptions, change)
	}
}

// control pauses and resumes some.
func (s *simulation) control(record *linkv1.Record) {
	for range 1 + s.rng.IntN(3) {
		record.Controls = append(record.Controls, &linkv1.Control{
			Subscription: s.rng.Uint64N(uint64(s.book.ledger.NextNumber()) + 1),
			Action:       linkv1.Control_Action(s.rng.IntN(len(linkv1.Control_Action_name))),
		})
	}
}

// expire ends what is old, or now and then all that there is.
func (s *simulation) expire(record *linkv1.Record) {
	old := s.rng.Uint64N(40)
	if s.chance(5) {
		record.ExpireBefore = uint64(len(s.records)) + old
	} else if n := uint64(len(s.records)); n > old {
		record.ExpireBefore = n - old
	}
}

func (s *simulation) replayChange() *linkv1.ReplayChange {
	change := &linkv1.ReplayChange{Id: fmt.Sprintf("rpl_%d", s.rng.IntN(5))}
	if s.chance(70) {
		change.Put = &linkv1.StoredReplay{
			Tenant: s.tenant(), AfterSequence: s.rng.Uint64N(100),
			Replay: &fanfarev1.Replay{State: fanfarev1.Replay_State(1 + s.rng.IntN(3))},
		}
	}
	return change
}

// readmit has a few events owed again: whatever a subscription wanted, be it
// owed now, ended or waiting, and now and then what there is not.
func (s *simulation) readmit(record *linkv1.Record) {
	wanted := slices.SortedFunc(maps.Keys(s.oracle.wanted), compareDeliveries)
	if len(wanted) == 0 {
		return
	}
	number := wanted[s.rng.IntN(len(wanted))].Subscription
	readmit := &linkv1.Readmit{Subscription: uint64(number)}
	add := func(at Position) {
		readmit.Sequences, readmit.Indexes = append(readmit.Sequences, at.Sequence), append(readmit.Indexes, at.Index)
		readmit.Attempts = append(readmit.Attempts, s.rng.Uint32N(4))
	}
	if s.chance(10) {
		add(Position{0, 1})
	}
	for _, d := range wanted {
		if d.Subscription == number && s.chance(30) {
			add(d.Position)
		}
	}
	if s.chance(10) {
		add(Position{uint64(len(s.records)) + 1 + s.rng.Uint64N(3), 0})
	}
	record.Readmits = append(record.Readmits, readmit)
}

// laggard returns one of the subscriptions that are behind, or nil.
func (s *simulation) laggard() *Subscription {
	all := slices.DeleteFunc(s.book.ledger.Subscriptions(), func(sub *Subscription) bool { return !sub.behind })
	if len(all) == 0 {
		return nil
	}
	return all[s.rng.IntN(len(all))]
}

// outcomes returns what the workers report for the next record: of what is
// outstanding, of what they have reported before, and of what nobody knows.
func (s *simulation) outcomes() []Reported {
	var reported []Reported
	for _, sub := range s.book.ledger.Subscriptions() {
		if _, ok := s.moods[sub.Number]; !ok || s.chance(3) {
			s.moods[sub.Number] = []float64{0, 0.3, 1}[s.rng.IntN(3)]
		}
		for o := range sub.Outstanding() {
			if s.chance(25) {
				reported = append(reported, s.attempt(Delivery{sub.Number, o.Position}, o.Attempts+1))
			}
		}
	}
	if len(s.sent) > 0 {
		for range s.rng.IntN(3) {
			reported = append(reported, s.sent[s.rng.IntN(len(s.sent))])
		}
	}
	if s.chance(10) {
		unknown := Delivery{Number(s.rng.IntN(100)), Position{s.rng.Uint64N(200), s.rng.Uint32N(9)}}
		reported = append(reported, s.attempt(unknown, 1))
	}
	s.rng.Shuffle(len(reported), func(i, j int) { reported[i], reported[j] = reported[j], reported[i] })
	s.sent = append(s.sent, reported...)
	return reported
}

// attempt returns what came of an attempt, now and then of the wrong one.
func (s *simulation) attempt(d Delivery, attempt uint32) Reported {
	if s.chance(10) {
		attempt = s.rng.Uint32N(attempt + 3)
	}
	kind := linkv1.Outcome_DELIVERED
	switch {
	case s.chance(5):
		kind = []linkv1.Outcome_Kind{linkv1.Outcome_RETURNED, linkv1.Outcome_KIND_UNSPECIFIED, 77}[s.rng.IntN(3)]
	case s.rng.Float64() < s.moods[d.Subscription] && s.chance(20):
		kind = linkv1.Outcome_DEAD
	case s.rng.Float64() < s.moods[d.Subscription]:
		kind = linkv1.Outcome_RETRY
	}
	r := outcome(kind, d, attempt)
	r.Worker = fmt.Sprintf("w%d", s.rng.IntN(3))
	r.Outcome.StartTimeUnixMs, r.Outcome.LatencyUs = s.clock-s.rng.Int64N(100), s.rng.Uint64N(1e6)
	switch kind {
	case linkv1.Outcome_RETRY:
		r.Outcome.NextTimeUnixMs = s.clock + s.rng.Int64N(5000)
		s.fail(r.Outcome)
	case linkv1.Outcome_DEAD:
		s.fail(r.Outcome)
		if r.Outcome.GetErrorClass() == "" {
			r.Outcome.ErrorClass = lastAttempt
		}
	case linkv1.Outcome_DELIVERED, linkv1.Outcome_RETURNED, linkv1.Outcome_KIND_UNSPECIFIED:
	}
	return r
}

// lastAttempt is the error class of outcomes that were DEAD for their worker.
const lastAttempt = "last attempt"

// fail gives a failure a cause: most often that the endpoint is not well.
func (s *simulation) fail(o *linkv1.Outcome) {
	switch n := s.rng.IntN(100); {
	case n < 4:
		o.StatusCode = 404
	case n < 6:
		o.ErrorClass = "payload"
	case n < 7:
		o.StatusCode = 410
	default:
		o.StatusCode = []uint32{0, 408, 429, 500, 503, 599}[s.rng.IntN(6)]
	}
}

// admit catches some of those that are behind up, with a proposal made now, or
// with an old one.
func (s *simulation) admit(record *linkv1.Record) {
	for _, sub := range s.book.ledger.Subscriptions() {
		if _, behind := sub.Behind(); !behind || !s.chance(50) {
			continue
		}
		a := s.propose(sub, s.rng.IntN(20))
		s.admits = append(s.admits, a)
		if s.chance(70) {
			record.Admits = append(record.Admits, a)
		}
	}
	if len(s.admits) > 0 && s.chance(30) {
		record.Admits = append(record.Admits, s.admits[max(0, len(s.admits)-1-s.rng.IntN(10))])
	}
}

// propose reads at most this many events of the log from a subscription's
// cursor on, as a leader does.
func (s *simulation) propose(sub *Subscription, events int) *linkv1.Admit {
	at, _ := sub.Behind()
	interest := sub.Interest()
	s.countEras(interest)
	room := s.oracle.room(s.oracle.subs[sub.Number])
	if s.chance(10) {
		room = 1000 // there was more when it was asked, or a bug
	}
	var found []Position
	for ; at.Sequence <= uint64(len(s.records)); at = (Position{at.Sequence + 1, 0}) {
		published := s.records[at.Sequence-1].GetEvents()
		for ; int(at.Index) < len(published); at.Index++ {
			e := published[at.Index]
			wants := sub.Tenant == TenantID(e.GetTenant()) && interest.Wants(at.Sequence, e.GetType())
			if events == 0 || wants && len(found) >= room {
				return admit(sub.Number, at, found...)
			}
			if wants {
				found = append(found, at)
			}
			events--
		}
	}
	return admit(sub.Number, at, found...)
}

func (s *simulation) countEras(interest Interest) {
	switch len(interest.eras) {
	case 0:
	case 1:
		s.stats.OneEra++
	default:
		s.stats.SeveralEras++
	}
}

// finish lets every attempt succeed until nothing is owed and nobody is
// behind, and checks that nothing was lost.
func (s *simulation) finish() error {
	for range 1000 {
		if s.book.ledger.Outstanding() == 0 && s.book.ledger.BehindCount() == 0 {
			return s.nothingLost()
		}
		s.clock++
		record := &linkv1.Record{TimeUnixMs: s.clock}
		var outcomes []Reported
		for _, sub := range s.book.ledger.Subscriptions() {
			for o := range sub.Outstanding() {
				outcomes = append(outcomes, outcome(linkv1.Outcome_DELIVERED, Delivery{sub.Number, o.Position}, o.Attempts+1))
			}
			if _, behind := sub.Behind(); behind {
				record.Admits = append(record.Admits, s.propose(sub, 1000))
			}
			if sub.Health().Mode != Active {
				record.Controls = append(record.Controls, &linkv1.Control{
					Subscription: uint64(sub.Number), Action: linkv1.Control_RESUME,
				})
			}
		}
		if err := s.fold(record, outcomes); err != nil {
			return err
		}
	}
	return errors.New("some stay owed or behind for ever")
}

// nothingLost checks that all that was owed has ended, and that it was what the
// subscriptions wanted when it was published, less what expired or was given up
// unseen: without a look at how they got it.
func (s *simulation) nothingLost() error {
	for _, d := range slices.SortedFunc(maps.Keys(s.oracle.wanted), compareDeliveries) {
		if s.oracle.subs[d.Subscription] != nil && s.ended[d] != 1 && !s.oracle.passed[d] {
			return fmt.Errorf("lost: subscription %d never got %v", d.Subscription, d.Position)
		}
	}
	for _, d := range slices.SortedFunc(maps.Keys(s.ended), compareDeliveries) {
		if !s.oracle.wanted[d] {
			return fmt.Errorf("subscription %d got %v, which it never wanted", d.Subscription, d.Position)
		}
	}
	owed := slices.SortedFunc(maps.Keys(s.oracle.owed), compareDeliveries)
	ended := slices.SortedFunc(maps.Keys(s.ended), compareDeliveries)
	if diff := gocmp.Diff(owed, ended); diff != "" {
		return fmt.Errorf("what was owed and what ended (-owed +ended):\n%s", diff)
	}
	if floor := s.book.ledger.Floor(); floor != s.book.ledger.Sequence()+1 {
		return fmt.Errorf("nothing is owed, but the floor is %d", floor)
	}
	return nil
}

// erasMatter reports whether a subscription waits for an event that it would
// not want by its patterns of now.
func (s *simulation) erasMatter(sub *Subscription) bool {
	waiting := s.oracle.subs[sub.Number].waiting
	return slices.ContainsFunc(waiting, func(at Position) bool {
		return !slowMatch(sub.patterns(), s.oracle.events[at].GetType())
	})
}

// TestSimulationIsNotBlind damages ledgers in ways that bugs would, and wants
// each seen.
func TestSimulationIsNotBlind(t *testing.T) {
	// first damages the first subscription that the function has a use for.
	first := func(damage func(*Ledger, *Subscription) bool) func(*simulation) bool {
		return func(sim *simulation) bool {
			l := sim.book.ledger
			return slices.ContainsFunc(l.Subscriptions(), func(s *Subscription) bool { return damage(l, s) })
		}
	}
	for name, sabotage := range map[string]func(*simulation) bool{
		"a delivery is dropped": first(func(l *Ledger, s *Subscription) bool {
			if len(s.owed) > 0 {
				l.drop(s, s.owed[0].position)
				return true
			}
			return false
		}),
		"a delivery comes again": first(func(l *Ledger, s *Subscription) bool {
			return l.sequence > 20 && s.add(owed{position: Position{1, 0}})
		}),
		"an attempt is not counted": first(func(_ *Ledger, s *Subscription) bool {
			if len(s.owed) > 0 && s.owed[0].attempts > 0 {
				s.owed[0].attempts--
				return true
			}
			return false
		}),
		"a cursor skips an event": first(func(_ *Ledger, s *Subscription) bool {
			s.cursor.Index++
			return s.behind
		}),
		"one that is behind is taken for current": first(func(l *Ledger, s *Subscription) bool {
			if s.behind {
				s.behind = false
				delete(l.behind, s.Number)
				l.tenants[s.Tenant].index.add(s.Number, s.patterns())
				return true
			}
			return false
		}),
		"what one wanted before is forgotten": func(sim *simulation) bool {
			i := slices.IndexFunc(sim.book.ledger.Subscriptions(), sim.erasMatter)
			if i >= 0 {
				sim.book.ledger.Subscriptions()[i].eras = nil
			}
			return i >= 0
		},
		"the index forgets one": first(func(l *Ledger, s *Subscription) bool {
			l.tenants[s.Tenant].index.remove(s.Number, s.patterns())
			return !s.behind
		}),
		"failures are forgotten": first(func(_ *Ledger, s *Subscription) bool {
			found := s.failures > 0
			s.failures = 0
			return found
		}),
		"an attempt is not charged": first(func(_ *Ledger, s *Subscription) bool {
			if len(s.owed) > 0 && s.owed[0].charged > 0 {
				s.owed[0].charged--
				return true
			}
			return false
		}),
		"a breaker is forgotten": first(func(_ *Ledger, s *Subscription) bool {
			if s.breaker.open {
				s.breaker = breaker{}
				return true
			}
			return false
		}),
		"a probe is not counted": first(func(_ *Ledger, s *Subscription) bool {
			found := s.breaker.probes > 0
			s.breaker.probes = 0
			return found
		}),
		"a mode is forgotten": first(func(_ *Ledger, s *Subscription) bool {
			if s.mode != Active {
				s.mode = Active
				return true
			}
			return false
		}),
		"one paused is taken for disabled": first(func(_ *Ledger, s *Subscription) bool {
			if s.mode == Paused {
				s.mode = Disabled
				return true
			}
			return false
		}),
		"an expired stretch waits still": func(sim *simulation) bool {
			until := min(sim.records[len(sim.records)-1].GetExpireBefore(), sim.book.ledger.sequence)
			return first(func(_ *Ledger, s *Subscription) bool {
				found := until > 1 && s.behind && s.cursor == Position{until, 0}
				if found {
					s.cursor.Sequence--
				}
				return found
			})(sim)
		},
		"an expired delivery is owed still": func(sim *simulation) bool {
			until := sim.records[len(sim.records)-1].GetExpireBefore()
			return first(func(l *Ledger, s *Subscription) bool {
				found := until > 1 && s.add(owed{position: Position{until - 1, 0}})
				if found {
					l.outstanding++
				}
				return found
			})(sim)
		},
		"what was given up is forgotten": func(sim *simulation) bool {
			found := sim.book.ledger.keptFrom > 1
			if found {
				sim.book.ledger.keptFrom = 0
			}
			return found
		},
		"times are of other records": func(sim *simulation) bool {
			l := sim.book.ledger
			if len(l.timeline.marks) == 0 || l.sequence < 30 {
				return false
			}
			newest := &l.timeline.marks[len(l.timeline.marks)-1]
			if newest.sequence+20 > l.sequence {
				return false
			}
			newest.sequence = l.sequence
			return true
		},
		"a replay is forgotten": func(sim *simulation) bool {
			found := len(sim.book.ledger.replays) > 0
			clear(sim.book.ledger.replays)
			return found
		},
		"the sum is wrong": func(sim *simulation) bool { sim.book.ledger.outstanding++; return true },
		"an id is forgotten": func(sim *simulation) bool {
			l := sim.book.ledger
			found := l.window.size > 0
			l.window.trim(l.time, 0)
			return found
		},
		"a number is given twice": func(sim *simulation) bool { sim.book.ledger.nextNumber--; return true },
	} {
		t.Run(name, func(t *testing.T) {
			damaged := 0
			for seed := uint64(0); seed < 100 && damaged < 5; seed++ {
				s := newSimulation(seed)
				s.sabotage = sabotage
				err := s.run()
				switch {
				case s.sabotage != nil && err != nil:
					t.Errorf("seed %d: failed before there was damage: %v", seed, err)
				case s.sabotage != nil: // there was nothing to damage
				case err == nil:
					t.Errorf("seed %d: the damage was not seen", seed)
					damaged++
				default:
					damaged++
				}
			}
			if damaged < 5 {
				t.Errorf("only %d ledgers could be damaged", damaged)
			}
		})
	}
}

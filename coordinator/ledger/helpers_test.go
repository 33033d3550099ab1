package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// book is a ledger with the log it was folded from.
type book struct {
	ledger *Ledger
	log    [][]byte // record i has the sequence i+1
}

func newBook() *book { return &book{ledger: New()} }

// begin returns a book whose first record is a fence with these limits.
func begin(t testing.TB, limits *linkv1.Limits) *book {
	t.Helper()
	b := newBook()
	b.must(t, &linkv1.Record{Fence: fence(limits)})
	return b
}

// append chains a record to the log and folds it, as read back from its bytes.
// The log is as before if the fold refuses it.
func (b *book) append(record *linkv1.Record) (Result, error) {
	b.chain(record)
	data, err := proto.Marshal(record)
	if err != nil {
		return Result{}, err
	}
	result, err := foldBytes(b.ledger, data)
	if err == nil {
		b.log = append(b.log, data)
	}
	return result, err
}

// chain gives a record the epoch and the hash it needs to be the next one.
func (b *book) chain(record *linkv1.Record) {
	record.PreviousHash, record.Epoch = b.ledger.Hash(), b.ledger.Epoch()
	if record.GetFence() != nil {
		record.Epoch++
	}
}

// must appends a record that has to fold.
func (b *book) must(t testing.TB, record *linkv1.Record) Result {
	t.Helper()
	result, err := b.append(record)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// foldBytes folds the record that follows, given as the log has it.
func foldBytes(l *Ledger, data []byte) (Result, error) {
	record := new(linkv1.Record)
	if err := proto.Unmarshal(data, record); err != nil {
		return Result{}, err
	}
	hash := sha256.Sum256(data)
	return l.Fold(l.Sequence()+1, hash[:], record)
}

func fence(limits *linkv1.Limits) *linkv1.Fence {
	return &linkv1.Fence{Coordinator: "c1", FoldVersion: FoldVersion, Limits: limits}
}

func event(tenant, id, eventType string) *linkv1.LoggedEvent {
	return &linkv1.LoggedEvent{Tenant: tenant, Id: id, Type: eventType}
}

func putTenant(id string) *linkv1.TenantChange {
	return &linkv1.TenantChange{Id: id, Put: &fanfarev1.Tenant{DisplayName: "Tenant " + id}}
}

func stored(tenant, id string, patterns ...string) *linkv1.StoredSubscription {
	return &linkv1.StoredSubscription{
		Tenant: tenant, Id: id, Subscription: &fanfarev1.Subscription{EventTypes: patterns},
	}
}

func put(number Number, tenant, id string, patterns ...string) *linkv1.SubscriptionChange {
	return &linkv1.SubscriptionChange{Number: uint64(number), Put: stored(tenant, id, patterns...)}
}

func remove(number Number) *linkv1.SubscriptionChange {
	return &linkv1.SubscriptionChange{Number: uint64(number)}
}

func subscriptions(changes ...*linkv1.SubscriptionChange) *linkv1.Record {
	return &linkv1.Record{Subscriptions: changes}
}

func events(published ...*linkv1.LoggedEvent) *linkv1.Record {
	return &linkv1.Record{Events: published}
}

func outcome(kind linkv1.Outcome_Kind, d Delivery, attempt uint32) Reported {
	return Reported{Worker: "w1", Outcome: &linkv1.Outcome{
		Kind: kind, Subscription: uint64(d.Subscription),
		Sequence: d.Position.Sequence, Index: d.Position.Index, Attempt: attempt,
	}}
}

func admit(number Number, next Position, positions ...Position) *linkv1.Admit {
	a := &linkv1.Admit{Subscription: uint64(number), NextSequence: next.Sequence, NextIndex: next.Index}
	for _, p := range positions {
		a.Sequences = append(a.Sequences, p.Sequence)
		a.Indexes = append(a.Indexes, p.Index)
	}
	return a
}

// readmit is of deliveries that have had so many attempts each.
func readmit(number Number, attempts uint32, positions ...Position) *linkv1.Readmit {
	r := &linkv1.Readmit{Subscription: uint64(number)}
	for _, p := range positions {
		r.Sequences = append(r.Sequences, p.Sequence)
		r.Indexes = append(r.Indexes, p.Index)
		r.Attempts = append(r.Attempts, attempts)
	}
	return r
}

func control(number Number, action linkv1.Control_Action) *linkv1.Control {
	return &linkv1.Control{Subscription: uint64(number), Action: action}
}

func putReplay(id string, state fanfarev1.Replay_State) *linkv1.ReplayChange {
	return &linkv1.ReplayChange{Id: id, Put: &linkv1.StoredReplay{
		Tenant: "acme", Replay: &fanfarev1.Replay{State: state},
	}}
}

func stateHash(t testing.TB, l *Ledger) string {
	t.Helper()
	hash, err := l.StateHash()
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash)
}

func snapshotOf(t testing.TB, l *Ledger) []byte {
	t.Helper()
	data, err := l.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func restored(t testing.TB, data []byte) *Ledger {
	t.Helper()
	l, err := Restore(data)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// contents returns what is in an index: pattern to subscriptions.
func (x *index) contents() map[string][]Number {
	found := map[string][]Number{}
	if len(x.all) > 0 {
		found["(all)"] = x.all
	}
	x.root.collect("", found)
	return found
}

func (d *node) collect(path string, found map[string][]Number) {
	if len(d.here) > 0 {
		found[path+"(here)"] = d.here
	}
	if len(d.rest) > 0 {
		found[path+"(rest)"] = d.rest
	}
	if d.star != nil {
		d.star.collect(path+"*.", found)
	}
	for segment, next := range d.exact {
		next.collect(path+segment+".", found)
	}
}

// consistent checks that what a ledger keeps twice agrees with itself.
func (l *Ledger) consistent() error {
	outstanding, behind := 0, map[Number]*Subscription{}
	indexes := map[TenantID]*index{}
	for id := range l.tenants {
		indexes[id] = &index{}
	}
	for number, s := range l.subscriptions {
		outstanding += len(s.owed)
		if s.behind {
			behind[number] = s
		} else {
			indexes[s.Tenant].add(number, s.patterns())
		}
		if !slices.IsSortedFunc(s.owed, func(a, b owed) int { return a.position.Compare(b.position) }) {
			return fmt.Errorf("subscription %d: positions are out of order", number)
		}
		if err := s.consistentEras(); err != nil {
			return fmt.Errorf("subscription %d: %w", number, err)
		}
		if got := l.SubscriptionByID(s.Tenant, s.ID()); got != s {
			return fmt.Errorf("subscription %d is not found by its id %s", number, s.ID())
		}
	}
	if outstanding != l.Outstanding() {
		return fmt.Errorf("%d outstanding, but %d are counted", outstanding, l.Outstanding())
	}
	if !maps.Equal(behind, l.behind) {
		return fmt.Errorf("behind are %v, not %v", l.behind, behind)
	}
	listed := 0
	for id, t := range l.tenants {
		listed += len(t.all)
		if t.config == nil && len(t.all) == 0 {
			return fmt.Errorf("tenant %s is kept for nothing", id)
		}
		if len(t.all) != len(t.byID) {
			return fmt.Errorf("tenant %s has %d subscriptions, %d by id", id, len(t.all), len(t.byID))
		}
		if !maps.EqualFunc(t.index.contents(), indexes[id].contents(), slices.Equal) {
			return fmt.Errorf("tenant %s: index is %v, not %v", id, t.index.contents(), indexes[id].contents())
		}
	}
	if listed != l.SubscriptionCount() {
		return fmt.Errorf("%d subscriptions, %d in the tenants' lists", l.SubscriptionCount(), listed)
	}
	return nil
}

// consistentEras checks that the eras are of one that is behind, bounded, in
// order, and not over.
func (s *Subscription) consistentEras() error {
	if len(s.eras) > maxEras || !s.behind && len(s.eras) > 0 {
		return fmt.Errorf("has %d eras, behind: %t", len(s.eras), s.behind)
	}
	last := s.cursor.Sequence
	for _, e := range s.eras {
		if e.until <= last {
			return fmt.Errorf("has an era before record %d, after %d", e.until, last)
		}
		last = e.until
	}
	return nil
}

// slowMatch says what Matches should, by regular expressions. The patterns
// must have passed CheckPattern.
func slowMatch(patterns []string, eventType string) bool {
	return slowMatcher(patterns)(eventType)
}

func slowMatcher(patterns []string) func(eventType string) bool {
	var alternatives []string
	for _, p := range patterns {
		p = regexp.QuoteMeta(p)
		switch {
		case p == `\*`:
			p = ".+"
		case strings.HasSuffix(p, `\*\*`):
			p = strings.TrimSuffix(p, `\*\*`) + ".+"
		}
		alternatives = append(alternatives, strings.ReplaceAll(p, `\*`, `[^.]+`))
	}
	if len(patterns) == 0 {
		return func(string) bool { return true }
	}
	return regexp.MustCompile(`^(` + strings.Join(alternatives, "|") + `)$`).MatchString
}

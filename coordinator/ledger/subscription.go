package ledger

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// tenant is what the ledger keeps of a tenant.
type tenant struct {
	config *fanfarev1.Tenant // nil: has subscriptions, but was never put
	index  index             // of its current subscriptions
	byID   map[string]Number
	all    []Number // of its subscriptions, rising
}

// Subscription is what the ledger keeps of a subscription. Its methods may be
// called by the goroutine that owns the ledger only.
type Subscription struct {
	Number Number
	Tenant TenantID
	// Stored is never changed in place, so it may be kept.
	Stored *linkv1.StoredSubscription

	owed         []owed            // by rising position
	lanes        map[Position]Lane // of what is owed, if ordered by key; without those of no lane
	behind       bool              // not in the tenant's index
	cursor       Position          // while behind: first that is not accounted for
	eras         []era             // while behind: what it wanted before
	failures     uint64            // in a row, of whatever kind
	failingSince int64             // unix ms; 0 if the last attempt succeeded
	breaker      breaker
	hold         int64 // unix ms: nothing is sent before, as the endpoint asks; 0: it does not
	mode         Mode
	modeReason   string // why it is not Active
	modeSince    int64  // unix ms; 0 while Active

	hungry              bool // it is in the ledger's set of that name
	neededAt, waitingAt int  // where it is in the ledger's heaps
}

// fewOwed is up to how many deliveries the memory for what a subscription is owed
// grows by an eighth; beyond, it grows by a quarter. There are a hundred thousand
// dead ones that are owed some sixteen each, so to double it would cost more than
// to move it more often.
const fewOwed = 64

// growth is how many more to make room for.
func growth(owed int) int {
	if owed < fewOwed {
		return 1 + owed/8
	}
	return owed / 4
}

// owed is one outstanding delivery.
type owed struct {
	position Position
	attempts uint32 // made so far
	charged  uint32 // of these, how many used up the schedule
	next     int64  // unix ms: when the next one is due
	since    int64  // unix ms
}

// Outstanding is a delivery that is owed, as others see it.
type Outstanding struct {
	Position Position
	Attempts uint32    // made so far
	Charged  uint32    // of these, how many used up the schedule
	Next     time.Time // when the next one is due
}

// ID returns the subscription's id, `sub_…`.
func (s *Subscription) ID() string { return s.Stored.GetId() }

// Failing reports whether its last attempts failed one after the other.
func (s *Subscription) Failing() bool { return s.failures >= failingAfter }

// Behind reports whether it is caught up from the log, and from where on.
func (s *Subscription) Behind() (cursor Position, behind bool) { return s.cursor, s.behind }

// Charged returns how many attempts of a delivery used up its schedule; 0 if
// it is not owed.
func (l *Ledger) Charged(d Delivery) uint32 {
	if s := l.subscriptions[d.Subscription]; s != nil {
		if o := s.find(d.Position); o != nil {
			return o.charged
		}
	}
	return 0
}

// Owes reports whether a delivery is owed now.
func (l *Ledger) Owes(d Delivery) bool {
	s := l.subscriptions[d.Subscription]
	return s != nil && s.find(d.Position) != nil
}

// OutstandingCount returns how many deliveries it is owed.
func (s *Subscription) OutstandingCount() int { return len(s.owed) }

// Outstanding returns the deliveries it is owed, oldest event first.
func (s *Subscription) Outstanding() iter.Seq[Outstanding] {
	return func(yield func(Outstanding) bool) {
		for _, o := range s.owed {
			if !yield(Outstanding{o.position, o.attempts, o.charged, time.UnixMilli(o.next)}) {
				return
			}
		}
	}
}

// Interest returns which event types it wants, and where in the log. It may
// be kept.
func (s *Subscription) Interest() Interest { return Interest{s.patterns(), s.eras} }

func (s *Subscription) patterns() []string {
	return s.Stored.GetSubscription().GetEventTypes()
}

// change says what happened to a delivery.
func (s *Subscription) change(kind ChangeKind, o owed) DeliveryChange {
	change := DeliveryChange{
		Delivery: Delivery{s.Number, o.position}, Kind: kind, Tenant: s.Tenant, ID: s.ID(),
		Lane: s.Lane(o.position), Attempts: o.attempts, Charged: o.charged, Since: o.since,
	}
	if kind == Owed || kind == Retried || kind == Rescheduled {
		change.Next = o.next
	}
	return change
}

func (s *Subscription) search(at Position) (int, bool) {
	return slices.BinarySearchFunc(s.owed, at, func(o owed, p Position) int { return o.position.Compare(p) })
}

// find returns the delivery of a position, or nil. It is good until the set
// changes.
func (s *Subscription) find(at Position) *owed {
	if i, ok := s.search(at); ok {
		return &s.owed[i]
	}
	return nil
}

func (s *Subscription) add(o owed) bool {
	i, found := s.search(o.position)
	if found {
		return false
	}
	if len(s.owed) == cap(s.owed) {
		s.owed = append(slices.Grow([]owed(nil), len(s.owed)+growth(len(s.owed))), s.owed...)
	}
	s.owed = slices.Insert(s.owed, i, o)
	return true
}

func (s *Subscription) remove(at Position) bool {
	i, found := s.search(at)
	if found {
		if i < len(s.owed)/2 { // most often it is among the oldest of very many
			copy(s.owed[1:], s.owed[:i])
			s.owed = s.owed[1:]
		} else {
			s.owed = slices.Delete(s.owed, i, i+1)
		}
		delete(s.lanes, at)
	}
	return found
}

// foldTenant puts or deletes a tenant.
func (l *Ledger) foldTenant(change *linkv1.TenantChange) {
	id := TenantID(change.GetId())
	if change.GetPut() != nil {
		l.tenant(id).config = change.GetPut()
		return
	}
	if t := l.tenants[id]; t != nil {
		t.config = nil
		l.forget(id)
	}
}

// tenant returns the tenant's state, and makes it if need be.
func (l *Ledger) tenant(id TenantID) *tenant {
	t := l.tenants[id]
	if t == nil {
		t = &tenant{byID: make(map[string]Number)}
		l.tenants[id] = t
	}
	return t
}

// forget drops a tenant of which nothing is left.
func (l *Ledger) forget(id TenantID) {
	if t := l.tenants[id]; t.config == nil && len(t.byID) == 0 {
		delete(l.tenants, id)
	}
}

// subscriptionName is what a subscription is called by: its own for life, and
// no other's at the same time.
type subscriptionName struct {
	tenant TenantID
	id     string
}

func nameOf(stored *linkv1.StoredSubscription) subscriptionName {
	return subscriptionName{TenantID(stored.GetTenant()), stored.GetId()}
}

// checkSubscriptions refuses numbers given out of order, ids that are taken,
// and changes of a subscription's tenant or id.
func (l *Ledger) checkSubscriptions(changes []*linkv1.SubscriptionChange) error {
	next := l.nextNumber
	staged := make(map[Number]*linkv1.StoredSubscription) // by this record; nil: deleted
	taken := make(map[subscriptionName]bool)              // where this record changes it
	for _, change := range changes {
		number, put := Number(change.GetNumber()), change.GetPut()
		before, ok := staged[number]
		if s := l.subscriptions[number]; !ok && s != nil {
			before = s.Stored
		}
		name := nameOf(put)
		switch {
		case put == nil && before == nil:
			continue
		case put == nil:
			taken[nameOf(before)] = false
		case before != nil:
			if name != nameOf(before) {
				return fmt.Errorf("%w: subscription %d changes its name", ErrInvalid, number)
			}
		case number > next || number == 0:
			return fmt.Errorf("%w: subscription number %d, next is %d", ErrInvalid, number, next)
		case number < next:
			continue // deleted before: it stays deleted
		default:
			held, ok := taken[name]
			if held || !ok && l.SubscriptionByID(name.tenant, name.id) != nil {
				return fmt.Errorf("%w: subscription id %s of tenant %s is taken", ErrInvalid, name.id, name.tenant)
			}
			taken[name] = true
			next++
		}
		staged[number] = put
	}
	return nil
}

// foldSubscription puts or deletes a subscription.
func (l *Ledger) foldSubscription(change *linkv1.SubscriptionChange, result *Result) {
	number := Number(change.GetNumber())
	s := l.subscriptions[number]
	switch put := change.GetPut(); {
	case put == nil && s == nil:
	case put == nil:
		l.deleteSubscription(s, result)
	case s == nil && number < l.nextNumber:
		// Deleted in the same breath as it was changed: it stays deleted.
	case s == nil:
		l.nextNumber = number + 1
		s = &Subscription{Number: number, Tenant: TenantID(put.GetTenant()), Stored: put}
		l.subscriptions[number] = s
		t := l.tenant(s.Tenant)
		t.byID[s.ID()] = number
		insert(&t.all, number)
		t.index.add(number, s.patterns())
		result.Subscriptions = append(result.Subscriptions, SubscriptionChange{number, s})
	default:
		t, moved := l.tenants[s.Tenant], s.Stored.GetSubscription().GetUrl() != put.GetSubscription().GetUrl()
		ordering := s.Ordering()
		if s.behind {
			s.eras = s.Interest().changed(l.sequence, put.GetSubscription().GetEventTypes()).after(s.cursor.Sequence).eras
			s.Stored = put
		} else {
			t.index.remove(number, s.patterns())
			s.Stored = put
			t.index.add(number, s.patterns())
		}
		result.Subscriptions = append(result.Subscriptions, SubscriptionChange{number, s})
		s.reorder(ordering, result)
		if moved {
			s.letGo(result)
			l.succeeded(s, result) // nothing is known of another endpoint
			l.refile(s)
		}
	}
}

func (l *Ledger) deleteSubscription(s *Subscription, result *Result) {
	l.cancelOwed(s, result)
	l.unfile(s)
	t := l.tenants[s.Tenant]
	if s.behind {
		delete(l.behind, s.Number)
	} else {
		t.index.remove(s.Number, s.patterns())
	}
	delete(t.byID, s.ID())
	drop(&t.all, s.Number)
	delete(l.subscriptions, s.Number)
	l.forget(s.Tenant)
	result.Subscriptions = append(result.Subscriptions, SubscriptionChange{s.Number, nil})
}

// Subscription returns a subscription by its number, or nil.
func (l *Ledger) Subscription(number Number) *Subscription { return l.subscriptions[number] }

// SubscriptionByID returns a tenant's subscription by its id, or nil.
func (l *Ledger) SubscriptionByID(id TenantID, subscription string) *Subscription {
	t := l.tenants[id]
	if t == nil {
		return nil
	}
	return l.subscriptions[t.byID[subscription]]
}

// TenantSubscriptions returns at most limit of a tenant's subscriptions, in
// the order they were created, from those with a number above after.
func (l *Ledger) TenantSubscriptions(id TenantID, after Number, limit int) []*Subscription {
	t := l.tenants[id]
	if t == nil {
		return nil
	}
	first, isThere := slices.BinarySearch(t.all, after)
	if isThere {
		first++
	}
	rest := t.all[first:]
	var found []*Subscription
	for _, number := range rest[:max(0, min(limit, len(rest)))] {
		found = append(found, l.subscriptions[number])
	}
	return found
}

// Subscriptions returns all subscriptions in the order they were created.
func (l *Ledger) Subscriptions() []*Subscription {
	all := slices.Collect(maps.Values(l.subscriptions))
	sortByNumber(all)
	return all
}

func sortByNumber(all []*Subscription) {
	slices.SortFunc(all, func(a, b *Subscription) int { return cmp.Compare(a.Number, b.Number) })
}

// Stored returns what is stored of every subscription. It may be kept.
func (l *Ledger) Stored() map[Number]*linkv1.StoredSubscription {
	all := make(map[Number]*linkv1.StoredSubscription, len(l.subscriptions))
	for number, s := range l.subscriptions {
		all[number] = s.Stored
	}
	return all
}

// Adopt takes another ledger's copy of what both have stored alike, so that
// there is one of it in memory.
func (l *Ledger) Adopt(stored map[Number]*linkv1.StoredSubscription) {
	for number, s := range l.subscriptions {
		if other := stored[number]; proto.Equal(other, s.Stored) {
			s.Stored = other
		}
	}
}

// Tenant returns a tenant that was put, or nil.
func (l *Ledger) Tenant(id TenantID) *fanfarev1.Tenant {
	if t := l.tenants[id]; t != nil {
		return t.config
	}
	return nil
}

// Tenants returns the ids of the tenants that were put, in order.
func (l *Ledger) Tenants() []TenantID {
	var ids []TenantID
	for id, t := range l.tenants {
		if t.config != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

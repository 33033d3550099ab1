package lead

import (
	"slices"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

const (
	// maxContents is of how many records it is remembered what they hold, and
	// maxKinds how many different kinds of events. Both take about 8 MiB.
	maxContents = 1 << 18
	maxKinds    = 1 << 16
	// skipChecks is how many records one scan looks up in it, over all that
	// are behind: a few milliseconds' work.
	skipChecks = 1 << 18
)

// kind is whose events, and of which type.
type kind struct {
	tenant    ledger.TenantID
	eventType string
}

// contents says which kinds of events the records hold that were written or
// replayed by this leader, so that who is behind reads only records with
// something for it. The zero value knows nothing. It is for one goroutine at a
// time; what view returns is not changed by it.
type contents struct {
	first   uint64     // the record that records[0] is about
	records [][]uint32 // of each record, by index in kinds; nil: not known
	kinds   []kind
	ids     map[kind]uint32
}

// add notes what the record that follows the last one holds.
func (c *contents) add(sequence uint64, record *linkv1.Record) {
	if len(c.records) == 0 {
		c.first = sequence
	}
	held := make([]uint32, 0, 1)
	for i, event := range record.GetEvents() {
		if i > 0 && event.GetType() == record.GetEvents()[i-1].GetType() && event.GetTenant() == record.GetEvents()[i-1].GetTenant() {
			continue
		}
		id, ok := c.id(kind{ledger.TenantID(event.GetTenant()), event.GetType()})
		if !ok {
			held = nil
			break
		}
		held = append(held, id) // a kind may be there more than once
	}
	c.records = append(c.records, held)
	if len(c.records) > maxContents {
		c.records[0] = nil
		c.records = c.records[1:]
		c.first++
	}
}

// id returns a kind's number; false if there are too many to give it one.
func (c *contents) id(k kind) (uint32, bool) {
	id, ok := c.ids[k]
	if ok || len(c.kinds) == maxKinds {
		return id, ok
	}
	if c.ids == nil {
		c.ids = make(map[kind]uint32)
	}
	id = uint32(len(c.kinds)) //nolint:gosec // at most maxKinds
	c.ids[k] = id
	c.kinds = append(c.kinds, k)
	return id, true
}

// view returns the contents as they are now, without ids.
func (c *contents) view() contents {
	return contents{first: c.first, records: slices.Clip(c.records), kinds: slices.Clip(c.kinds)}
}

// none reports whether a record is known to hold nothing of a tenant's that is
// wanted.
func (c *contents) none(sequence uint64, tenant ledger.TenantID, wants func(eventType string) bool) bool {
	if sequence < c.first || sequence-c.first >= uint64(len(c.records)) || c.records[sequence-c.first] == nil {
		return false
	}
	for _, id := range c.records[sequence-c.first] {
		if k := c.kinds[id]; k.tenant == tenant && wants(k.eventType) {
			return false
		}
	}
	return true
}

// skip moves the cursor past records that hold nothing for the subscription. It
// takes what it looks up from checks.
func (lag *laggard) skip(known *contents, checks *int) {
	for lag.cursor.Sequence <= lag.tail && *checks > 0 {
		*checks--
		sequence := lag.cursor.Sequence
		wants := func(eventType string) bool { return lag.interest.Wants(sequence, eventType) }
		if !known.none(sequence, lag.tenant, wants) {
			return
		}
		if lag.admit == nil {
			lag.admit = &linkv1.Admit{Subscription: uint64(lag.subscription)}
		}
		lag.cursor = ledger.Position{Sequence: sequence + 1}
		lag.admit.NextSequence, lag.admit.NextIndex = lag.cursor.Sequence, lag.cursor.Index
	}
}

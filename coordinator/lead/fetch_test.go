package lead

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// TestLaggardScan has subscription 7 of acme, which wanted order.* before
// record 12 and wants invoice.* since, look through a stretch of the log.
func TestLaggardScan(t *testing.T) {
	interest := changedInterest(t, 12)
	stretch := []committed{
		wrote(10, "acme order.a", "acme order.b", "umbrella order.c", "acme invoice.d", "acme order.e"),
		wrote(11, "umbrella order.a"),
		wrote(12, "acme order.a", "acme invoice.b"),
		wrote(13),
		wrote(14, "acme invoice.a", "umbrella invoice.b", "acme invoice.c"),
	}
	first := ledger.Position{Sequence: 10}
	const everything, all = 14, 100 // tail and room
	for _, test := range []struct {
		name    string
		cursor  ledger.Position
		tail    uint64
		room    int
		records []committed
		want    *linkv1.Admit // nil: nothing is proposed
	}{
		{"all of it", first, everything, all, stretch, admit(at(15, 0),
			at(10, 0), at(10, 1), at(10, 4), at(12, 1), at(14, 0), at(14, 2))},
		{"the tail may be beyond the stretch", first, 1000, all, stretch[:2], admit(at(12, 0),
			at(10, 0), at(10, 1), at(10, 4))},

		{"room for one", first, everything, 1, stretch, admit(at(10, 1), at(10, 0))},
		{"room for two: the next is of the same record", first, everything, 2, stretch, admit(at(10, 4),
			at(10, 0), at(10, 1))},
		{"room for three: the next is two records on", first, everything, 3, stretch, admit(at(12, 1),
			at(10, 0), at(10, 1), at(10, 4))},
		{"room for all but one", first, everything, 5, stretch, admit(at(14, 2),
			at(10, 0), at(10, 1), at(10, 4), at(12, 1), at(14, 0))},
		{"just enough room", first, everything, 6, stretch, admit(at(15, 0),
			at(10, 0), at(10, 1), at(10, 4), at(12, 1), at(14, 0), at(14, 2))},

		{"tail within the stretch", first, 12, all, stretch, admit(at(13, 0),
			at(10, 0), at(10, 1), at(10, 4), at(12, 1))},
		{"tail at an empty record", first, 13, all, stretch, admit(at(14, 0),
			at(10, 0), at(10, 1), at(10, 4), at(12, 1))},
		{"tail at the first record", first, 10, all, stretch, admit(at(11, 0),
			at(10, 0), at(10, 1), at(10, 4))},
		{"no room before the tail is reached", first, 12, 3, stretch, admit(at(12, 1),
			at(10, 0), at(10, 1), at(10, 4))},

		{"cursor within the first record", at(10, 1), everything, 2, stretch, admit(at(12, 1),
			at(10, 1), at(10, 4))},
		{"cursor at the last of a record", at(10, 4), 11, all, stretch, admit(at(12, 0), at(10, 4))},
		{"cursor in the middle of the stretch", at(12, 0), everything, all, stretch, admit(at(15, 0),
			at(12, 1), at(14, 0), at(14, 2))},
		{"cursor within a record in the middle", at(14, 1), everything, all, stretch, admit(at(15, 0), at(14, 2))},
		{"the index counts in the cursor's record only", at(12, 1), everything, all, stretch, admit(at(15, 0),
			at(12, 1), at(14, 0), at(14, 2))},
		{"cursor behind the last event of its record", at(10, 5), 10, all, stretch, admit(at(11, 0))},

		{"nothing found moves the cursor", at(11, 0), 11, all, stretch, admit(at(12, 0))},
		{"nothing found to the end of the stretch", at(11, 0), everything, all, stretch[:2], admit(at(12, 0))},
		{"nothing left of the record", at(12, 2), 13, all, stretch, admit(at(14, 0))},

		{"stretch begins behind the cursor", at(9, 0), everything, all, stretch, nil},
		{"stretch begins behind the cursor's record", at(10, 1), everything, all, stretch[1:], nil},
		{"stretch ends before the cursor", at(15, 0), everything, all, stretch, nil},
		{"stretch ends a record before the cursor's", at(12, 1), everything, all, stretch[:2], nil},
		{"no records", first, everything, all, nil, nil},
		{"only the cursor's record", at(12, 0), everything, all, stretch[2:3], admit(at(13, 0), at(12, 1))},
	} {
		t.Run(test.name, func(t *testing.T) {
			lag := laggard{
				subscription: 7, tenant: "acme", interest: interest,
				cursor: test.cursor, tail: test.tail, room: test.room,
			}
			lag.scan(test.records)
			if diff := cmp.Diff(test.want, lag.admit, protocmp.Transform()); diff != "" {
				t.Errorf("admit (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLaggardScanOfAnotherTenant: of the same log, only its own events.
func TestLaggardScanOfAnotherTenant(t *testing.T) {
	stretch := []committed{
		wrote(10, "acme order.a", "umbrella order.a"),
		wrote(11, "umbrella", "acme-2 order.a", " order.a", "acme order.b"),
	}
	for tenant, want := range map[ledger.TenantID]*linkv1.Admit{
		"acme":     admit(at(12, 0), at(10, 0), at(11, 3)),
		"umbrella": admit(at(12, 0), at(10, 1), at(11, 0)),
		"acme-2":   admit(at(12, 0), at(11, 1)),
		"":         admit(at(12, 0), at(11, 2)),
		"nobody":   admit(at(12, 0)),
	} {
		// The interest is in everything: it knows nothing of tenants.
		lag := laggard{subscription: 7, tenant: tenant, cursor: at(10, 0), tail: 11, room: 100}
		lag.scan(stretch)
		if diff := cmp.Diff(want, lag.admit, protocmp.Transform()); diff != "" {
			t.Errorf("admit of tenant %q (-want +got):\n%s", tenant, diff)
		}
	}
}

func at(sequence uint64, index uint32) ledger.Position {
	return ledger.Position{Sequence: sequence, Index: index}
}

// admit is a proposal for subscription 7.
func admit(next ledger.Position, found ...ledger.Position) *linkv1.Admit {
	a := &linkv1.Admit{Subscription: 7, NextSequence: next.Sequence, NextIndex: next.Index}
	for _, p := range found {
		a.Sequences = append(a.Sequences, p.Sequence)
		a.Indexes = append(a.Indexes, p.Index)
	}
	return a
}

// wrote is a record of events, each `tenant type`.
func wrote(sequence uint64, events ...string) committed {
	record := new(linkv1.Record)
	for _, e := range events {
		tenant, eventType, _ := strings.Cut(e, " ")
		record.Events = append(record.Events, &linkv1.LoggedEvent{Tenant: tenant, Type: eventType})
	}
	return committed{sequence: sequence, record: record}
}

// changedInterest returns the interest of a subscription that was behind when
// the record of this sequence changed it from order.* to invoice.*.
func changedInterest(t *testing.T, sequence uint64) ledger.Interest {
	t.Helper()
	state := ledger.New()
	fold := func(record *linkv1.Record) {
		t.Helper()
		record.Epoch, record.PreviousHash = 1, state.Hash()
		if _, err := state.Fold(state.Sequence()+1, bytes.Repeat([]byte{1}, ledger.HashSize), record); err != nil {
			t.Fatal(err)
		}
	}
	put := func(patterns ...string) []*linkv1.SubscriptionChange {
		return []*linkv1.SubscriptionChange{{Number: 1, Put: &linkv1.StoredSubscription{
			Tenant: "acme", Id: "sub_1", Subscription: &fanfarev1.Subscription{EventTypes: patterns},
		}}}
	}
	event := &linkv1.LoggedEvent{Tenant: "acme", Type: "order.a"}
	fold(&linkv1.Record{
		Fence:         &linkv1.Fence{FoldVersion: ledger.FoldVersion, Limits: &linkv1.Limits{OutstandingHealthy: 1}},
		Subscriptions: put("order.*"),
		Events:        []*linkv1.LoggedEvent{event, event},
	})
	for state.Sequence() < sequence-1 {
		fold(&linkv1.Record{Events: []*linkv1.LoggedEvent{event}})
	}
	fold(&linkv1.Record{Subscriptions: put("invoice.*")})
	s := state.Subscription(1)
	if _, behind := s.Behind(); !behind {
		t.Fatal("the subscription is not behind")
	}
	return s.Interest()
}

package lead

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// TestRetention: what nobody took expires once it is old enough, not before, and
// also when nothing else was written in between. It is in the history as such.
func TestRetention(t *testing.T) {
	for _, mode := range []linkv1.Control_Action{linkv1.Control_RESUME, linkv1.Control_PAUSE} {
		t.Run(mode.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.config.Retention = time.Hour
				s.lead(func(l *Leader) {
					s.subscribe(l)
					s.publish(l, "a")
					s.control(l, mode)
					owed := func(want int) {
						t.Helper()
						err := l.Query(t.Context(), func(state *ledger.Ledger) {
							if got := state.Outstanding(); got != want {
								t.Errorf("%d are owed, want %d", got, want)
							}
						})
						if err != nil {
							t.Fatal(err)
						}
					}
					s.pass(time.Hour - time.Second)
					owed(1)
					s.pass(2 * retainInterval)
					owed(0)
					s.pass(5 * time.Minute) // the alert of that it expires is resolved
					records := len(s.records())
					s.pass(time.Hour)
					if grown := len(s.records()) - records; grown > 4 { // where one is behind it is moved on, past those of alerts too
						t.Errorf("%d records were written although nothing is owed", grown)
					}
					if err := l.Followed(t.Context()); err != nil {
						t.Fatal(err)
					}
				})
				rows, err := s.history.Scan(t.Context(), history.ScanQuery{
					Tenant: "default", States: []fanfarev1.Delivery_State{fanfarev1.Delivery_EXPIRED},
				}, history.DeliveryKey{}, 10)
				if err != nil || len(rows) != 1 {
					t.Errorf("expired are %v, %v, want one", rows, err)
				}
			})
		})
	}
}

// TestRetentionOfMuch: one record expires only so many, and the next ones follow
// at once.
func TestRetentionOfMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.config.Retention = time.Hour
		s.config.Limits = &linkv1.Limits{ExpiredRecord: 1}
		const subscriptions = 5
		s.lead(func(l *Leader) {
			for range subscriptions {
				s.subscribe(l)
			}
			s.publish(l, "a")
			s.pass(time.Hour + 2*retainInterval)
			if err := l.Query(t.Context(), func(state *ledger.Ledger) {
				if got := state.Outstanding(); got != 0 {
					t.Errorf("%d are owed", got)
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
		expiring := 0
		for _, c := range s.records() {
			if c.record.GetExpireBefore() > 0 {
				expiring++
			}
		}
		if expiring != subscriptions {
			t.Errorf("%d records expire something, want %d", expiring, subscriptions)
		}
	})
}

// TestNeededOfABlockInFlight: what it makes owed again must not be purged, though
// the ledger does not know of it yet.
func TestNeededOfABlockInFlight(t *testing.T) {
	l := &loop{ledger: roomy(t)}
	check := func(want uint64) {
		t.Helper()
		if got := l.needed(); got != want {
			t.Errorf("needed from %d on, want %d", got, want)
		}
	}
	check(9)
	l.flight = &block{committed: committed{record: &linkv1.Record{}}}
	check(9)
	l.flight.committed.record.Readmits = []*linkv1.Readmit{
		{Subscription: 1}, {Subscription: 1, Sequences: []uint64{9, 10}}, {Subscription: 2, Sequences: []uint64{4, 5}},
	}
	check(4)
}

package lead

import (
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// What an endpoint allows and what a subscription says are both kept: no minute
// has more than the one, no second more than the other.
func TestPaceOf(t *testing.T) {
	for _, tt := range []struct {
		name      string
		rate      float64
		burst     uint32
		perMinute uint32
		want      dispatch.Rate
	}{
		{"neither", 0, 0, 0, dispatch.Rate{}},
		{"its own", 5, 50, 0, dispatch.Rate{PerSecond: 5, Burst: 50}},
		{"the endpoint's", 0, 0, 120, dispatch.Rate{PerSecond: 2, Burst: 1}},
		{"the endpoint's is less", 5, 50, 120, dispatch.Rate{PerSecond: 2, Burst: 1}},
		{"both alike", 2, 50, 120, dispatch.Rate{PerSecond: 2, Burst: 1}},
		{"its own is less", 1, 5, 120, dispatch.Rate{PerSecond: 1, Burst: 5}},
		{"its burst is too much", 1, 500, 120, dispatch.Rate{PerSecond: 1, Burst: 60}},
		{"its usual burst", 100, 0, 12_000, dispatch.Rate{PerSecond: 100, Burst: 10}},
		{"hardly less", 1.999, 9, 120, dispatch.Rate{PerSecond: 1.999, Burst: 1}},
		{"beyond all", 0, 0, 1<<32 - 1, dispatch.Rate{PerSecond: (1<<32 - 1) / 60.0, Burst: 1}},
	} {
		s := &fanfarev1.Subscription{Rate: tt.rate, Burst: tt.burst}
		if tt.perMinute != 0 {
			s.Handshake = &fanfarev1.WebhookHandshake{AllowedRequestsPerMinute: tt.perMinute}
		}
		if got := paceOf(s); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestSameRequest(t *testing.T) {
	change := func(subscription ledger.Number, worker string, start int64, latency uint64) ledger.DeliveryChange {
		return ledger.DeliveryChange{
			Delivery: ledger.Delivery{Subscription: subscription}, Worker: worker,
			Outcome: &linkv1.Outcome{StartTimeUnixMs: start, LatencyUs: latency},
		}
	}
	one := change(1, "w", 1000, 250)
	for _, tt := range []struct {
		name  string
		other ledger.DeliveryChange
		want  bool
	}{
		{"alike", change(1, "w", 1000, 250), true},
		{"of another subscription", change(2, "w", 1000, 250), false},
		{"of another worker", change(1, "v", 1000, 250), false},
		{"later", change(1, "w", 1001, 250), false},
		{"longer", change(1, "w", 1000, 251), false},
		{"no attempt", ledger.DeliveryChange{Delivery: one.Delivery, Worker: "w"}, false},
	} {
		if got := sameRequest(tt.other, one); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

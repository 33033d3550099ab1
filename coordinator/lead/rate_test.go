package lead

import (
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
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

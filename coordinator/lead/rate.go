package lead

import (
	"math"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const secondsPerMinute = 60

// limited is what can have a rate.
type limited interface {
	GetRate() float64
	GetBurst() uint32
}

func rateOf(l limited) dispatch.Rate {
	return dispatch.Rate{PerSecond: l.GetRate(), Burst: l.GetBurst()}
}

// paceOf returns the rate of a subscription: its own, or what its endpoint has
// allowed if that is less. Its burst is cut so that no minute has more than the
// endpoint allows.
func paceOf(s *fanfarev1.Subscription) dispatch.Rate {
	own, perMinute := rateOf(s), float64(s.GetHandshake().GetAllowedRequestsPerMinute())
	allowed := perMinute / secondsPerMinute
	switch {
	case perMinute == 0:
	case own.PerSecond == 0 || own.PerSecond >= allowed:
		own = dispatch.Rate{PerSecond: allowed, Burst: 1}
	default:
		spare := math.Floor(perMinute - own.PerSecond*secondsPerMinute)
		own.Burst = uint32(max(1, min(own.Bursts(), spare)))
	}
	return own
}

package lead

import (
	"testing"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

func TestGate(t *testing.T) {
	begin := time.UnixMilli(1_000_000)
	after := func(d time.Duration) time.Time { return begin.Add(d) }
	type arrival struct {
		worker string
		after  time.Duration
	}
	workers := func(ids ...string) *linkv1.Farewell { return &linkv1.Farewell{Workers: ids} }
	for name, test := range map[string]struct {
		farewell *linkv1.Farewell
		arrivals []arrival
		opens    time.Time
	}{
		"nothing was said":                      {nil, nil, after(presume)},
		"nothing was said, and all are here":    {nil, []arrival{{"w1", 0}, {"w2", time.Millisecond}}, after(presume)},
		"nobody has anything":                   {workers(), nil, time.Time{}},
		"nobody has come":                       {workers("w1"), nil, after(presume)},
		"another has come":                      {workers("w1"), []arrival{{"w2", 0}}, after(presume)},
		"all have come":                         {workers("w1", "w2"), []arrival{{"w2", time.Millisecond}, {"w1", 3 * time.Millisecond}}, after(3*time.Millisecond + utter)},
		"one of two has come":                   {workers("w1", "w2"), []arrival{{"w2", time.Millisecond}}, after(presume)},
		"one has come again":                    {workers("w1"), []arrival{{"w1", 0}, {"w1", 9 * time.Millisecond}}, after(utter)},
		"the last comes when it is open anyway": {workers("w1"), []arrival{{"w1", presume - time.Millisecond}}, after(presume)},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(test.farewell, begin)
			for _, a := range test.arrivals {
				g.heard(a.worker, after(a.after))
			}
			if !g.opens.Equal(test.opens) {
				t.Errorf("opens after %v, want %v", g.opens.Sub(begin), test.opens.Sub(begin))
			}
		})
	}
}

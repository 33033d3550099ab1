package lead

import (
	"context"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// Gauges is how a partition is doing, for those who measure.
type Gauges struct {
	Outstanding   int           // deliveries owed that are known one by one
	OldestAge     time.Duration // of what is owed; 0: nothing is
	OwedBytes     uint64        // of the log, from the oldest record that something is owed of; about
	LogBytes      uint64        // of the log, as far as it is known
	Subscriptions int
	Behind        int // subscriptions
	OpenBreakers  int
	InHand        int    // deliveries that workers have
	Sessions      int    // workers that are attached
	HistoryLag    uint64 // records that the history lacks
	PendingBytes  int64  // of events that wait to be written
	PendingLimit  int64
}

// Gauges returns how the partition is doing. It asks nobody outside of the
// process.
func (l *Leader) Gauges(ctx context.Context) (Gauges, error) {
	var g Gauges
	if err := l.call(ctx, func(loop *loop) { g = loop.gauges() }); err != nil {
		return g, err
	}
	if committed, followed := l.recent.committed.get(), l.followed.get(); followed < committed {
		g.HistoryLag = committed - followed
	}
	g.PendingBytes, g.PendingLimit = l.pendingBytes.Load(), int64(l.config.PendingBytes)
	return g, nil
}

func (l *loop) gauges() Gauges {
	g := Gauges{
		Outstanding:   l.ledger.Outstanding(),
		Subscriptions: l.ledger.SubscriptionCount(),
		Behind:        l.ledger.BehindCount(),
		OpenBreakers:  len(l.open),
		InHand:        l.dispatch.InHand(),
		Sessions:      len(l.sessions),
		LogBytes:      l.room.bytes,
	}
	if since := l.ledger.OldestSince(); since > 0 {
		g.OldestAge = max(0, time.Since(time.UnixMilli(since)))
	}
	if last, floor, kept := l.ledger.Sequence(), l.ledger.Floor(), max(l.ledger.KeptFrom(), 1); floor <= last && kept <= last {
		g.OwedBytes = uint64(float64(g.LogBytes) * float64(last-max(floor, kept)+1) / float64(last-kept+1))
	}
	return g
}

// breakers are the subscriptions whose breaker is open.
type breakers map[ledger.Number]struct{}

func (b *breakers) set(number ledger.Number, open bool) {
	if !open {
		delete(*b, number)
		return
	}
	if *b == nil {
		*b = make(breakers)
	}
	(*b)[number] = struct{}{}
}

// setPace tells the dispatch machine how a subscription may be sent to now.
func (l *loop) setPace(s *ledger.Subscription) {
	pace := s.Pace()
	l.dispatch.SetPace(s.Number, pace)
	l.open.set(s.Number, pace.Probing && l.ledger.Subscription(s.Number) != nil) // it may be gone by now
}

package coordinator

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

// unchosenGrace is how long a partition that nobody is chosen for is left to
// the assigner, when there are several coordinators. Then whoever is first
// takes it, unasked. The wait is drawn from this to twice as much.
const unchosenGrace = 3 * time.Second

// errHandOver ends a leadership because another coordinator was chosen.
var errHandOver = errors.New("another coordinator was chosen to lead the partition")

// turn is whose turn it is to lead a partition.
type turn int

const (
	mine   turn = iota // this member's
	theirs             // another's, who lives
	nobodys
)

// turnOf returns whose turn it is, in the eyes of a member. One that is alone
// leads everything, and does not wait to be asked.
func (l *landscape) turnOf(partition int, self cluster.MemberID) turn {
	_, here := l.members[self]
	switch chosen := l.partitions[partition].chosen; {
	case !here: // the view is not that far yet
		return nobodys
	case chosen == self:
		return mine
	case chosen != "":
		return theirs
	case !l.others(cluster.Coordinator, self):
		return mine
	default:
		return nobodys
	}
}

// awaitTurn returns when this member should lead the partition, or when ctx
// ends. Meanwhile it forgets, after a time, that the member could not.
func (c *Coordinator) awaitTurn(ctx context.Context, member *cluster.Member, partition int) error {
	var unasked <-chan time.Time // while nobody is chosen
	forget := time.NewTimer(unfitFor)
	defer forget.Stop()
	for {
		now, changed := c.view.now()
		switch now.turnOf(partition, c.self()) {
		case mine:
			return nil
		case theirs:
			unasked = nil
		case nobodys:
			if unasked == nil {
				unasked = time.After(unchosenGrace + rand.N(unchosenGrace)) //nolint:gosec // spreading, not secrecy
			}
		}
		select {
		case <-changed:
		case <-unasked:
			return nil
		case <-forget.C:
			c.setFit(ctx, member, partition, true)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whileTurn returns a context that ends with ctx, or with errHandOver as its
// cause once another coordinator is chosen. stop must be called.
func (c *Coordinator) whileTurn(ctx context.Context, partition int) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			now, changed := c.view.now()
			if now.turnOf(partition, c.self()) == theirs {
				cancel(errHandOver)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

func (c *Coordinator) self() cluster.MemberID { return c.config.Member.Info.ID }

// handOverAll has the others take over what is led here, as far as there are
// others, and returns when that is done, when it does not get on, or when ctx
// ends. Done is what another says it leads: until then calls wait here, and
// hear of it by the view, which ends with this life.
func (c *Coordinator) handOverAll(ctx context.Context, m *cluster.Member) {
	if now, _ := c.view.now(); !now.others(cluster.Coordinator, c.self()) {
		return
	}
	telling, cancel := context.WithTimeout(ctx, resignTimeout)
	err := m.Drain(telling)
	cancel()
	if err != nil {
		c.logger.Warn("cannot tell the cluster that this coordinator leaves", "error", err)
		return
	}
	c.logger.Info("handing over partitions")
	led, left := make(map[int]bool), -1
	stuck := time.NewTimer(c.config.HandOverTimeout)
	defer stuck.Stop()
	for {
		now, changed := c.view.now()
		now.keep(led, c.self())
		if len(led) == 0 || !now.others(cluster.Coordinator, c.self()) {
			return
		}
		if len(led) != left {
			left = len(led)
			stuck.Reset(c.config.HandOverTimeout)
		}
		select {
		case <-changed:
		case <-stuck.C:
			c.logger.Warn("leaving with partitions that nobody has taken over", "partitions", left)
			return
		case <-m.Lost():
			return
		case <-ctx.Done():
			return
		}
	}
}

// keep adds to led the partitions that are a member's, and removes those that
// another leads now.
func (l *landscape) keep(led map[int]bool, id cluster.MemberID) {
	for number, p := range l.partitions {
		switch {
		case p.of(id):
			led[number] = true
		case p.ready.Coordinator != "":
			delete(led, number)
		}
	}
}

// led returns how many partitions are a member's.
func (l *landscape) led(id cluster.MemberID) int {
	n := 0
	for _, p := range l.partitions {
		if p.of(id) {
			n++
		}
	}
	return n
}

// of reports whether a member leads the partition, has claimed it, or should
// lead it.
func (p partition) of(id cluster.MemberID) bool {
	return p.owner == id || p.chosen == id || p.ready.Coordinator == id
}

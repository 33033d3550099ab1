package worker

import (
	"testing"
	"testing/synctest"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

func TestPartOf(t *testing.T) {
	for _, tt := range []struct {
		budget, most uint64
		partitions   int
		want         uint64
	}{
		{512, 64, 0, 64},
		{512, 64, 1, 64},
		{512, 64, 8, 64},
		{512, 64, 16, 32},
		{100, 64, 3, 33},
		{2, 64, 3, 1},
	} {
		if got := partOf(tt.budget, tt.most, tt.partitions); got != tt.want {
			t.Errorf("partOf(%d, %d, %d) = %d, want %d", tt.budget, tt.most, tt.partitions, got, tt.want)
		}
	}
}

// welcomes accepts the next session and says whether the leader takes changes of
// credit.
func (l *leader) welcomes(takes bool) (*peer, *linkv1.Hello) {
	l.w.t.Helper()
	p, hello := l.accept()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{
		Epoch: l.epoch, OutcomeIntervalMs: 20, OutcomeBatch: 256, TakesCredit: takes,
	}}})
	return p, hello
}

// What a worker has in hand of all partitions keeps within its budget: with each
// partition that comes all are granted less, and with each that goes more. A
// leader that cannot be told so is told by the next session.
func TestBudgetOverPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 90_000
		w := newWorld(t)
		first, second, third := w.lead(1, "leader-1", 7), w.lead(2, "leader-2", 7), w.lead(3, "leader-3", 7)
		w.start(func(c *Config) { c.MaxBytes, c.CreditBytes = budget, 60_000 })
		lease := w.lease(0)

		w.give(lease, 1, 0)
		one, hello := first.welcomes(true)
		if hello.GetCreditBytes() != 60_000 {
			t.Errorf("alone, a partition is granted %d bytes", hello.GetCreditBytes())
		}
		one.snapshot(one.claim())

		w.give(lease, 2, 0)
		two, hello := second.welcomes(false) // as older versions do
		if hello.GetCreditBytes() != budget/2 {
			t.Errorf("the second is granted %d bytes", hello.GetCreditBytes())
		}
		two.snapshot(two.claim())
		if got := one.next().GetCredit(); got.GetCreditBytes() != budget/2 || got.GetCreditCount() != DefaultCreditCount {
			t.Errorf("then the first is granted %v", got)
		}

		w.give(lease, 3, 0)
		three, hello := third.welcomes(true)
		if hello.GetCreditBytes() != budget/3 {
			t.Errorf("the third is granted %d bytes", hello.GetCreditBytes())
		}
		three.snapshot(three.claim())
		if got := one.next().GetCredit(); got.GetCreditBytes() != budget/3 {
			t.Errorf("then the first is granted %v", got)
		}
		two.silent(patience / 2)
		two.cut <- nil
		two, hello = second.welcomes(true)
		if hello.GetCreditBytes() != budget/3 {
			t.Errorf("anew, the second is granted %d bytes", hello.GetCreditBytes())
		}
		two.snapshot(two.claim())

		w.take(3, 0)
		three.release()
		if got := one.next().GetCredit(); got.GetCreditBytes() != budget/2 {
			t.Errorf("when the third has gone, the first is granted %v", got)
		}
		if got := two.next().GetCredit(); got.GetCreditBytes() != budget/2 {
			t.Errorf("when the third has gone, the second is granted %v", got)
		}
	})
}

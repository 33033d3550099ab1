package dispatch

import (
	"fmt"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// BenchmarkDelivery is the life of one delivery: owed, sent, charged, ended.
func BenchmarkDelivery(b *testing.B) {
	for _, subscriptions := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("subscriptions=%d", subscriptions), func(b *testing.B) {
			d := owned(16, subscriptions, NewCredit(1<<20, 1<<40))
			for number := range subscriptions {
				d.Settle(ledger.Number(number+1), fmt.Sprintf("host-%d", number/10))
			}
			sequence := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				sequence++
				number := ledger.Number(sequence%uint64(subscriptions) + 1)
				d.Owe(ledger.Delivery{Subscription: number, Position: ledger.Position{Sequence: sequence}}, 0, 0)
				for _, send := range d.Next(1, 256) {
					d.Charge(send, 1000)
					d.End(send.Delivery)
					d.Succeeded(send.Subscription)
				}
			}
		})
	}
}

// BenchmarkFanOut is one event owed to 1,000 subscriptions, per event.
func BenchmarkFanOut(b *testing.B) {
	const subscriptions = 1000
	d := owned(16, subscriptions, NewCredit(1<<20, 1<<40))
	sequence := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		sequence++
		for number := ledger.Number(1); number <= subscriptions; number++ {
			d.Owe(ledger.Delivery{Subscription: number, Position: ledger.Position{Sequence: sequence}}, 0, 0)
		}
		for sends := d.Next(1, 256); len(sends) > 0; sends = d.Next(1, 256) {
			for _, send := range sends {
				d.End(send.Delivery)
			}
		}
	}
}

// BenchmarkBacklog is the life of one delivery of a subscription that has
// thousands waiting, which a slow worker takes one by one.
func BenchmarkBacklog(b *testing.B) {
	d := owned(16, 1, NewCredit(1, 1<<40))
	sequence := uint64(0)
	owe := func() {
		sequence++
		d.Owe(ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: sequence}}, 0, int64(sequence))
	}
	for range 8192 {
		owe()
	}
	b.ReportAllocs()
	for b.Loop() {
		owe()
		for _, send := range d.Next(1<<60, 256) {
			d.End(send.Delivery)
		}
	}
}

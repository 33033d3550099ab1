package dispatch

import (
	"math"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// Over ten seconds a rate is held within 5 %, whatever it is, and however late
// it is asked.
func TestBucketHoldsItsRate(t *testing.T) {
	for _, rate := range []Rate{{0.5, 0}, {1, 1}, {7, 3}, {50, 1}, {100, 0}, {1000, 1}, {1000, 200}, {20_000, 0}} {
		for _, late := range []int64{0, 3, 9} {
			var b bucket
			b.set(rate)
			const start = 1_700_000_000_000
			seconds := int64(math.Ceil(max(10, 100/rate.PerSecond)))
			sent, burst := 0, 0
			for now := int64(start); now < start+1000*seconds; now += 1 + late {
				for b.due() <= now {
					b.take(now)
					sent++
				}
				if now == start {
					burst = sent
				}
			}
			got := float64(sent-burst) / float64(seconds)
			if got < 0.95*rate.PerSecond || got > 1.05*rate.PerSecond {
				t.Errorf("%+v, asked every %d ms: %v a second", rate, 1+late, got)
			}
			if most := 1 + int(float64(max(rate.Burst, uint32(rate.PerSecond/10)))+rate.PerSecond*lateness/1e9); burst > most {
				t.Errorf("%+v: %d at once, want at most %d", rate, burst, most)
			}
		}
	}
}

// tokens and due agree.
func TestBucketTokens(t *testing.T) {
	var b bucket
	b.set(Rate{PerSecond: 250, Burst: 10})
	const start = 1_700_000_000_000
	for now := int64(start); now < start+2000; now += 7 {
		n := b.tokens(now)
		for range n {
			if b.due() > now {
				t.Fatalf("at %d there are %d tokens, and none is due", now, n)
			}
			b.take(now)
		}
		if b.due() <= now {
			t.Fatalf("at %d there are %d tokens, and one more is due", now, n)
		}
		if now%3 == 0 && n > 0 {
			b.give()
			if b.tokens(now) != 1 {
				t.Fatalf("%d tokens after one was returned", b.tokens(now))
			}
		}
	}
}

// clock drives a machine by when it wants to be woken, and counts its sends.
func (d *Dispatch) clock(from, until int64, sent func(Send, int64)) {
	for now := from; now < until; {
		for sends := d.Next(now, 256); len(sends) > 0; sends = d.Next(now, 256) {
			for _, send := range sends {
				sent(send, now)
				d.Charge(send, 100)
				d.End(send.Delivery)
				d.Succeeded(send.Subscription)
			}
		}
		at, ok := d.Wake()
		if !ok {
			return
		}
		now = max(now+1, at)
	}
}

// A subscription's rate, and that of a tenant, are held, and all of a tenant
// get the same; whoever has none is not delayed.
func TestRates(t *testing.T) {
	const start, seconds, members = 1_700_000_000_000, 10, 40
	d := owned(16, members+1, NewCredit(1<<20, 1<<40))
	d.Limit(1, Rate{PerSecond: 20})
	var tenant []ledger.Number
	for number := ledger.Number(2); number <= members; number++ {
		tenant = append(tenant, number)
	}
	d.LimitTenant("acme", Rate{PerSecond: 400, Burst: 1}, tenant)
	for sequence := uint64(1); sequence <= 1000; sequence++ {
		for number := ledger.Number(1); number <= members+1; number++ {
			d.Owe(ledger.Delivery{Subscription: number, Position: ledger.Position{Sequence: sequence}}, 0, start)
		}
	}
	counts, all, free := make(map[ledger.Number]int), 0, 0
	d.clock(start, start+1000*seconds, func(send Send, now int64) {
		counts[send.Subscription]++
		switch number := send.Subscription; {
		case number > members && now == start:
			free++
		case number > 1 && number <= members:
			all++
		}
	})
	if counts[1] < 190 || counts[1] > 212 {
		t.Errorf("the limited one was sent %d in %d s, want 200", counts[1], seconds)
	}
	if all < 3800 || all > 4200 {
		t.Errorf("the tenant was sent %d in %d s, want 4000", all, seconds)
	}
	if free != 1000 {
		t.Errorf("who has no limit was sent %d of 1000 at once", free)
	}
	for number := ledger.Number(2); number <= members; number++ {
		if n := counts[number]; n < 90 || n > 115 {
			t.Errorf("subscription %d of the tenant was sent %d of %d", number, n, all)
		}
	}

	d.LimitTenant("acme", Rate{}, tenant)
	clear(counts)
	d.clock(start+1000*seconds, start+1000*seconds+1, func(send Send, _ int64) { counts[send.Subscription]++ })
	if counts[2] < 800 {
		t.Errorf("without the limit %d are sent at once", counts[2])
	}
}

// What was not attempted costs nothing of a rate.
func TestReturnedCostsNoRate(t *testing.T) {
	const start = 1_700_000_000_000
	d := owned(1, 1, NewCredit(100, 1<<40))
	d.Limit(1, Rate{PerSecond: 1, Burst: 1})
	d.LimitTenant("acme", Rate{PerSecond: 1, Burst: 1}, []ledger.Number{1})
	d.Owe(ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: 1}}, 0, start)
	for range 5 {
		sends := d.Next(start, 10)
		if len(sends) != 1 {
			t.Fatalf("%d sends", len(sends))
		}
		d.Return(1, sends[0].Delivery)
	}
}

// A hold delays what waits, and probes.
func TestHold(t *testing.T) {
	d := owned(1, 1, NewCredit(100, 1<<40))
	d.Owe(ledger.Delivery{Subscription: 1, Position: ledger.Position{Sequence: 1}}, 0, 10)
	d.Hold(1, 500)
	if sends := d.Next(499, 10); len(sends) != 0 {
		t.Errorf("sent while held: %v", sends)
	}
	d.SetPace(1, ledger.Pace{Probing: true, Probe: 300, After: 500})
	if sends := d.Next(499, 10); len(sends) != 0 {
		t.Errorf("probed while held: %v", sends)
	}
	if at, ok := d.Wake(); !ok || at != 500 {
		t.Errorf("wakes at %d (%t), want 500", at, ok)
	}
	if sends := d.Next(500, 10); len(sends) != 1 {
		t.Errorf("%d sends after the hold", len(sends))
	}
}

package dispatch

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestCreditOpen(t *testing.T) {
	tests := []struct {
		name   string
		credit Credit
		want   bool
	}{
		{"both left", NewCredit(1, 1), true},
		{"no count", NewCredit(0, 1), false},
		{"no bytes", NewCredit(1, 0), false},
		{"neither", NewCredit(0, 0), false},
		{"the most a worker can grant", NewCredit(math.MaxUint32, math.MaxUint64), true},
		{"overdrawn bytes", Credit{count: 5, bytes: -1}, false},
		{"overdrawn count", Credit{count: -1, bytes: 5}, false},
	}
	for _, tt := range tests {
		if got := tt.credit.Open(); got != tt.want {
			t.Errorf("%s: Open() = %t, want %t", tt.name, got, tt.want)
		}
	}
}

// The last delivery taken may overdraw the bytes; the next is taken when they
// are paid back, not before.
func TestCreditOverdraft(t *testing.T) {
	c := NewCredit(10, 100)
	c.Take()
	c.Charge(40)
	if !c.Open() {
		t.Error("60 bytes are left, and it is not open")
	}
	c.Take()
	c.Charge(250)
	if c.Open() {
		t.Errorf("overdrawn, and open: %+v", c)
	}
	c.Give(40)
	if c.Open() {
		t.Errorf("still overdrawn, and open: %+v", c)
	}
	c.Give(250)
	if want := NewCredit(10, 100); c != want {
		t.Errorf("everything was given back: %+v, want %+v", c, want)
	}
}

// Whatever a worker grants, a few charges do not wrap around.
func TestCreditDoesNotWrap(t *testing.T) {
	c := NewCredit(math.MaxUint32, math.MaxUint64)
	for range 1000 {
		c.Take()
		c.Charge(math.MaxInt32)
	}
	if !c.Open() {
		t.Errorf("not open after 2 TiB: %+v", c)
	}
	for range 1000 {
		c.Give(math.MaxInt32)
	}
	if want := NewCredit(math.MaxUint32, math.MaxUint64); c != want {
		t.Errorf("everything was given back: %+v, want %+v", c, want)
	}
}

// What is granted anew counts from the beginning: what was taken stays taken.
func TestCreditRegrant(t *testing.T) {
	c, before := NewCredit(10, 100), NewCredit(10, 100)
	for range 4 {
		c.Take()
		c.Charge(20)
	}
	less := NewCredit(3, 50)
	c.Regrant(before, less)
	if want := (Credit{count: -1, bytes: -30}); c != want || c.Open() {
		t.Errorf("with less than was taken %+v is left, want %+v", c, want)
	}
	c.Give(20)
	c.Give(20)
	if !c.Open() {
		t.Errorf("not open when enough was given back: %+v", c)
	}
	c.Regrant(less, before)
	if want := (Credit{count: 8, bytes: 60}); c != want {
		t.Errorf("with as much as before %+v is left, want %+v", c, want)
	}
}

// What was taken and not given back, plus what is left, is what was granted.
func TestCreditInvariant(t *testing.T) {
	for seed := range uint64(50) {
		chance := rand.New(rand.NewPCG(seed, 1))
		count, bytes := chance.Uint32N(20), chance.Uint64N(2000)
		c := NewCredit(count, bytes)
		var taken []int // bytes each was charged
		sum := 0
		for range 500 {
			switch {
			case c.Open() && chance.IntN(2) == 0:
				c.Take()
				n := chance.IntN(300)
				c.Charge(n)
				taken, sum = append(taken, n), sum+n
			case len(taken) > 0:
				i := chance.IntN(len(taken))
				c.Give(taken[i])
				sum -= taken[i]
				taken[i] = taken[len(taken)-1]
				taken = taken[:len(taken)-1]
			}
			if c.count+int64(len(taken)) != int64(count) || c.bytes+int64(sum) != int64(bytes) {
				t.Fatalf("seed %d: %+v left of %d deliveries and %d bytes, with %d and %d taken",
					seed, c, count, bytes, len(taken), sum)
			}
			if c.count < 0 {
				t.Fatalf("seed %d: count is %d", seed, c.count)
			}
		}
	}
}

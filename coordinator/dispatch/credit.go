package dispatch

// Credit is how much more a worker takes: deliveries, and bytes of events.
//
// Invariant: what was taken and not given back, plus what is left, is what the
// worker granted. Either may fall below zero: the count by what a worker has
// already when it comes, the bytes because an event's size is known only once
// it is at hand, so that the last one taken may overdraw. Nothing more is taken
// then until that is paid back.
type Credit struct {
	count int64
	bytes int64
}

// NewCredit returns the credit that a worker grants.
func NewCredit(count uint32, bytes uint64) Credit {
	return Credit{count: int64(count), bytes: int64(min(bytes, 1<<62))}
}

// Regrant changes what the worker grants. What is left may be less than nothing
// then, until enough is given back.
func (c *Credit) Regrant(before, now Credit) {
	c.count += now.count - before.count
	c.bytes += now.bytes - before.bytes
}

// Open reports whether one more delivery may be taken.
func (c *Credit) Open() bool { return c.count > 0 && c.bytes > 0 }

// Take takes one delivery. It must be Open, unless the worker has the delivery
// already.
func (c *Credit) Take() { c.count-- }

// Charge takes the bytes of a delivery that was taken.
func (c *Credit) Charge(bytes int) { c.bytes -= int64(bytes) }

// Give returns one delivery that was charged so many bytes.
func (c *Credit) Give(bytes int) {
	c.count++
	c.bytes += int64(bytes)
}

package eventlog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
)

// chain keeps what Append promises about appends that were chained: results
// come in the order of the calls, and none succeeds that is behind one that
// failed. The condition on the last sequence is not enough for that:
//
//   - A writer that was fenced has chained records 8 and 9 behind 7. If the
//     new leader's fence became record 8, the old 8 fails, but the old 9 finds
//     8 to be the last, as it expects. So each append has an id, and one that
//     is chained names the append it stands on.
//   - When only the reply to 8 is lost, 9 is stored, and would report success
//     behind a failure.
type chain struct {
	writer  string         // unique, begins the ids
	closing chan struct{}  // closed by close
	waiting sync.WaitGroup // one for each append under way

	mu     sync.Mutex
	closed bool   // guarded by mu
	count  uint64 // of the appends, ends their ids; guarded by mu
	newest *link  // the last append that was called; guarded by mu
}

// link is one append.
type link struct {
	id      string
	result  chan error    // the caller's; capacity 1, so that nobody waits for the caller
	settled chan struct{} // closed together with the sending of the result
	err     error         // the result; set before settled is closed
}

// begin starts an append and returns the function that waits for its answer.
// That one must return soon after closing was closed. behind is the id of the
// append this one is chained to, empty if it is to none.
type begin func(id, behind string) (wait func() error)

func newChain() *chain {
	return &chain{writer: rand.Text(), closing: make(chan struct{})}
}

// add begins an append, in the order of the calls, and has a goroutine of its
// own wait for the answer. One that is called after another has failed, but
// before that result was received, does not begin at all.
func (c *chain) add(begin begin) <-chan error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	this := &link{id: c.writer + "-" + strconv.FormatUint(c.count, 10), result: make(chan error, 1), settled: make(chan struct{})}
	if c.closed {
		this.settle(ErrClosed)
		return this.result
	}
	ahead, behind := c.newest, ""
	c.newest = this
	switch {
	case ahead == nil:
	case !ahead.isSettled():
		behind = ahead.id
	case ahead.err != nil && len(ahead.result) > 0:
		this.settle(failBehind(ahead.err))
		return this.result
	default:
		ahead = nil
	}
	wait := begin(this.id, behind)
	c.waiting.Go(func() {
		err := wait()
		if ahead != nil {
			<-ahead.settled
			if ahead.err != nil {
				err = failBehind(ahead.err)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		this.settle(err)
	})
	return this.result
}

// settle ends an append. The chain's mutex must be held: add must not see it
// settled without its result, nor a caller the result before it is settled.
func (l *link) settle(err error) {
	l.err = err
	l.result <- err
	close(l.settled)
}

func (l *link) isSettled() bool {
	select {
	case <-l.settled:
		return true
	default:
		return false
	}
}

// failBehind is the result of an append behind one that failed with err. It
// was not stored, unless the one ahead of it was after all.
func failBehind(err error) error {
	for _, kind := range []error{ErrUnknown, ErrClosed} {
		if errors.Is(err, kind) {
			return fmt.Errorf("%w: the append before it failed", kind)
		}
	}
	return fmt.Errorf("%w: the append before it failed", ErrConflict)
}

// check returns ErrClosed once close was called.
func (c *chain) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	return nil
}

// close refuses further appends, ends those under way and waits for them. It
// may be repeated.
func (c *chain) close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
	}
	c.mu.Unlock()
	c.waiting.Wait()
}

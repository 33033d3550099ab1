package coordinator

import (
	"errors"

	"github.com/fanfare-dev/fanfare/coordinator/route"
	"github.com/fanfare-dev/fanfare/internal/cluster"
)

// place is where a partition is led, as far as this coordinator knows.
type place struct {
	route.Place

	ready cluster.PartitionReady // the last known; kept when its key is gone: the log decides who leads, not a lease
	moved chan struct{}          // closed, and replaced, when Place changes
}

// Locate implements route.Directory.
func (c *Coordinator) Locate(partition int) route.Place {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.places[partition]
	p.Moved = p.moved
	return p.Place
}

// learn takes note of who leads what.
func (c *Coordinator) learn(now *landscape) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for number := range c.places {
		ready := now.partitions[number].ready
		if ready.Address == "" || ready.Epoch < c.places[number].ready.Epoch {
			continue
		}
		c.places[number].ready = ready
		c.relocate(number)
		if ready.Coordinator != c.self() {
			c.settle(number)
		}
	}
}

// relocate works out where a partition is led. c.mu must be held.
func (c *Coordinator) relocate(partition int) {
	p := &c.places[partition]
	_, halted := errors.AsType[*HaltedError](c.troubles[partition])
	leader, elsewhere := c.leaders[partition], p.ready.Address != "" && p.ready.Coordinator != c.self()
	var now route.Place
	switch {
	case leader != nil && (!elsewhere || p.ready.Epoch <= leader.Epoch()):
		now.Here = true
	case elsewhere:
		now.Address = p.ready.Address
	case halted:
		now.Here = true // it says why
	}
	if now.Here == p.Here && now.Address == p.Address {
		return
	}
	p.Place = now
	close(p.moved)
	p.moved = make(chan struct{})
}

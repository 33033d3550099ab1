package coordinator

import (
	"errors"
	"fmt"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// haltRetry is the wait before a halted partition is tried again: it goes on
// by itself soon after its data has been put right.
const haltRetry = 30 * time.Second

// The ways out, as the log and the API say them. docs/operations.md has the
// steps.
const (
	remedyData = "restore its data, or give it up on purpose: " +
		"see \"When a partition is halted\" in docs/operations.md"
	remedyVersion = "run the version of Fanfare that has written it, or a newer one: see docs/operations.md"
)

// HaltedError says that a partition cannot be served from the data there is,
// why, and what to do.
type HaltedError struct {
	Partition int
	Err       error // what lead.Halts recognizes
}

// Error says all of it.
func (e *HaltedError) Error() string {
	return fmt.Sprintf("partition %d is halted: %v; %s", e.Partition, e.Err, e.remedy())
}

// Unwrap returns what is wrong with the data.
func (e *HaltedError) Unwrap() error { return e.Err }

func (e *HaltedError) remedy() string {
	if errors.Is(e.Err, ledger.ErrVersion) {
		return remedyVersion
	}
	return remedyData
}

// Halted implements serve.Directory.
func (c *Coordinator) Halted(partition int) error {
	c.mu.Lock()
	trouble := c.troubles[partition]
	c.mu.Unlock()
	if halted, ok := errors.AsType[*HaltedError](trouble); ok && !c.ledElsewhere(partition) {
		return halted
	}
	return nil
}

// HaltedPartitions returns which partitions are halted.
func (c *Coordinator) HaltedPartitions() []int {
	var halted []int
	for partition := range c.config.Partitions {
		if c.Halted(partition) != nil {
			halted = append(halted, partition)
		}
	}
	return halted
}

func (c *Coordinator) ledElsewhere(partition int) bool {
	ready, ok := c.view.ready(partition)
	return ok && ready.Coordinator != c.config.Member.Info.ID
}

// ended takes why a partition is no longer led here, or could not be, and
// returns the wait before it is tried again: the one given, unless it is halted.
// That is said once, not after each attempt.
func (c *Coordinator) ended(partition int, err error, retry time.Duration) (again time.Duration) {
	switch {
	case errors.Is(err, lead.ErrFenced):
		c.logger.Warn("no longer leading", "partition", partition, "error", err, "again_in", retry)
		c.setTrouble(partition, nil) // somebody else leads it
		return retry
	case !lead.Halts(err):
		c.logger.Error("no longer leading", "partition", partition, "error", err, "again_in", retry)
		c.setTrouble(partition, fmt.Errorf("partition %d cannot be led just now: %w", partition, err))
		return retry
	}
	halted := &HaltedError{partition, err}
	if c.setTrouble(partition, halted) {
		c.logger.Error("a partition is halted", "partition", partition, "problem", err,
			"remedy", halted.remedy(), "tried_again_every", haltRetry)
	}
	return haltRetry
}

// setTrouble remembers why a partition cannot be led here, and reports whether
// that is news.
func (c *Coordinator) setTrouble(partition int, trouble error) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.troubles[partition]
	c.troubles[partition] = trouble
	c.relocate(partition)
	if _, halted := errors.AsType[*HaltedError](trouble); halted {
		c.settle(partition)
	}
	return trouble != nil && (before == nil || before.Error() != trouble.Error())
}

// settle takes note that a partition has had a leader, or is halted. c.mu must
// be held.
func (c *Coordinator) settle(partition int) {
	c.settled[partition] = true
	if len(c.settled) == c.config.Partitions {
		c.once.Do(func() { close(c.ready) })
	}
}

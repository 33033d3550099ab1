package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
)

const (
	// holdRetry is the wait before a partition is tried again that could not
	// be led.
	holdRetry = 2 * time.Second
	// resignTimeout bounds what is said to the cluster on the way out.
	resignTimeout = 2 * time.Second
)

// hold campaigns for a partition and leads it, again and again, until ctx
// ends, the member's lease is gone, or the log is silent: lead.ErrSilent.
func (c *Coordinator) hold(ctx context.Context, member *cluster.Member, partition int) error {
	value, err := cluster.EncodeValue(member.ID())
	if err != nil {
		return err
	}
	for {
		claim, err := cluster.Campaign(ctx, member, cluster.PartitionOwnerKey(partition), value)
		if err != nil {
			return err
		}
		err = c.lead(ctx, member, partition)
		c.resign(ctx, claim)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, lead.ErrSilent) {
			return err
		}
		select {
		case <-time.After(c.ended(partition, err)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Coordinator) resign(ctx context.Context, claim cluster.Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	if err := claim.Resign(ctx); err != nil && !errors.Is(err, cluster.ErrLeaseGone) {
		c.logger.Warn("resigning: the lease will expire instead", "error", err)
	}
}

// lead leads a partition until ctx ends or it no longer can.
func (c *Coordinator) lead(ctx context.Context, member *cluster.Member, partition int) error {
	log, err := c.config.Logs.Open(ctx, partition)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() //nolint:errcheck // nothing is lost by it: what counts was answered
	leader, err := lead.New(lead.Config{
		Partition:   partition,
		Coordinator: string(member.ID()),
		Log:         log,
		History:     c.config.History,
		Marks:       marks{c.config.Cluster},
		Secrets:     c.config.Secrets,
		Logger:      c.logger,
		Meter:       c.config.Meter,
		Slots:       c.config.Slots,
		Limits:      c.config.Limits,
		MaxLogBytes: c.config.MaxLogBytes,
		Disk:        c.config.Disk,
		Silence:     c.config.Silence,
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- leader.Run(ctx) }()
	select {
	case err := <-ended:
		return c.orAbort(partition, err)
	case <-leader.Ready():
	}
	c.setLeader(partition, leader)
	announced := c.announce(ctx, member, partition, leader)
	err = c.orAbort(partition, <-ended)
	c.setLeader(partition, nil)
	if announced {
		c.withdraw(ctx, partition, member)
	}
	return err
}

// orAbort returns what ended a leadership, unless that is to end the process.
func (c *Coordinator) orAbort(partition int, err error) error {
	if !errors.Is(err, lead.ErrSilent) {
		return err
	}
	err = fmt.Errorf("leading partition %d: %w", partition, err)
	if c.config.Abort != nil {
		c.config.Abort(err)
	}
	return err
}

// announce tells the cluster where the partition is served. Failing to is
// said, and mended by the next life: this process still serves it.
func (c *Coordinator) announce(ctx context.Context, member *cluster.Member, partition int, leader *lead.Leader) bool {
	value, err := cluster.EncodeValue(cluster.PartitionReady{
		Address: c.config.Member.Info.Address, Epoch: leader.Epoch(), Coordinator: member.ID(),
	})
	for err == nil {
		var ok bool
		key := cluster.PartitionReadyKey(partition)
		if _, ok, err = c.config.Cluster.Put(ctx, key, value, member.Lease(), c.revision(ctx, key)); ok {
			return true
		}
		select {
		case <-time.After(holdRetry / 10):
		case <-leader.Ended():
			return false
		}
		if err != nil && !errors.Is(err, cluster.ErrLeaseGone) && ctx.Err() == nil {
			c.logger.Warn("announcing a partition", "partition", partition, "error", err)
			err = nil
		}
	}
	return false
}

// revision returns the revision of a key, or 0.
func (c *Coordinator) revision(ctx context.Context, key string) int64 {
	entries, err := c.config.Cluster.List(ctx, key)
	if err != nil || len(entries) == 0 || entries[0].Key != key {
		return 0
	}
	return entries[0].Revision
}

// withdraw takes back what announce said.
func (c *Coordinator) withdraw(ctx context.Context, partition int, member *cluster.Member) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	key := cluster.PartitionReadyKey(partition)
	entries, err := c.config.Cluster.List(ctx, key)
	if err == nil && len(entries) > 0 && entries[0].Key == key && entries[0].Lease == member.Lease() {
		_, err = c.config.Cluster.Delete(ctx, key, entries[0].Revision)
	}
	if err != nil {
		c.logger.Warn("withdrawing a partition: the lease will expire instead", "partition", partition, "error", err)
	}
}

func (c *Coordinator) setLeader(partition int, leader *lead.Leader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader == nil {
		delete(c.leaders, partition)
		return
	}
	c.leaders[partition] = leader
	c.troubles[partition] = nil
	c.settle(partition)
}

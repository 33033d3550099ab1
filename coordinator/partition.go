package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
)

const (
	// holdRetry is the longest wait before a partition is tried again that
	// could not be led, unless it is halted; after the first failure it is
	// firstRetry, and doubles.
	holdRetry  = 2 * time.Second
	firstRetry = 100 * time.Millisecond
	// resignTimeout bounds what is said to the cluster on the way out.
	resignTimeout = 2 * time.Second
	// saveTimeout bounds the snapshot with which a handover begins. The
	// partition is served meanwhile.
	saveTimeout = 2 * time.Second
	// retireTimeout bounds making durable what a leader has taken before it
	// hands over. Then what is left is answered with an error.
	retireTimeout = time.Second
	// silenceInterval is how often a leader is asked whether its log answers.
	silenceInterval = 5 * time.Second
	// unfitFor is how long a coordinator that could not lead a partition, which
	// another leads now, is not given it again.
	unfitFor = time.Minute
)

// hold leads a partition whenever it is this member's turn, until ctx ends, the
// member's lease is gone, or the log is silent: lead.ErrSilent.
func (c *Coordinator) hold(ctx context.Context, member *cluster.Member, partition int) error {
	retry := firstRetry
	for {
		if err := c.awaitTurn(ctx, member, partition); err != nil {
			return err
		}
		turn, stop := c.whileTurn(ctx, partition)
		begin := time.Now()
		err := c.take(turn, member, partition)
		if time.Since(begin) > holdRetry {
			retry = firstRetry // it was led, or waited for: this is another matter
		}
		over := turn.Err() != nil
		stop()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, lead.ErrSilent), errors.Is(err, cluster.ErrLeaseGone):
			return err
		case over:
			c.setTrouble(partition, nil) // it is another's now
			retry = firstRetry
			continue
		}
		again := c.ended(partition, err, retry)
		if retry > firstRetry || lead.Halts(err) { // once may be chance
			c.setFit(ctx, member, partition, errors.Is(err, lead.ErrFenced))
		}
		retry = min(2*retry, holdRetry)
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take claims a partition and leads it, once.
func (c *Coordinator) take(turn context.Context, member *cluster.Member, partition int) error {
	value, err := cluster.EncodeValue(member.ID())
	if err != nil {
		return err
	}
	log, err := c.config.Logs.Open(turn, partition) // while another may still lead it
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() //nolint:errcheck // nothing is lost by it: what counts was answered
	claim, err := cluster.Campaign(turn, member, cluster.PartitionOwnerKey(partition), value)
	if err != nil {
		if turn.Err() != nil && !errors.Is(err, cluster.ErrLeaseGone) {
			c.letGo(turn, cluster.PartitionOwnerKey(partition), member) // it may have been taken unheard
		}
		return err
	}
	defer c.resign(turn, claim)
	return c.lead(turn, member, partition, leadership{log, claim})
}

// leadership is what a leader needs of the world: the log, and the claim that
// says that it should.
type leadership struct {
	log   eventlog.Log
	claim cluster.Claim
}

func (c *Coordinator) resign(ctx context.Context, claim cluster.Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	if err := claim.Resign(ctx); err != nil && !errors.Is(err, cluster.ErrLeaseGone) {
		c.logger.Warn("resigning: the lease will expire instead", "error", err)
	}
}

// lead leads a partition until its turn ends, and hands it over then, or until
// it no longer can.
func (c *Coordinator) lead(turn context.Context, member *cluster.Member, partition int, l leadership) error {
	leader, err := lead.New(lead.Config{
		Partition:       partition,
		Coordinator:     string(member.ID()),
		Log:             l.log,
		History:         c.config.History,
		Marks:           marks{c.config.Cluster},
		Secrets:         c.config.Secrets,
		Logger:          c.logger,
		Meter:           c.config.Meter,
		Tracer:          c.config.Tracer,
		TraceDeliveries: c.config.TraceDeliveries,
		TenantMetrics:   c.tenants,
		Slots:           c.config.Slots,
		Limits:          c.config.Limits,
		MaxLogBytes:     c.config.MaxLogBytes,
		Disk:            c.config.Disk,
		Silence:         c.config.Silence,
	})
	if err != nil {
		return err
	}
	leading, stop := context.WithCancel(context.WithoutCancel(turn))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- leader.Run(leading) }()
	select {
	case err := <-ended:
		return c.orAbort(partition, err)
	case <-turn.Done():
		stop()
		return c.orAbort(partition, <-ended)
	case <-leader.Ready():
	}
	c.setLeader(partition, leader)
	announced := c.announce(turn, member, partition, leader)
	select {
	case err = <-c.attend(turn, member, partition, leader, ended):
		c.setLeader(partition, nil)
	case <-turn.Done():
		c.retire(turn, partition, leader)
		c.resign(turn, l.claim) // the next one may begin
		stop()
		err = <-ended
	}
	err = c.orAbort(partition, err)
	if announced {
		c.letGo(turn, cluster.PartitionReadyKey(partition), member)
	}
	return err
}

// attend watches a leadership until it ends or its turn does. Of one whose log
// does not answer the cluster is told, so that another may try.
func (c *Coordinator) attend(turn context.Context, member *cluster.Member, partition int, leader *lead.Leader, ended <-chan error) <-chan error {
	c.setFit(turn, member, partition, true)
	fit := true
	ticker := time.NewTicker(silenceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-leader.Ended():
			return ended
		case <-turn.Done():
			return nil
		case <-ticker.C:
		}
		if silent, err := leader.Silent(turn); err == nil && silent == fit {
			fit = !silent
			c.setFit(turn, member, partition, fit)
		}
	}
}

// setFit tells the cluster whether this coordinator can lead a partition.
func (c *Coordinator) setFit(ctx context.Context, member *cluster.Member, partition int, fit bool) {
	key := cluster.UnfitKey(partition, member.ID())
	now, _ := c.view.now()
	switch unfit := now.unfit[member.ID()][partition]; {
	case fit && unfit:
		c.letGo(ctx, key, member)
	case !fit && !unfit:
		telling, cancel := context.WithTimeout(ctx, resignTimeout)
		defer cancel()
		value, err := cluster.EncodeValue(member.ID())
		if err == nil {
			_, _, err = c.config.Cluster.Put(telling, key, value, member.Lease(), 0)
		}
		if err != nil && ctx.Err() == nil {
			c.logger.Warn("telling that a partition cannot be led here", "partition", partition, "error", err)
		}
	}
}

// retire ends a leadership politely: with nothing taken and not durable, and
// little for the next leader to replay.
func (c *Coordinator) retire(turn context.Context, partition int, leader *lead.Leader) {
	ctx := context.WithoutCancel(turn)
	if errors.Is(context.Cause(turn), errHandOver) {
		saving, cancel := context.WithTimeout(ctx, saveTimeout)
		leader.Save(saving)
		cancel()
		c.logger.Info("handing a partition over", "partition", partition)
	}
	c.setLeader(partition, nil) // calls wait for the next one from here on
	retiring, cancel := context.WithTimeout(ctx, retireTimeout)
	defer cancel()
	leader.Retire(retiring)
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

// letGo deletes a key, if it is on the member's lease.
func (c *Coordinator) letGo(ctx context.Context, key string, member *cluster.Member) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	entries, err := c.config.Cluster.List(ctx, key)
	if err == nil && len(entries) > 0 && entries[0].Key == key && entries[0].Lease == member.Lease() {
		_, err = c.config.Cluster.Delete(ctx, key, entries[0].Revision)
	}
	if err != nil {
		c.logger.Warn("letting go of a partition: the lease will expire instead", "key", key, "error", err)
	}
}

func (c *Coordinator) setLeader(partition int, leader *lead.Leader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.relocate(partition)
	if leader == nil {
		delete(c.leaders, partition)
		return
	}
	c.leaders[partition] = leader
	c.troubles[partition] = nil
	c.settle(partition)
}

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
	// prepareTimeout bounds how long a leader that hands over waits until the
	// next one has read the log. The partition is served meanwhile.
	prepareTimeout = 5 * time.Second
	// retireTimeout bounds making durable what a leader has taken before it
	// hands over. Then what is left is answered with an error.
	retireTimeout = time.Second
	// unfitFor is how long a coordinator that could not lead a partition, which
	// another leads now, is not given it again; and a worker that did not reach
	// its leader no shards of it.
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

// take claims a partition and leads it, once. The log is read before, while
// another may still lead: so little is left to do when nobody does.
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
	leader, err := c.newLeader(partition, log)
	if err != nil {
		return err
	}
	owned := c.ownedByOthers(partition)
	switch err := leader.Prepare(turn); {
	case err == nil && owned:
		defer c.tellPrepared(turn, member, partition)()
	case err != nil && owned && turn.Err() == nil:
		// Whoever has it goes on, and another may be chosen. What seems to be
		// wrong with the log may be what is done to it meanwhile.
		return fmt.Errorf("reading the log while another leads: %v", err) //nolint:errorlint // it halts nothing
	}
	claim, err := cluster.Campaign(turn, member, cluster.PartitionOwnerKey(partition), value)
	if err != nil {
		if turn.Err() != nil && !errors.Is(err, cluster.ErrLeaseGone) {
			c.letGo(turn, cluster.PartitionOwnerKey(partition), member) // it may have been taken unheard
		}
		return err
	}
	defer c.resign(turn, claim)
	return c.lead(turn, member, partition, leader, claim)
}

func (c *Coordinator) ownedByOthers(partition int) bool {
	now, _ := c.view.now()
	owner := now.partitions[partition].owner
	return owner != "" && owner != c.self()
}

// tellPrepared tells whoever leads the partition that it need not be waited for
// any more. What it returns takes that back.
func (c *Coordinator) tellPrepared(ctx context.Context, member *cluster.Member, partition int) (takeBack func()) {
	key := cluster.PreparedKey(partition, member.ID())
	if err := c.put(ctx, member, key); err != nil && ctx.Err() == nil {
		c.logger.Warn("telling that a partition could be led here", "partition", partition, "error", err)
	}
	return func() { c.letGo(ctx, key, member) }
}

func (c *Coordinator) resign(ctx context.Context, claim cluster.Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	if err := claim.Resign(ctx); err != nil && !errors.Is(err, cluster.ErrLeaseGone) {
		c.logger.Warn("resigning: the lease will expire instead", "error", err)
	}
}

func (c *Coordinator) newLeader(partition int, log eventlog.Log) (*lead.Leader, error) {
	return lead.New(lead.Config{
		Partition:       partition,
		Coordinator:     string(c.self()),
		Log:             log,
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
		Told:            c.told,
		AlertLink:       c.config.AlertLink,
	})
}

// lead has a leader lead its partition until its turn ends, and hands it over
// then, or until it no longer can.
func (c *Coordinator) lead(turn context.Context, member *cluster.Member, partition int, leader *lead.Leader, claim cluster.Claim) error {
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
	var err error
	select {
	case err = <-c.attend(turn, member, partition, leader, ended):
		c.setLeader(partition, nil)
	case <-turn.Done():
		c.retire(turn, partition, leader)
		c.resign(turn, claim) // the next one may begin
		stop()
		err = <-ended
	}
	err = c.orAbort(partition, err)
	if announced {
		c.letGo(turn, cluster.PartitionReadyKey(partition), member)
	}
	return err
}

// setFit tells the cluster whether this coordinator can lead a partition.
func (c *Coordinator) setFit(ctx context.Context, member *cluster.Member, partition int, fit bool) {
	now, _ := c.view.now()
	switch unfit := now.unfit[member.ID()][partition]; {
	case fit && unfit:
		c.letGo(ctx, cluster.UnfitKey(partition, member.ID()), member)
	case !fit && !unfit:
		if err := c.put(ctx, member, cluster.UnfitKey(partition, member.ID())); err != nil && ctx.Err() == nil {
			c.logger.Warn("telling that a partition cannot be led here", "partition", partition, "error", err)
		}
	}
}

// put tells the cluster something by a key, which says who has told it, for as
// long as this member lives or until it lets go of it.
func (c *Coordinator) put(ctx context.Context, member *cluster.Member, key string) error {
	value, err := cluster.EncodeValue(member.ID())
	if err != nil {
		return err
	}
	telling, cancel := context.WithTimeout(ctx, resignTimeout)
	defer cancel()
	_, _, err = c.config.Cluster.Put(telling, key, value, member.Lease(), 0)
	return err
}

// retire ends a leadership politely: with nothing taken and not durable, and
// little for the next leader to do.
func (c *Coordinator) retire(turn context.Context, partition int, leader *lead.Leader) {
	ctx := context.WithoutCancel(turn)
	if errors.Is(context.Cause(turn), errHandOver) {
		c.awaitPrepared(ctx, partition, leader)
		c.logger.Info("handing a partition over", "partition", partition)
	}
	c.setLeader(partition, nil) // calls wait for the next one from here on
	retiring, cancel := context.WithTimeout(ctx, retireTimeout)
	defer cancel()
	leader.Retire(retiring)
}

// awaitPrepared returns when whoever is to lead a partition next has read its
// log, when nobody else is to, when it is no longer led here, or when that takes
// too long.
func (c *Coordinator) awaitPrepared(ctx context.Context, partition int, leader *lead.Leader) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	for {
		now, changed := c.view.now()
		if chosen := now.partitions[partition].chosen; chosen == "" || chosen == c.self() || now.prepared[chosen][partition] {
			return
		}
		select {
		case <-changed:
		case <-leader.Ended():
			return
		case <-ctx.Done():
			return
		}
	}
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

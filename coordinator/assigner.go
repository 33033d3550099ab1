package coordinator

import (
	"context"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/assign"
	"github.com/fanfare-dev/fanfare/internal/cluster"
)

const (
	// assignSettle is how long the assigner lets members arrive before it
	// plans for the first time, so that the first to come is not given all.
	assignSettle = 300 * time.Millisecond
	// assignRound is the least time between two plans: moves come in rounds.
	assignRound = 200 * time.Millisecond
)

// assign campaigns to be the cluster's assigner, and assigns while it is.
func (c *Coordinator) assign(ctx context.Context, member *cluster.Member) error {
	value, err := cluster.EncodeValue(member.ID())
	if err != nil {
		return err
	}
	claim, err := cluster.Campaign(ctx, member, cluster.AssignerKey, value)
	if err != nil {
		return err
	}
	defer c.resign(ctx, claim)
	a := &assigner{
		coordinator: c,
		members:     c.config.Cluster.Watch(ctx, cluster.MembersPrefix),
		shards:      c.config.Cluster.Watch(ctx, cluster.ShardsPrefix),
	}
	return a.run(ctx)
}

// assigner gives shards to workers. One goroutine.
type assigner struct {
	coordinator *Coordinator
	members     <-chan []cluster.Entry
	shards      <-chan []cluster.Entry

	leases map[assign.WorkerID]cluster.LeaseID
	owned  map[cluster.Shard]cluster.Entry
	plan   assign.Plan
}

func (a *assigner) run(ctx context.Context) error {
	var workers []assign.Worker
	again := time.NewTimer(assignSettle)
	defer again.Stop()
	for {
		select {
		case entries, open := <-a.members:
			if !open {
				return ctx.Err()
			}
			workers = a.workers(entries)
			again.Reset(assignRound)
		case entries, open := <-a.shards:
			if !open {
				return ctx.Err()
			}
			a.setOwned(entries)
			again.Reset(assignRound)
		case <-again.C:
			if a.leases != nil && a.owned != nil {
				a.round(ctx, workers, again)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// round plans once and writes the plan.
func (a *assigner) round(ctx context.Context, workers []assign.Worker, again *time.Timer) {
	a.plan = assign.Compute(assign.Input{
		Shards: a.all(), Workers: workers, State: a.plan.State, Now: time.Now(),
	})
	if a.plan.Held {
		a.coordinator.logger.Warn("many workers are gone at once: waiting before their shards are assigned")
	}
	moved := 0
	for _, change := range a.plan.Changes {
		if a.write(ctx, change) {
			moved++
		}
	}
	if moved > 0 {
		a.coordinator.logger.Info("assigned shards", "changes", moved, "workers", len(workers))
	}
	switch {
	case a.plan.More || moved < len(a.plan.Changes):
		again.Reset(assignRound)
	case !a.plan.Again.IsZero():
		again.Reset(max(assignRound, time.Until(a.plan.Again)))
	}
}

// write gives a shard to a worker, on the worker's lease, if nothing has
// changed meanwhile.
func (a *assigner) write(ctx context.Context, change assign.Change) bool {
	lease, ok := a.leases[change.To]
	if !ok {
		return false
	}
	shard := cluster.Shard{Partition: change.Shard.Partition, Slot: change.Shard.Slot}
	value, err := cluster.EncodeValue(cluster.MemberID(change.To))
	if err == nil {
		_, ok, err = a.coordinator.config.Cluster.Put(ctx, cluster.ShardKey(shard), value, lease, a.owned[shard].Revision)
	}
	if err != nil && ctx.Err() == nil {
		a.coordinator.logger.Warn("assigning a shard", "shard", shard.String(), "worker", string(change.To), "error", err)
	}
	return ok && err == nil
}

func (a *assigner) workers(entries []cluster.Entry) []assign.Worker {
	a.leases = make(map[assign.WorkerID]cluster.LeaseID)
	var workers []assign.Worker
	for _, entry := range entries {
		info, err := cluster.DecodeValue[cluster.Info](entry)
		if err != nil || info.Role != cluster.Worker {
			continue
		}
		id := assign.WorkerID(info.ID)
		a.leases[id] = entry.Lease
		workers = append(workers, assign.Worker{ID: id, Weight: int64(info.Weight), Draining: info.Draining})
	}
	return workers
}

func (a *assigner) setOwned(entries []cluster.Entry) {
	a.owned = make(map[cluster.Shard]cluster.Entry)
	for _, entry := range entries {
		if shard, ok := cluster.ParseShardKey(entry.Key); ok {
			a.owned[shard] = entry
		}
	}
}

// all returns every shard there is, with its owner.
func (a *assigner) all() []assign.Owned {
	config := a.coordinator.config
	shards := make([]assign.Owned, 0, config.Partitions*config.Slots)
	for partition := range config.Partitions {
		for slot := range config.Slots {
			owned := assign.Owned{Shard: assign.Shard{Partition: partition, Slot: slot}}
			if entry, ok := a.owned[cluster.Shard{Partition: partition, Slot: slot}]; ok {
				if owner, err := cluster.DecodeValue[cluster.MemberID](entry); err == nil {
					owned.Owner = assign.WorkerID(owner)
				}
			}
			shards = append(shards, owned)
		}
	}
	return shards
}

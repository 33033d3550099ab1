package coordinator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/assign"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// assignSettle is how long the assigner lets members arrive before it
	// plans for the first time, so that the first to come is not given all.
	assignSettle = 300 * time.Millisecond
	// assignRound is the least time between two plans: moves come in rounds.
	assignRound = 200 * time.Millisecond
	// levelSettle is how long no coordinator may have come before partitions
	// are moved for evenness' sake: one that starts again and again is not
	// handed anything.
	levelSettle = 3 * time.Second
	// leaderSettle is how long at least, and as long as a lease lives, a leader
	// must have led before shards of its partition are moved for evenness' sake
	// from a worker that lives: one that has not attached to it yet may have
	// deliveries in hand of which the leader does not know.
	leaderSettle = 10 * time.Second
	// maxHandovers is how many partitions are being handed over at a time.
	maxHandovers = 2
	// weighInterval is how often shards are weighed.
	weighInterval = 30 * time.Second
	// shardWeight is what a shard weighs beside its subscriptions and its
	// deliveries in a worker's hands, which weigh 1 each. It keeps small numbers
	// of these from moving shards.
	shardWeight = 20
	// shardSlack is the gain, in percent of the mean, that is not worth moving
	// a shard for: what shards weigh is a measurement, and goes up and down.
	shardSlack = 10
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
	a := &assigner{coordinator: c, coordinators: make(map[cluster.MemberID]bool), led: make(map[int]tenure), levelFrom: time.Now().Add(levelSettle)}
	return a.run(ctx)
}

// assigner gives shards to workers and partitions to coordinators. One
// goroutine.
type assigner struct {
	coordinator  *Coordinator
	plan         assign.Plan               // of shards
	leads        assign.State              // of partitions
	coordinators map[cluster.MemberID]bool // those that were there
	levelFrom    time.Time                 // when partitions may be moved without need
	led          map[int]tenure            // who leads which partition
	loads        map[cluster.Shard]int64   // what shards weigh; nil until that is known
}

// tenure is since when a leader leads.
type tenure struct {
	epoch uint64
	since time.Time
}

func (a *assigner) run(ctx context.Context) error {
	again := time.NewTimer(assignSettle)
	defer again.Stop()
	weighed := make(chan *fanfarev1.Cluster)
	ctx, cancel := context.WithCancel(ctx)
	var weighing sync.WaitGroup
	defer weighing.Wait()
	defer cancel()
	weighing.Go(func() { a.coordinator.weigh(ctx, weighed) })
	weighing.Go(func() { _ = a.coordinator.watchCluster(ctx) }) // it ends with ctx, for no other reason
	planned := time.Time{}
	now, changed := a.coordinator.view.now()
	for {
		select {
		case <-changed:
			now, changed = a.coordinator.view.now()
			if !planned.IsZero() {
				again.Reset(max(0, assignRound-time.Since(planned)))
			}
		case <-again.C:
			planned = time.Now()
			wait := min(a.assignPartitions(ctx, now), a.assignShards(ctx, now))
			again.Reset(max(assignRound, wait))
		case described := <-weighed:
			a.setLoads(described)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// assignShards plans shards once, writes the plan, and says when to look
// again.
func (a *assigner) assignShards(ctx context.Context, now *landscape) time.Duration {
	a.noticeLeaders(now)
	a.relieveWorkers(ctx, now)
	workers := now.workers(cluster.Worker)
	a.plan = assign.Compute(assign.Input{
		Shards: a.shards(now), Workers: workers, State: a.plan.State, Now: time.Now(),
		Limits: assign.Limits{SlackPercent: shardSlack},
	})
	if a.plan.Held {
		a.coordinator.logger.Warn("many workers are gone at once: waiting before their shards are assigned")
	}
	moved, left := 0, 0
	for _, change := range a.plan.Changes {
		shard := cluster.Shard{Partition: change.Shard.Partition, Slot: change.Shard.Slot}
		to := cluster.MemberID(change.To)
		if from := cluster.MemberID(change.From); from != "" && !now.draining(from) && !a.settled(shard.Partition) {
			left++
			continue
		}
		if now.unfit[to][shard.Partition] {
			if to = now.freest(shard.Partition); change.From != "" || to == "" {
				left++ // where it is
				continue
			}
		}
		if a.write(ctx, now, cluster.ShardKey(shard), to, now.shards[shard].revision) {
			moved++
		}
	}
	if moved > 0 {
		a.coordinator.metrics.moved.Add(ctx, int64(moved))
		a.coordinator.logger.Info("assigned shards", "changes", moved, "workers", len(workers))
	}
	switch {
	case a.plan.More || moved+left < len(a.plan.Changes):
		return assignRound
	case left > 0:
		return leaderSettle
	case !a.plan.Again.IsZero():
		return min(time.Until(a.plan.Again), weighInterval)
	default:
		return weighInterval
	}
}

// assignPartitions is assignShards for partitions: who should lead them. A
// partition without a leader takes no events, so there is no waiting for
// coordinators that have vanished: a leader that lives after all is fenced.
func (a *assigner) assignPartitions(ctx context.Context, now *landscape) time.Duration {
	a.notice(now)
	a.ask(ctx, now)
	a.relieve(ctx, now)
	shards, handovers := a.partitions(now)
	plan := assign.Compute(assign.Input{
		Shards: shards, Workers: now.workers(cluster.Coordinator), State: a.leads, Now: time.Now(),
		Limits: assign.Limits{MovePercent: 100, VanishPercent: 100},
	})
	a.leads = plan.State
	wait := weighInterval
	for _, change := range plan.Changes {
		from, number := cluster.MemberID(change.From), change.Shard.Partition
		switch settling := time.Until(a.levelFrom); {
		case now.unfit[cluster.MemberID(change.To)][number]:
			continue
		case from == "":
		case handovers >= maxHandovers:
			wait = min(wait, assignRound)
			continue
		case !now.draining(from) && settling > 0:
			wait = min(wait, settling)
			continue
		default:
			handovers++
		}
		if a.write(ctx, now, cluster.PartitionChosenKey(number), cluster.MemberID(change.To), now.partitions[number].at) {
			a.coordinator.logger.Info("chose a leader", "partition", number, "from", change.From, "to", change.To)
		} else {
			wait = min(wait, assignRound)
		}
	}
	return wait
}

// notice takes note of coordinators that have come.
func (a *assigner) notice(now *landscape) {
	there := make(map[cluster.MemberID]bool)
	for id, m := range now.members {
		if m.info.Role != cluster.Coordinator {
			continue
		}
		there[id] = true
		if !a.coordinators[id] {
			a.levelFrom = time.Now().Add(levelSettle)
		}
	}
	a.coordinators = there
}

// partitions returns every partition with who should lead it, and how many are
// being handed over. Where nobody was chosen, who leads it may go on.
func (a *assigner) partitions(now *landscape) (all []assign.Owned, handovers int) {
	for number := range a.coordinator.config.Partitions {
		p := now.partitions[number]
		owner := p.chosen
		if owner != "" && p.ready.Coordinator != "" && p.ready.Coordinator != owner {
			handovers++
		}
		if owner == "" {
			owner = p.owner
		}
		all = append(all, assign.Owned{Shard: assign.Shard{Partition: number}, Owner: assign.WorkerID(owner)})
	}
	return all, handovers
}

// ask asks those who lead without having been asked to go on.
func (a *assigner) ask(ctx context.Context, now *landscape) {
	for number := range a.coordinator.config.Partitions {
		if p := now.partitions[number]; p.chosen == "" && p.owner != "" && !now.draining(p.owner) {
			a.write(ctx, now, cluster.PartitionChosenKey(number), p.owner, 0)
		}
	}
}

// relieve gives partitions that who was chosen cannot lead to others that lead
// all they should: one that cannot lead anything is no better.
func (a *assigner) relieve(ctx context.Context, now *landscape) {
	for number := range a.coordinator.config.Partitions {
		p := now.partitions[number]
		if p.chosen == "" || !now.unfit[p.chosen][number] {
			continue
		}
		if to := now.fittest(); to != "" && a.write(ctx, now, cluster.PartitionChosenKey(number), to, p.at) {
			a.coordinator.logger.Warn("chose another leader for a partition that could not be led",
				"partition", number, "from", string(p.chosen), "to", string(to))
		}
	}
}

// noticeLeaders takes note of who leads since when.
func (a *assigner) noticeLeaders(now *landscape) {
	for number, p := range now.partitions {
		if epoch := p.ready.Epoch; epoch != a.led[number].epoch {
			a.led[number] = tenure{epoch, time.Now()}
		}
	}
}

// settled reports whether a partition is led for so long that its leader knows
// what every worker of it has in hand that has any right to.
func (a *assigner) settled(partition int) bool {
	return time.Since(a.led[partition].since) >= max(leaderSettle, a.coordinator.config.Member.TTL)
}

// relieveWorkers takes shards from owners who do not reach the leader. A round
// later they are assigned: until then the owner has seen that it lost them, and
// ended what the next one must not overtake.
func (a *assigner) relieveWorkers(ctx context.Context, now *landscape) {
	for shard, owned := range now.shards {
		if !now.unfit[owned.by][shard.Partition] || now.freest(shard.Partition) == "" {
			continue
		}
		if _, err := a.coordinator.config.Cluster.Delete(ctx, cluster.ShardKey(shard), owned.revision); err != nil && ctx.Err() == nil {
			a.coordinator.logger.Warn("taking a shard from a worker", "shard", shard, "worker", string(owned.by), "error", err)
		}
	}
}

// freest returns the worker with the fewest shards, of those that reach a
// partition's leader as far as is known; empty if there is none.
func (l *landscape) freest(partition int) (found cluster.MemberID) {
	shards := make(map[cluster.MemberID]int)
	for _, owned := range l.shards {
		shards[owned.by]++
	}
	for _, id := range l.order {
		if l.members[id].info.Role != cluster.Worker || l.draining(id) || l.unfit[id][partition] {
			continue
		}
		if found == "" || shards[id] < shards[found] {
			found = id
		}
	}
	return found
}

// fittest returns the coordinator that should lead the fewest partitions, of
// those that can lead all; empty if there is none.
func (l *landscape) fittest() (found cluster.MemberID) {
	for _, id := range l.order {
		if l.members[id].info.Role != cluster.Coordinator || l.draining(id) || len(l.unfit[id]) > 0 {
			continue
		}
		if found == "" || l.led(id) < l.led(found) {
			found = id
		}
	}
	return found
}

// write puts a member's id under a key, on the member's lease, if nothing has
// changed meanwhile: as that the member has left, of which nothing need be said.
func (a *assigner) write(ctx context.Context, now *landscape, key string, to cluster.MemberID, revision int64) bool {
	m, ok := now.members[to]
	if !ok {
		return false
	}
	value, err := cluster.EncodeValue(to)
	if err == nil {
		_, ok, err = a.coordinator.config.Cluster.Put(ctx, key, value, m.lease, revision)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, cluster.ErrLeaseGone) {
		a.coordinator.logger.Warn("assigning", "key", key, "to", string(to), "error", err)
	}
	return ok && err == nil
}

// workers returns the members of a role, as those that can be given something.
func (l *landscape) workers(role cluster.Role) []assign.Worker {
	var all []assign.Worker
	for _, id := range l.order {
		if m := l.members[id]; m.info.Role == role {
			all = append(all, assign.Worker{ID: assign.WorkerID(id), Weight: int64(m.info.Weight), Draining: l.draining(id)})
		}
	}
	return all
}

// shards returns every shard there is, with its owner and what it weighs.
func (a *assigner) shards(now *landscape) []assign.Owned {
	config := a.coordinator.config
	shards := make([]assign.Owned, 0, config.Partitions*config.Slots)
	for partition := range config.Partitions {
		for slot := range config.Slots {
			shard := cluster.Shard{Partition: partition, Slot: slot}
			shards = append(shards, assign.Owned{
				Shard: assign.Shard{Partition: partition, Slot: slot},
				Owner: assign.WorkerID(now.shards[shard].by),
				Load:  a.loads[shard],
			})
		}
	}
	return shards
}

// weigh asks the leaders again and again how their shards are, until ctx ends.
func (c *Coordinator) weigh(ctx context.Context, weighed chan<- *fanfarev1.Cluster) {
	ticker := time.NewTicker(weighInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		described, err := c.api.DescribeCluster(ctx, new(fanfarev1.DescribeClusterRequest))
		if err != nil {
			continue
		}
		select {
		case weighed <- described:
		case <-ctx.Done():
			return
		}
	}
}

// setLoads takes what shards have to do. Loads are smoothed, so that a burst
// moves nothing.
func (a *assigner) setLoads(described *fanfarev1.Cluster) {
	if a.loads == nil {
		a.loads = make(map[cluster.Shard]int64)
	}
	for _, s := range described.GetShards() {
		shard := cluster.Shard{Partition: int(s.GetPartition()), Slot: int(s.GetSlot())}
		load := shardWeight + s.GetSubscriptions() + s.GetInFlight()
		if before, known := a.loads[shard]; known {
			load = (3*before + load) / 4
		}
		a.loads[shard] = load
	}
}

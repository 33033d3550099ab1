package serve

import (
	"context"
	"fmt"

	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// DescribeCluster implements ClusterService.
func (s *Server) DescribeCluster(ctx context.Context, _ *fanfarev1.DescribeClusterRequest) (*fanfarev1.Cluster, error) {
	cluster, err := s.Directory.Describe(ctx)
	if err != nil {
		return nil, err
	}
	type place struct{ partition, slot int32 }
	owned := make(map[place]*fanfarev1.Shard)
	for _, shard := range cluster.GetShards() {
		owned[place{shard.GetPartition(), shard.GetSlot()}] = shard
	}
	for i, partition := range cluster.GetPartitions() {
		leader, err := s.Directory.Leader(int(partition.GetId()))
		if err != nil {
			if partition.GetLeader() == "" && s.Directory.Halted(int(partition.GetId())) == nil {
				cluster.Problems = append(cluster.Problems, fmt.Sprintf("partition %d has no leader", partition.GetId()))
			}
			continue
		}
		described, shards, err := leader.Describe(ctx)
		if err != nil {
			cluster.Problems = append(cluster.Problems, fmt.Sprintf("partition %d: %v", partition.GetId(), err))
			continue
		}
		if PartitionOf(DefaultTenant, s.Directory.Partitions()) == int(partition.GetId()) {
			described.Tenants++ // it is there without having been put
		}
		if problem, err := leader.Problem(ctx); err == nil && problem != "" {
			cluster.Problems = append(cluster.Problems, problem)
		}
		cluster.Partitions[i] = described
		for _, shard := range shards {
			// What the cluster says of owners is what counts: the leader
			// learns it when the owner attaches.
			if known := owned[place{shard.GetPartition(), shard.GetSlot()}]; known != nil {
				known.Attached = shard.GetAttached() && shard.GetWorker() == known.GetWorker()
				known.Subscriptions, known.InFlight = shard.GetSubscriptions(), shard.GetInFlight()
			}
		}
	}
	for _, shard := range cluster.GetShards() {
		if shard.GetWorker() == "" && shard.GetSubscriptions() > 0 {
			cluster.Problems = append(cluster.Problems,
				fmt.Sprintf("shard %d/%d has subscriptions and no worker", shard.GetPartition(), shard.GetSlot()))
		}
	}
	return cluster, nil
}

// Readiness says whether a process serves, and what is wrong.
type Readiness struct {
	Serves   bool
	Problems []string // also of a process that serves
}

// Ready reports whether every partition that this process should lead is led.
// Those that are halted do not count, as long as there are others: no other
// process could serve them, and the others are served.
func (s *Server) Ready(ctx context.Context) Readiness {
	ready := Readiness{Serves: true}
	halted := 0
	for partition := range s.Directory.Partitions() {
		if err := s.Directory.Halted(partition); err != nil {
			ready.Problems = append(ready.Problems, err.Error())
			halted++
			continue
		}
		if err := s.answers(ctx, partition); err != nil {
			ready.Serves = false
			ready.Problems = append(ready.Problems, status.Convert(err).Message())
		}
	}
	ready.Serves = ready.Serves && halted < s.Directory.Partitions()
	return ready
}

// answers returns an error if the leader of a partition does not.
func (s *Server) answers(ctx context.Context, partition int) error {
	leader, err := s.Directory.Leader(partition)
	if err != nil {
		return err
	}
	if err := leader.Query(ctx, func(*ledger.Ledger) {}); err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	return nil
}

package coordinator

import (
	"context"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// view is the cluster as last seen. The zero view has seen nothing. Safe for
// concurrent use.
type view struct {
	mu      sync.Mutex
	entries []cluster.Entry // guarded by mu
}

// follow keeps the view up to date until ctx ends.
func (v *view) follow(ctx context.Context, store cluster.Store) error {
	for entries := range store.Watch(ctx, "") {
		v.mu.Lock()
		v.entries = entries
		v.mu.Unlock()
	}
	return ctx.Err()
}

func (v *view) all() []cluster.Entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.entries
}

// ready returns who leads a partition.
func (v *view) ready(partition int) (cluster.PartitionReady, bool) {
	for _, entry := range v.all() {
		if entry.Key == cluster.PartitionReadyKey(partition) {
			ready, err := cluster.DecodeValue[cluster.PartitionReady](entry)
			return ready, err == nil
		}
	}
	return cluster.PartitionReady{}, false
}

// describe returns what the cluster's keys say.
func (v *view) describe(partitions, slots int) *fanfarev1.Cluster {
	described := new(fanfarev1.Cluster)
	for p := range partitions {
		described.Partitions = append(described.Partitions, &fanfarev1.Partition{Id: int32(p)})
		for s := range slots {
			described.Shards = append(described.Shards, &fanfarev1.Shard{Partition: int32(p), Slot: int32(s)})
		}
	}
	for _, entry := range v.all() {
		if _, ok := cluster.ParseMemberKey(entry.Key); ok {
			describeMember(described, entry)
		}
		if p, ok := cluster.ParsePartitionReadyKey(entry.Key); ok && p < partitions {
			if ready, err := cluster.DecodeValue[cluster.PartitionReady](entry); err == nil {
				described.Partitions[p].Leader, described.Partitions[p].Epoch = string(ready.Coordinator), ready.Epoch
			}
		}
		if shard, ok := cluster.ParseShardKey(entry.Key); ok && shard.Partition < partitions && shard.Slot < slots {
			if owner, err := cluster.DecodeValue[cluster.MemberID](entry); err == nil {
				of := described.Shards[shard.Partition*slots+shard.Slot]
				of.Worker, of.Epoch = string(owner), entry.Revision
			}
		}
	}
	return described
}

func describeMember(described *fanfarev1.Cluster, entry cluster.Entry) {
	info, err := cluster.DecodeValue[cluster.Info](entry)
	if err != nil {
		return
	}
	described.Members = append(described.Members, &fanfarev1.Member{
		Id: string(info.ID), Role: string(info.Role), Address: info.Address, Version: info.Version,
		StartTime: timestamppb.New(info.Started),
	})
}

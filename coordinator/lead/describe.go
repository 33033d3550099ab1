package lead

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Describe returns how the partition is doing, and its shards as the leader
// sees them.
func (l *Leader) Describe(ctx context.Context) (*fanfarev1.Partition, []*fanfarev1.Shard, error) {
	var partition *fanfarev1.Partition
	var shards []*fanfarev1.Shard
	if err := l.call(ctx, func(loop *loop) { partition, shards = loop.describe() }); err != nil {
		return nil, nil, err
	}
	bounds, err := l.config.Log.State(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the log's bounds: %w", err)
	}
	partition.FirstSequence, partition.LastSequence, partition.LogBytes = bounds.First, bounds.Last, bounds.Bytes
	if followed := l.followed.get(); followed < bounds.Last {
		partition.HistoryLag = bounds.Last - followed
	}
	return partition, shards, nil
}

// Bounds returns where the partition's log begins and ends.
func (l *Leader) Bounds(ctx context.Context) (eventlog.State, error) {
	return l.config.Log.State(ctx)
}

func (l *loop) describe() (*fanfarev1.Partition, []*fanfarev1.Shard) {
	id := int32(l.leader.config.Partition) //nolint:gosec // few partitions
	partition := &fanfarev1.Partition{
		Id:            id,
		Leader:        l.leader.config.Coordinator,
		Epoch:         l.ledger.Epoch(),
		Tenants:       int64(len(l.ledger.Tenants())),
		Subscriptions: int64(l.ledger.SubscriptionCount()),
		Outstanding:   int64(l.ledger.Outstanding()),
		Behind:        int64(l.ledger.BehindCount()),
		InFlight:      int64(l.dispatch.InHand()),
	}
	if since := l.ledger.OldestSince(); since > 0 {
		partition.OldestOutstandingTime = timestamppb.New(time.UnixMilli(since))
	}
	var shards []*fanfarev1.Shard
	for slot := range l.leader.config.Slots {
		state := l.dispatch.Slot(slot)
		shards = append(shards, &fanfarev1.Shard{
			Partition:     id,
			Slot:          int32(slot),
			Worker:        state.Worker,
			Epoch:         state.Epoch,
			Attached:      state.Worker != "",
			Subscriptions: int64(state.Subscriptions),
			InFlight:      int64(state.InHand),
		})
	}
	return partition, shards
}

package coordinator

import (
	"context"
	"fmt"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
)

// marks keeps the partitions' marks in the cluster's store, on no lease: they
// outlive every process, and the logs they speak of. It implements lead.Marks.
type marks struct{ store cluster.Store }

// Mark implements lead.Marks.
func (m marks) Mark(ctx context.Context, partition int) (lead.Mark, error) {
	mark, _, err := m.get(ctx, cluster.PartitionKnownKey(partition))
	return mark, err
}

// SetMark implements lead.Marks. It tries again while others write the key.
func (m marks) SetMark(ctx context.Context, partition int, mark lead.Mark) error {
	key := cluster.PartitionKnownKey(partition)
	value, err := cluster.EncodeValue(cluster.PartitionKnown(mark))
	if err != nil {
		return err
	}
	for {
		have, revision, err := m.get(ctx, key)
		if err != nil || have.Sequence >= mark.Sequence {
			return err
		}
		_, ok, err := m.store.Put(ctx, key, value, cluster.NoLease, revision)
		if err != nil {
			return fmt.Errorf("writing %s: %w", key, err)
		}
		if ok {
			return nil
		}
	}
}

// get returns the mark of a key, and the key's revision; zero if there is none.
func (m marks) get(ctx context.Context, key string) (lead.Mark, int64, error) {
	entries, err := m.store.List(ctx, key)
	if err != nil {
		return lead.Mark{}, 0, fmt.Errorf("reading %s: %w", key, err)
	}
	if len(entries) == 0 || entries[0].Key != key {
		return lead.Mark{}, 0, nil
	}
	known, err := cluster.DecodeValue[cluster.PartitionKnown](entries[0])
	return lead.Mark(known), entries[0].Revision, err
}

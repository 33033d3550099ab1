package coordinator

import (
	"context"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// view follows the cluster's keys. It goes on showing what it saw last when
// the store cannot be reached. The zero view has seen nothing. Safe for
// concurrent use.
type view struct {
	mu      sync.Mutex
	seen    *landscape    // guarded by mu; nil: nothing yet
	changed chan struct{} // guarded by mu; closed, and replaced, when seen is
}

// landscape is what the cluster's keys say at one moment. It is not changed.
type landscape struct {
	members    map[cluster.MemberID]member
	order      []cluster.MemberID // of members, by id
	drains     map[cluster.MemberID]bool
	unfit      map[cluster.MemberID]map[int]bool // of partitions: whose leader a worker does not reach, or that a coordinator cannot lead
	prepared   map[cluster.MemberID]map[int]bool // to lead these partitions
	partitions map[int]partition
	shards     map[cluster.Shard]owned
}

// member is a process that holds a lease.
type member struct {
	info  cluster.Info
	lease cluster.LeaseID
}

// partition is what the keys say of one.
type partition struct {
	owner  cluster.MemberID       // who should lead it, by the claim
	chosen cluster.MemberID       // who should lead it, by the assigner
	at     int64                  // revision of chosen
	ready  cluster.PartitionReady // who leads it
}

// owned is a shard with its owner.
type owned struct {
	by       cluster.MemberID
	revision int64
}

// read makes a landscape of the keys. Values that cannot be read are left out.
func read(entries []cluster.Entry) *landscape {
	l := &landscape{
		members:    make(map[cluster.MemberID]member),
		drains:     make(map[cluster.MemberID]bool),
		unfit:      make(map[cluster.MemberID]map[int]bool),
		prepared:   make(map[cluster.MemberID]map[int]bool),
		partitions: make(map[int]partition),
		shards:     make(map[cluster.Shard]owned),
	}
	for _, entry := range entries {
		if id, ok := cluster.ParseMemberKey(entry.Key); ok {
			if info, err := cluster.DecodeValue[cluster.Info](entry); err == nil && info.ID == id {
				l.members[id] = member{info, entry.Lease}
				l.order = append(l.order, id)
			}
		} else if id, ok := cluster.ParseDrainKey(entry.Key); ok {
			l.drains[id] = true
		} else if shard, ok := cluster.ParseShardKey(entry.Key); ok {
			if id, err := cluster.DecodeValue[cluster.MemberID](entry); err == nil {
				l.shards[shard] = owned{id, entry.Revision}
			}
		} else {
			l.readPartition(entry)
		}
	}
	return l
}

func (l *landscape) readPartition(entry cluster.Entry) {
	if number, id, ok := cluster.ParseUnfitKey(entry.Key); ok {
		add(l.unfit, id, number)
	}
	if number, id, ok := cluster.ParsePreparedKey(entry.Key); ok {
		add(l.prepared, id, number)
	}
	if number, ok := cluster.ParsePartitionReadyKey(entry.Key); ok {
		if ready, err := cluster.DecodeValue[cluster.PartitionReady](entry); err == nil {
			p := l.partitions[number]
			p.ready = ready
			l.partitions[number] = p
		}
	}
	if number, ok := cluster.ParsePartitionOwnerKey(entry.Key); ok {
		if id, err := cluster.DecodeValue[cluster.MemberID](entry); err == nil {
			p := l.partitions[number]
			p.owner = id
			l.partitions[number] = p
		}
	}
	if number, ok := cluster.ParsePartitionChosenKey(entry.Key); ok {
		if id, err := cluster.DecodeValue[cluster.MemberID](entry); err == nil {
			p := l.partitions[number]
			p.chosen, p.at = id, entry.Revision
			l.partitions[number] = p
		}
	}
}

func add(to map[cluster.MemberID]map[int]bool, id cluster.MemberID, partition int) {
	if to[id] == nil {
		to[id] = make(map[int]bool)
	}
	to[id][partition] = true
}

// draining reports whether a member is to be given nothing.
func (l *landscape) draining(id cluster.MemberID) bool {
	return l.drains[id] || l.members[id].info.Draining
}

// others reports whether there is a member of a role, other than this one,
// that can be given work.
func (l *landscape) others(role cluster.Role, than cluster.MemberID) bool {
	for id, m := range l.members {
		if m.info.Role == role && id != than && !l.draining(id) {
			return true
		}
	}
	return false
}

// servants returns the members that shards of a partition are given to.
func (l *landscape) servants(partition int) map[cluster.MemberID]bool {
	all := make(map[cluster.MemberID]bool)
	for shard, owned := range l.shards {
		if _, here := l.members[owned.by]; here && shard.Partition == partition {
			all[owned.by] = true
		}
	}
	return all
}

// follow keeps the view up to date until ctx ends, and calls each with every
// landscape, before anybody else sees it.
func (v *view) follow(ctx context.Context, store cluster.Store, each func(*landscape)) error {
	for entries := range store.Watch(ctx, "") {
		seen := read(entries)
		each(seen)
		v.mu.Lock()
		v.seen = seen
		if v.changed != nil {
			close(v.changed)
			v.changed = nil
		}
		v.mu.Unlock()
	}
	return ctx.Err()
}

// now returns the landscape, which is empty at first, and a channel that is
// closed when there is another.
func (v *view) now() (*landscape, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	if v.seen == nil {
		return read(nil), v.changed
	}
	return v.seen, v.changed
}

// ready returns who leads a partition.
func (v *view) ready(partition int) (cluster.PartitionReady, bool) {
	now, _ := v.now()
	ready := now.partitions[partition].ready
	return ready, ready.Address != "" || ready.Coordinator != ""
}

// describe returns what the cluster's keys say.
func (l *landscape) describe(partitions, slots int) *fanfarev1.Cluster {
	described := new(fanfarev1.Cluster)
	leads, owns := make(map[cluster.MemberID]int32), make(map[cluster.MemberID]int32)
	for number := range partitions {
		p := l.partitions[number]
		leads[p.ready.Coordinator]++
		described.Partitions = append(described.Partitions, &fanfarev1.Partition{
			Id:     int32(number),
			Leader: string(p.ready.Coordinator), Epoch: p.ready.Epoch, Chosen: string(p.chosen),
		})
		for slot := range slots {
			s := l.shards[cluster.Shard{Partition: number, Slot: slot}]
			owns[s.by]++
			described.Shards = append(described.Shards, &fanfarev1.Shard{
				Partition: int32(number), Slot: int32(slot),
				Worker: string(s.by), Epoch: s.revision,
			})
		}
	}
	for _, id := range l.order {
		m := l.describeMember(id)
		m.Partitions, m.Shards = leads[id], owns[id]
		described.Members = append(described.Members, m)
	}
	return described
}

func (l *landscape) describeMember(id cluster.MemberID) *fanfarev1.Member {
	info := l.members[id].info
	return &fanfarev1.Member{
		Id: string(info.ID), Role: string(info.Role), Address: info.Address, Version: info.Version,
		StartTime: timestamppb.New(info.Started), Draining: l.draining(id),
		Weight: int32(max(info.Weight, 1)), //nolint:gosec // small
	}
}

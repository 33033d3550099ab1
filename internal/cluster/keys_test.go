package cluster_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

func TestKeysParseBack(t *testing.T) {
	for _, n := range []int{0, 1, 15, 4095} {
		if got, ok := cluster.ParsePartitionOwnerKey(cluster.PartitionOwnerKey(n)); !ok || got != n {
			t.Errorf("owner key of partition %d parsed as %d, %t", n, got, ok)
		}
		if got, ok := cluster.ParsePartitionReadyKey(cluster.PartitionReadyKey(n)); !ok || got != n {
			t.Errorf("ready key of partition %d parsed as %d, %t", n, got, ok)
		}
		if got, ok := cluster.ParsePartitionChosenKey(cluster.PartitionChosenKey(n)); !ok || got != n {
			t.Errorf("chosen key of partition %d parsed as %d, %t", n, got, ok)
		}
		if got, id, ok := cluster.ParseUnfitKey(cluster.UnfitKey(n, "c-1")); !ok || got != n || id != "c-1" {
			t.Errorf("unfit key of partition %d parsed as %d, %q, %t", n, got, id, ok)
		}
		if got, id, ok := cluster.ParsePreparedKey(cluster.PreparedKey(n, "c-1")); !ok || got != n || id != "c-1" {
			t.Errorf("prepared key of partition %d parsed as %d, %q, %t", n, got, id, ok)
		}
		shard := cluster.Shard{Partition: n, Slot: n + 1}
		if got, ok := cluster.ParseShardKey(cluster.ShardKey(shard)); !ok || got != shard {
			t.Errorf("key of shard %s parsed as %s, %t", shard, got, ok)
		}
	}
	if got, ok := cluster.ParseMemberKey(cluster.MemberKey("w-1")); !ok || got != "w-1" {
		t.Errorf("member key parsed as %q, %t", got, ok)
	}
	if got, ok := cluster.ParseDrainKey(cluster.DrainKey("w-1")); !ok || got != "w-1" {
		t.Errorf("drain key parsed as %q, %t", got, ok)
	}
}

// One spelling for each key: two keys for one shard would be two owners.
func TestKeysRefuseOtherSpellings(t *testing.T) {
	for _, key := range []string{
		"", "assigner", "members", "members/", "members/a/b",
		"shards/1", "shards/1/", "shards//1", "shards/1/2/3", "shards/01/2", "shards/1/-2", "shards/+1/2", "shards/1/2x", "1/2",
		"partitions/1", "partitions//owner", "partitions/01/owner", "partitions/-1/ready", "partitions/1/owner/", "1/owner", "partitions/1/other",
		"drains", "drains/", "drains/a/b", "prepared/1", "prepared/1/", "prepared//a", "prepared/01/a", "prepared/1/a/b", "unfit/1", "unfit/1/", "unfit//a", "unfit/01/a", "unfit/-1/a", "unfit/1/a/b",
	} {
		if got, ok := cluster.ParseDrainKey(key); ok {
			t.Errorf("%q parsed as a drain of %q", key, got)
		}
		if got, id, ok := cluster.ParseUnfitKey(key); ok {
			t.Errorf("%q parsed as unfit of %q for %d", key, id, got)
		}
		if got, id, ok := cluster.ParsePreparedKey(key); ok {
			t.Errorf("%q parsed as prepared of %q for %d", key, id, got)
		}
		if got, ok := cluster.ParseMemberKey(key); ok {
			t.Errorf("%q parsed as member %q", key, got)
		}
		if got, ok := cluster.ParseShardKey(key); ok {
			t.Errorf("%q parsed as shard %s", key, got)
		}
		if got, ok := cluster.ParsePartitionOwnerKey(key); ok {
			t.Errorf("%q parsed as owner of %d", key, got)
		}
		if got, ok := cluster.ParsePartitionReadyKey(key); ok {
			t.Errorf("%q parsed as ready of %d", key, got)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{cluster.MemberKey("w1"), "members/w1"},
		{cluster.PartitionOwnerKey(3), "partitions/3/owner"},
		{cluster.PartitionReadyKey(3), "partitions/3/ready"},
		{cluster.PartitionKnownKey(3), "partitions/3/known"},
		{cluster.PartitionPrefix(3), "partitions/3/"},
		{cluster.ShardKey(cluster.Shard{Partition: 3, Slot: 14}), "shards/3/14"},
		{cluster.ShardPrefix(3), "shards/3/"},
	} {
		if test.got != test.want {
			t.Errorf("key %q, want %q", test.got, test.want)
		}
	}
}

func TestValues(t *testing.T) {
	want := cluster.PartitionReady{Address: "10.0.0.1:7400", Epoch: 1 << 60, Coordinator: "c1"}
	value, err := cluster.EncodeValue(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := cluster.DecodeValue[cluster.PartitionReady](cluster.Entry{Value: value})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("decoded (-want +got): %v\n%s", err, diff)
	}
	if _, err := cluster.DecodeValue[cluster.MemberID](cluster.Entry{Key: "shards/1/2", Value: []byte("{")}); err == nil {
		t.Error("decoded what is not JSON")
	}
	later := cluster.Entry{Value: []byte(`{"id":"w1","role":"worker","invented":1}`)}
	if info, err := cluster.DecodeValue[cluster.Info](later); err != nil || info.ID != "w1" {
		t.Errorf("a value with a field of a later version = %+v, %v", info, err)
	}
}

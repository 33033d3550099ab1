package cluster

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The keys. Numbers are written in decimal without leading zeros, so that
// every key has one spelling.
//
//	members/<id>              Info           on the member's lease
//	partitions/<p>/owner      MemberID       on the owner's lease
//	partitions/<p>/ready      PartitionReady on the owner's lease
//	partitions/<p>/known      PartitionKnown on no lease
//	partitions/<p>/chosen     MemberID       on the lease of the coordinator that should lead it
//	unfit/<p>/<id>            MemberID       on the lease of a coordinator that cannot lead it just now
//	prepared/<p>/<id>         MemberID       on the lease of a coordinator that has read the log, while another leads
//	shards/<p>/<slot>         MemberID       on the worker's lease
//	assigner                  MemberID       on the assigner's lease
//	drains/<id>               MemberID       on no lease, while the member is to have nothing
//	shape                     Shape          on no lease
//	secrets                   a fingerprint  on no lease
const (
	// MembersPrefix is what every member's key begins with.
	MembersPrefix = "members/"
	// PartitionsPrefix is what the keys of every partition begin with.
	PartitionsPrefix = "partitions/"
	// ShardsPrefix is what every shard's key begins with.
	ShardsPrefix = "shards/"
	// UnfitPrefix is what the keys begin with under which coordinators say
	// which partitions they cannot lead, and which workers do not reach them.
	UnfitPrefix = "unfit/"
	// PreparedPrefix is what the keys begin with under which coordinators say
	// which partitions they could lead at once.
	PreparedPrefix = "prepared/"
	// DrainsPrefix is what the keys of members begin with that are to be
	// given nothing.
	DrainsPrefix = "drains/"
	// AssignerKey is held by the coordinator that assigns shards.
	AssignerKey = "assigner"

	ownerSuffix  = "/owner"
	readySuffix  = "/ready"
	knownSuffix  = "/known"
	chosenSuffix = "/chosen"
)

// MemberID names one process. It must not contain a slash.
type MemberID string

// Role is what a process does.
type Role string

// The roles of a member.
const (
	Coordinator Role = "coordinator"
	Worker      Role = "worker"
)

// Info is what a member says of itself: the value of its key.
type Info struct {
	ID      MemberID  `json:"id"`
	Role    Role      `json:"role"`
	Address string    `json:"address,omitempty"` // host:port where it serves gRPC, if it does
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started"`
	// Weight is the share of the work it can take, next to the others'. 0 is 1.
	Weight int `json:"weight,omitempty"`
	// Draining: it wants to leave and should be given nothing new.
	Draining bool `json:"draining,omitempty"`
}

// PartitionReady says that a partition is served, and where: its leader has
// fenced the log and folded it.
type PartitionReady struct {
	Address     string   `json:"address"`
	Epoch       uint64   `json:"epoch"` // of the leader's fence in the log
	Coordinator MemberID `json:"coordinator"`
}

// PartitionKnown is a record that is in the partition's log, kept apart from
// the log: one that ends before it, or has another there, is not the log that
// was written.
type PartitionKnown struct {
	Sequence uint64 `json:"sequence"`
	Hash     []byte `json:"hash"` // SHA-256 of the record
}

// Shard is a slice of one partition's subscriptions.
type Shard struct {
	Partition int
	Slot      int
}

// String is the shard as in its key: "3/14".
func (s Shard) String() string {
	return strconv.Itoa(s.Partition) + "/" + strconv.Itoa(s.Slot)
}

// MemberKey is the key of a member.
func MemberKey(id MemberID) string {
	return MembersPrefix + string(id)
}

// PartitionPrefix is what the keys of one partition begin with.
func PartitionPrefix(partition int) string {
	return PartitionsPrefix + strconv.Itoa(partition) + "/"
}

// PartitionOwnerKey is the key that the coordinator holds which should lead
// the partition.
func PartitionOwnerKey(partition int) string {
	return PartitionsPrefix + strconv.Itoa(partition) + ownerSuffix
}

// PartitionReadyKey is the key under which the leader says that it serves.
func PartitionReadyKey(partition int) string {
	return PartitionsPrefix + strconv.Itoa(partition) + readySuffix
}

// PartitionKnownKey is the key that says what the partition's log is known to
// hold.
func PartitionKnownKey(partition int) string {
	return PartitionsPrefix + strconv.Itoa(partition) + knownSuffix
}

// PartitionChosenKey is the key that says which coordinator should lead the
// partition. Whoever leads it meanwhile hands it over.
func PartitionChosenKey(partition int) string {
	return PartitionsPrefix + strconv.Itoa(partition) + chosenSuffix
}

// UnfitKey is there while a coordinator cannot lead a partition, or while a
// worker does not reach its leader.
func UnfitKey(partition int, id MemberID) string {
	return UnfitPrefix + strconv.Itoa(partition) + "/" + string(id)
}

// PreparedKey is there while a coordinator that is to lead a partition has read
// its log and waits until it may.
func PreparedKey(partition int, id MemberID) string {
	return PreparedPrefix + strconv.Itoa(partition) + "/" + string(id)
}

// DrainKey is there while a member is to be given nothing.
func DrainKey(id MemberID) string {
	return DrainsPrefix + string(id)
}

// ShardKey is the key of a shard's owner.
func ShardKey(shard Shard) string {
	return ShardsPrefix + shard.String()
}

// ShardPrefix is what the keys of one partition's shards begin with.
func ShardPrefix(partition int) string {
	return ShardsPrefix + strconv.Itoa(partition) + "/"
}

// ParseMemberKey is the inverse of MemberKey.
func ParseMemberKey(key string) (MemberID, bool) {
	id, found := strings.CutPrefix(key, MembersPrefix)
	return MemberID(id), found && id != "" && !strings.Contains(id, "/")
}

// ParsePartitionOwnerKey is the inverse of PartitionOwnerKey.
func ParsePartitionOwnerKey(key string) (partition int, ok bool) {
	return parsePartition(key, ownerSuffix)
}

// ParsePartitionReadyKey is the inverse of PartitionReadyKey.
func ParsePartitionReadyKey(key string) (partition int, ok bool) {
	return parsePartition(key, readySuffix)
}

// ParsePartitionChosenKey is the inverse of PartitionChosenKey.
func ParsePartitionChosenKey(key string) (partition int, ok bool) {
	return parsePartition(key, chosenSuffix)
}

// ParseUnfitKey is the inverse of UnfitKey.
func ParseUnfitKey(key string) (partition int, id MemberID, ok bool) {
	return parseMemberOf(key, UnfitPrefix)
}

// ParsePreparedKey is the inverse of PreparedKey.
func ParsePreparedKey(key string) (partition int, id MemberID, ok bool) {
	return parseMemberOf(key, PreparedPrefix)
}

// ParseDrainKey is the inverse of DrainKey.
func ParseDrainKey(key string) (MemberID, bool) {
	id, found := strings.CutPrefix(key, DrainsPrefix)
	return MemberID(id), found && id != "" && !strings.Contains(id, "/")
}

// ParseShardKey is the inverse of ShardKey.
func ParseShardKey(key string) (Shard, bool) {
	rest, found := strings.CutPrefix(key, ShardsPrefix)
	partition, slot, split := strings.Cut(rest, "/")
	p, okP := parseNumber(partition)
	s, okS := parseNumber(slot)
	if !found || !split || !okP || !okS {
		return Shard{}, false
	}
	return Shard{Partition: p, Slot: s}, true
}

func parsePartition(key, suffix string) (int, bool) {
	rest, hasPrefix := strings.CutPrefix(key, PartitionsPrefix)
	number, hasSuffix := strings.CutSuffix(rest, suffix)
	partition, ok := parseNumber(number)
	return partition, ok && hasPrefix && hasSuffix
}

func parseMemberOf(key, prefix string) (partition int, id MemberID, ok bool) {
	rest, found := strings.CutPrefix(key, prefix)
	number, name, split := strings.Cut(rest, "/")
	partition, numeric := parseNumber(number)
	return partition, MemberID(name), found && split && numeric && name != "" && !strings.Contains(name, "/")
}

// parseNumber reads a number as the keys spell it, and no other spelling.
func parseNumber(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || strconv.Itoa(n) != text {
		return 0, false
	}
	return n, true
}

// EncodeValue is the value of a key: JSON, so that people can read it too.
func EncodeValue[T MemberID | Info | PartitionReady | PartitionKnown](value T) ([]byte, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encoding value: %w", err)
	}
	return encoded, nil
}

// DecodeValue is the inverse of EncodeValue. Fields it does not know are
// ignored: a newer version may have written the value.
func DecodeValue[T MemberID | Info | PartitionReady | PartitionKnown](entry Entry) (T, error) {
	var value T
	if err := json.Unmarshal(entry.Value, &value); err != nil {
		return value, fmt.Errorf("decoding value of %s: %w", entry.Key, err)
	}
	return value, nil
}

// Package cluster knows who is here and who owns what: leases, the keys that
// live on them, and a view of both that follows every change.
//
// It keeps small facts only: members, owners of partitions and shards, the
// assigner's election. Store has two implementations, etcd (embedded or
// external) and memory for tests; both pass the suite in package clustertest.
//
// # How ownership works
//
// A process has one lease. Its member key, the partitions it should lead and
// the shards it works on are keys on that lease, so they can only be lost
// together: when a process dies, the store ends the lease and all its keys are
// gone in one revision. Whoever watches sees a member with everything it owns,
// or no trace of it, and needs no rule for what lies between. The assigner
// writes a shard's key on the lease of the worker it gives the shard to, for
// the same reason.
//
// The lease is a promise about time, made by one machine to another, and it is
// kept without comparing their clocks. The store ends a lease no sooner than
// ttl after it renewed it, and it renewed it after the renewal was sent.
// So the process counts from the moment of sending, on its own clock, and
// stops a quarter of ttl early (Member.Deadline). A reply that took long makes
// the deadline earlier, never later. The clock is one that goes on while the
// machine is suspended. A process that was paused finds its deadline passed
// before it does anything else, if it asks (Member.Alive) before each thing
// that it does on the strength of the lease.
//
//	sent     renewed                deadline              ends, at the earliest
//	 |----------|--------------------------|----------------|-----------|
//	 |<------------ 3/4 ttl -------------->|<-- margin ---->|
//	            |<------------------------- ttl ----------------------->|
//
// Asking and then acting is two steps, and a process can be paused between
// them for any length of time. No lease helps against that, so nothing that
// matters rests on leases alone. The lease decides who should try; the log
// decides who may:
//
//   - A partition's leader takes the owner key by creating it (Campaign), then
//     fences the log. From then on no append of an older leader succeeds,
//     whatever that one believes of its lease. Only then does it publish the
//     ready key.
//   - A shard's worker is told by the partition's leader what to send. The
//     revision of the shard's key is its epoch: the leader listens to the
//     highest one it knows of. A worker that overslept may have sent again what
//     its successor sends: a duplicate, which at-least-once permits, and it
//     cannot mark a delivery failed.
//
// A lease that is in doubt is not a lease that is lost. When a deadline passes,
// the process only knows that the store has not answered in time. If the store
// lives and has ended the lease, somebody else has been chosen. If the store is
// down, nobody has: it ends no leases while it is down, and when it comes back
// it gives each its full ttl again. Both look alike from here. So a process in
// doubt keeps what it has, begins nothing new that only the lease entitles it
// to, and goes by what the better authority says meanwhile: a leader whose
// appends succeed is the leader; a worker to which the leader still talks is
// the shard's worker. The cluster serves on without its store; what stops is
// change: nobody joins, nothing moves, and who dies is not replaced until the
// store is back. When the store answers that the lease is gone (Member.Lost),
// the process gives up everything and joins anew, as Live does.
//
// One id, one member: a process that starts while an earlier one with its id is
// still on record waits until that lease has expired. It does not end the
// lease itself, for it cannot know that the other is dead and not paused.
package cluster

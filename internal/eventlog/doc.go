// Package eventlog is the one place where Fanfare makes things durable: an
// append-only log of records per partition, with the snapshots that shorten
// its replay.
//
// There are two implementations: NATS JetStream, embedded or external, for
// everything that is real, and memory for tests. Both pass the suite in
// package eventlogtest. See doc.go for how a log is fenced.
//
// # One record holds many events
//
// To make something durable is to wait for a disk. A store that syncs every
// record manages one or two thousand of them a second, whether they hold a
// hundred bytes or a hundred kilobytes; the price is per record. So a leader
// never appends an event: it appends a block, which is everything that arrived
// while the block before was under way. When nothing is under way it appends at
// once. Under load the blocks grow, up to half a megabyte, and the rate of
// events grows with them while that of records stays. No timer is involved and
// nobody waits for company. A record must fit a NATS message, 1 MiB by default,
// so MaxRecordBytes is that less room for headers.
//
// # The fence
//
// A partition has one leader, who alone appends. A lease decides who tries to
// be it, but a lease cannot stop the leader that was: paused, it wakes with a
// clock that stood still and an append half sent. What stops it has to be where
// the append ends up.
//
// Every append therefore names the record it stands on, and the store adds it
// only if that one is still the last: compare-and-append. A new leader reads the
// log to its end, appends a fence, a record that says "epoch 8 begins", on
// condition that nothing came in between, and serves only when that append has
// succeeded. Two that try at once cannot both succeed. From then on each append
// of the old leader stands on a record that is not the last any more, and fails
// with ErrConflict; this is how it learns that it is not the leader. Nothing is
// ever read to find out who leads, so nothing can be stale.
//
//	old leader     5 ─ 6 ─ 7 ┄┄┄┄┄┄┄┄┄┄┄┄ 8' on 7: conflict, step down
//	new leader               └─ 8 fence ─ 9 ─ 10
//
// Why not the revision of an etcd key for the epoch? Because etcd and the log
// are two stores: the log cannot check a key of etcd when a record arrives, and
// an etcd restored from a backup hands out revisions a second time. The epoch is
// one more than that of the last fence in the log, and the log alone decides.
//
// A leader may chain appends without waiting: 8 on 7, 9 on 8. Then the sequence
// alone is not enough of a condition. If the fence became record 8, the old
// leader's 8 fails, but its 9 wants 8 to be the last, and 8 is. So each append
// carries an id, and one that was called before the result of the one ahead was
// received also names that one's id: it stands on this very record, not on
// whatever has its number. Both conditions are checked by the server in the
// same step in which it stores. Once one of a chain has failed, so do all behind
// it, at the server or, when only a reply was lost, in this process.
//
// # Unknown outcomes
//
// An append that is not answered in time may have been stored, may be stored
// later, or never. Nothing here retries it: a retry could overtake what is
// chained behind it, or append a record twice. The caller gets ErrUnknown, reads
// back from its place, and finds one of three things:
//
//   - its own bytes: the append has succeeded;
//   - other bytes: another leader is ahead, and this one steps down;
//   - nothing: it appends the same bytes in the same place again. The first
//     attempt may still arrive. Whichever comes second conflicts, and since they
//     are the same bytes, reading once more shows the first case.
//
// So there is one content for each sequence, whatever the network does. An
// answer that is refused with an error that this package does not know counts as
// unknown, too: reading back is always right.
//
// A disk that is full or broken makes an embedded server silent: it does not
// answer the append that failed, nor any after it, until it is started again.
// Appends that stay unknown for long mean the process should end.
//
// # Integrity
//
// Sequences have no gaps. Read checks that: between First and Last a record that
// is not there is ErrDamaged, and so is a stream that vanished while it was
// open. Neither mends itself, and neither may be taken for an empty log. Open
// cannot tell a log that vanished while it was closed from one that never was;
// whoever opens it can, by what it knows from elsewhere: a snapshot that is
// newer than State's Last, an acknowledged sequence, an epoch. Records of
// JetStream carry a checksum on disk, and a record whose checksum is wrong is
// one that is missing. What the records mean, and that each follows from the one
// before, is the business of the ledger, which hashes them into a chain.
//
// Reads never come from a replica that is behind. The bounds come from the
// stream's leader, and a reader that finds fewer records than they promise waits
// for them.
//
// # Space
//
// A store that makes room by dropping old records drops what is still owed. So a
// log has no age limit, and a log that is full refuses what is new, with
// ErrNoSpace. Only Purge removes records, up to where the leader knows that
// nothing is owed any more. Purge never moves the end: a log that was purged
// whole goes on with the next sequence.
//
// Snapshots are not bounded by the log's limit, because they are what allows it
// to be purged. They are records, too, in a sequence of their own, so that they
// are appended, synced, read and fenced by the same code: see partitionLog.
// JetStream's object store would do, but it sends a whole snapshot at once,
// leaves the pieces of one that was cut short for ever, and waits in vain for
// those of one that lost them.
package eventlog

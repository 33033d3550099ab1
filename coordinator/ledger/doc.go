// Package ledger knows what every subscription of a partition is owed.
//
// It is a fold: state and record in, next state out. It reads no clock (the
// only time is the records'), does no I/O, starts no goroutine, and depends on
// no map's order, so the same log always gives the same state, byte for byte;
// a snapshot and the records behind it give what all records give. That is
// what makes a new leader right, and it is tested by comparing hashes.
//
// # What is owed is computed, not stored
//
// An event is in the log once. When the record that holds it is folded, it is
// matched with the subscriptions of its tenant, and its position is put into
// the outstanding set of each that wants it. A delivery that succeeds leaves
// the set; one that fails stays there with the time of its next attempt; so
// what the ledger holds is the short list of what is not done.
//
// # Behind and current
//
// A subscription that takes events more slowly than they come would grow
// without bound. So its outstanding set is bounded, and when an event does
// not fit, the subscription goes behind: it leaves the match index, keeps the
// position of that event as its cursor, and from then on new events cost it
// nothing. It is a number in the log. When there is room again the leader
// reads the log from the cursor on and has what it finds admitted, by a
// record; once the cursor has passed the last event, the subscription is
// current again. A dead endpoint therefore costs a bounded set and a number,
// whatever its backlog.
//
// # Idempotency
//
// The ids that were published within the window are remembered as 128-bit
// hashes, in the order they came, bounded by age and by count. The leader asks
// Seen before it writes; the fold only remembers.
package ledger

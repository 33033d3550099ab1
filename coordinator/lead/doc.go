// Package lead leads one partition: it writes the partition's log, folds it,
// and has the workers deliver what it says is owed.
//
// # One loop
//
// A leader is one goroutine that owns the ledger and the dispatch machine.
// Everybody else, the API, the sessions of workers, the log's answers, hands
// it a function to run. So nothing in it is locked, and nothing in it waits:
//
//	publish, changes           outcomes
//	       │                       │
//	       ▼                       ▼
//	 ┌──────────── loop ────────────────┐
//	 │ pending ─seal─▶ block ─▶ append   │──▶ log
//	 │                           │       │
//	 │ ledger ◀──────fold────────┘       │
//	 │    │ changes                      │
//	 │    ▼                              │
//	 │ dispatch ─────sends──▶ sessions   │──▶ workers
//	 └────────────────┬──────────────────┘
//	                  ▼ records
//	              follower ──▶ history, snapshots, watchers
//
// # Group commit
//
// While one block is being appended, all that arrives gathers. When the append
// is answered the block is folded, who waited for it is told, and what has
// gathered is sealed into the next. An idle partition appends at once; a busy
// one packs. Nothing lingers on purpose.
//
// # Leading and not leading any more
//
// A leader begins by replaying the log from the newest snapshot and appending
// a fence, by compare-and-append; whoever led before fails at its next append.
// An append that was not answered is read back, and appended again, the same
// bytes at the same place, until it is known to be there, or to be somebody
// else's, which ends the leadership.
//
// Before it fences a log, a leader compares it with all that is known of it: the
// history's position, the newest snapshot, and a mark kept apart from all of
// them. A log that lacks what was acknowledged, or that does not follow from
// itself, is not led: Halts tells such an error from one that may pass. The
// same holds for what is read back later.
//
// # The follower
//
// A second fold of the same records, off the loop, writes what people search
// (package history) and the snapshots. It may be slow without anybody waiting,
// and it begins after a crash exactly where the history stands: a snapshot is
// never newer than the history, so there is always one to begin with.
package lead

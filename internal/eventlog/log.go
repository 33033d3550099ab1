package eventlog

import (
	"context"
	"errors"
)

// Limits of a log. A record must fit the 1 MiB that a NATS server accepts by
// default.
const (
	MaxRecordBytes = 1<<20 - 4096 // one record, in bytes
	MaxReadBytes   = 1 << 20      // one Read, in bytes of data
	MaxReadRecords = 512          // one Read: small records should share what it costs
)

// What can go wrong with a log. Every error a Log returns wraps one of these,
// or is a context's, or says that the store cannot be reached just now.
var (
	// ErrConflict: record prev+1 exists already, or prev does not. The record
	// was not stored. Somebody else writes this log, or wrote it.
	ErrConflict = errors.New("log: another writer is ahead")
	// ErrUnknown: no answer came in time; the record may be stored or not.
	// Read back from prev+1 to find out, and append the same bytes again if
	// it is not there.
	ErrUnknown = errors.New("log: outcome of the append is unknown")
	// ErrNoSpace: the store refuses for want of space. The record was not
	// stored.
	ErrNoSpace = errors.New("log: no space left")
	// ErrTooLarge: the record is over MaxRecordBytes. It was not stored.
	ErrTooLarge = errors.New("log: record too large")
	// ErrPurged: the record asked for was purged.
	ErrPurged = errors.New("log: record was purged")
	// ErrDamaged: records between First and Last are missing, or the whole log
	// is. Nothing mends itself by trying again.
	ErrDamaged = errors.New("log: records are missing")
	// ErrNoSnapshot: there is no intact snapshot as old as was asked for.
	ErrNoSnapshot = errors.New("log: no snapshot")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log: closed")
)

// Record is one entry of a log.
type Record struct {
	Seq  uint64 // 1, 2, 3, …: without gaps
	Data []byte // not to be changed
}

// State says where a log begins and ends.
type State struct {
	First uint64 // oldest record still there; Last+1 if none is
	Last  uint64 // newest record ever appended; 0 if none was
	Bytes uint64 // what the records take in the store
}

// Log is the ordered, durable records of one partition. It is safe for
// concurrent use, but Append is meant for one caller: the partition's leader.
type Log interface {
	// Append asks the store to add data as record prev+1, on condition that
	// prev is the last one, and returns at once. Appends of one Log take
	// effect in the order of the calls, so a caller may chain several without
	// waiting. The channel receives exactly one value: nil once the record is
	// durable, or ErrConflict, ErrUnknown, ErrNoSpace, ErrTooLarge or
	// ErrClosed. When one fails, those chained behind it, which were called
	// before its result was received, fail too: with ErrUnknown or ErrClosed
	// if that is what it failed with, with ErrConflict otherwise. The first
	// failure is the one that says what happened. data must not be changed
	// afterwards.
	Append(prev uint64, data []byte) <-chan error

	// Read returns records from seq on, in order and without gaps: at least
	// one if there is one, at most so many, which MaxReadRecords bounds, and no
	// more than MaxReadBytes of data unless the first alone is larger. It
	// returns nothing when from is past the end, ErrPurged when from is before
	// the beginning, and ErrDamaged when it is neither and yet not there. It
	// never returns a record that is not durable.
	Read(ctx context.Context, from uint64, most int) ([]Record, error)

	// State returns the log's bounds as the store has them now.
	State(ctx context.Context) (State, error)

	// Purge removes the records up to and including upTo, or all there are if
	// upTo is past the end; the next append goes on where it would have. It
	// may be repeated.
	Purge(ctx context.Context, upTo uint64) error

	// SaveSnapshot keeps data as the state after record seq. It is atomic: a
	// torn snapshot is never loaded. The two with the highest seq are kept;
	// one that is older than both is not saved, which is no error.
	SaveSnapshot(ctx context.Context, seq uint64, data []byte) error

	// LoadSnapshot returns the newest intact snapshot with seq <= atMost, or
	// ErrNoSnapshot.
	LoadSnapshot(ctx context.Context, atMost uint64) (seq uint64, data []byte, err error)

	// Close releases what the log holds. Appends under way end with
	// ErrClosed or their own result.
	Close() error
}

// Store opens the logs of the partitions. Opening creates a log that never
// existed.
type Store interface {
	Open(ctx context.Context, partition int) (Log, error)
}

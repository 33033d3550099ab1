// Package history is the view of the log that people search: events,
// deliveries and attempts, in SQL.
//
// It is derived: each partition's rows are written in the order of its log,
// together with the position they come from, in one transaction. So after any
// crash it goes on exactly where it stopped, and it can be thrown away and
// made anew. The delivery path never asks it.
package history

import (
	"context"
	"errors"
	"time"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// What can go wrong. Any other error is the database's.
var (
	// ErrPosition: a batch does not begin where the history stands.
	ErrPosition = errors.New("history: batch does not follow the position")
	// ErrNotFound: there is no such row, or it is no longer kept.
	ErrNotFound = errors.New("history: not found")
	// ErrPageToken: the token was not made by this query.
	ErrPageToken = errors.New("history: page token does not fit the query")
)

// EventKey names an event: a partition, the sequence of a record in its log,
// and the event's index in that record. Keys of one partition sort in the
// order of publishing.
type EventKey struct {
	Partition int
	Sequence  uint64
	Index     uint32
}

// DeliveryKey names a delivery: an event, and the number of a subscription
// within the event's partition.
type DeliveryKey struct {
	EventKey
	Subscription uint64
}

// EventRow is an event that became durable.
type EventRow struct {
	Key    EventKey
	Tenant string
	Event  *fanfarev1.Event // whole, with id and publish_time
}

// DeliveryRow is a delivery as it is after a change; it replaces the row of
// the same key. Its event's id and type are not in it, since who folds an
// outcome does not know them: they are joined from the event's row, which was
// written before, in this batch or an earlier one (empty if it was not).
type DeliveryRow struct {
	Key            DeliveryKey
	Tenant         string
	SubscriptionID string
	State          fanfarev1.Delivery_State
	Attempts       int32
	NextAttempt    time.Time // zero unless PENDING
	Created        time.Time
	Ended          time.Time // zero while PENDING
	LastStatus     int32
	LastErrorClass string
}

// AttemptRow is an attempt that was made. A second row of the same key and
// number replaces the first.
type AttemptRow struct {
	Key            DeliveryKey
	Tenant         string
	SubscriptionID string
	// Attempt without its name, which follows from Key and Number.
	Attempt *fanfarev1.Attempt
}

// Batch is what records Prev+1 … Sequence of a partition's log changed.
type Batch struct {
	Partition int
	Prev      uint64
	Sequence  uint64
	// Floor is the first record that the log still has. What it and its
	// successors say is not removed by Expire. 0 if that is not known.
	Floor      uint64
	Events     []EventRow
	Deliveries []DeliveryRow // in order; a later one of a key wins
	Attempts   []AttemptRow
}

// Page asks for one page of a list.
type Page struct {
	Size  int    // at most this many
	Token string // of the page before; empty for the first
}

// EventQuery selects events. Zero fields select all.
type EventQuery struct {
	Tenant     string // always given
	Type       string
	TraceID    string
	Start, End time.Time // of publish_time: [Start, End)
}

// DeliveryQuery selects deliveries. Zero fields select all.
type DeliveryQuery struct {
	Tenant         string // always given
	SubscriptionID string
	EventID        string
	EventType      string
	TraceID        string
	State          fanfarev1.Delivery_State
	StatusClass    int32 // first digit of the last attempt's status
	ErrorClass     string
	Start, End     time.Time // of Created: [Start, End)
}

// ScanQuery selects deliveries that have ended. Zero fields select all.
type ScanQuery struct {
	Tenant         string // always given
	SubscriptionID string
	States         []fanfarev1.Delivery_State // at least one; one that comes twice counts once
	Start, End     time.Time                  // of Created: [Start, End)
}

// ScanRow is what a replay must know of a delivery.
type ScanRow struct {
	Key            DeliveryKey
	SubscriptionID string
	EventType      string // empty if the event's row is gone
	State          fanfarev1.Delivery_State
	Attempts       int32
}

// Store is a history. Safe for concurrent use; batches of one partition are
// written by one caller.
type Store interface {
	// Position returns the sequence up to which a partition's log is in the
	// history; 0 if nothing is.
	Position(ctx context.Context, partition int) (uint64, error)
	// Write stores a batch and its position, or nothing. ErrPosition if the
	// partition does not stand at Prev.
	Write(ctx context.Context, batch Batch) error

	// Sync makes all that was written survive a loss of power. Until it has
	// returned, a loss of power may take the newest batches back, each whole.
	Sync(ctx context.Context) error

	// Event returns an event by id, with data or that it has expired; the newest if an id was used
	// again after the idempotency window.
	Event(ctx context.Context, tenant, id string) (*fanfarev1.Event, error)
	// Events lists events newest first, without data.
	Events(ctx context.Context, query EventQuery, page Page) (events []*fanfarev1.Event, next string, err error)
	// Delivery returns one delivery of a tenant.
	Delivery(ctx context.Context, tenant string, key DeliveryKey) (*fanfarev1.Delivery, error)
	// Deliveries lists deliveries newest event first.
	Deliveries(ctx context.Context, query DeliveryQuery, page Page) (deliveries []*fanfarev1.Delivery, next string, err error)
	// Attempts lists the attempts of a delivery, first to last.
	Attempts(ctx context.Context, tenant string, key DeliveryKey, page Page) (attempts []*fanfarev1.Attempt, next string, err error)

	// Scan lists deliveries oldest event first, and those of one event by the
	// number of their subscription: at most limit, which is positive, of those
	// after a key (the zero key: from the first). Fewer than limit means that
	// no more follow.
	//
	// Each call sees the history as it is then. So whoever goes on after the
	// last key of each call meets a delivery at most once, as it was when the
	// cursor came by, whatever becomes of it before or afterwards.
	Scan(ctx context.Context, query ScanQuery, after DeliveryKey, limit int) ([]ScanRow, error)
	// Count returns how many deliveries a query selects: as many as Scan would
	// list at this moment.
	Count(ctx context.Context, query ScanQuery) (int64, error)

	// Statistics returns what happened to a subscription's deliveries, by the
	// minute or, of older times, by the hour: what began in the minute or hour
	// of Start or later, and before End. Oldest first. One time can be in
	// several rows, but nothing is counted in two.
	Statistics(ctx context.Context, query StatisticsQuery) ([]StatisticsRow, error)

	// Expire removes some of what is older than the retention at a time, and
	// returns what it did. It is short, so that writes do not wait for long;
	// it is to be called again at once unless it says that it is done. Several
	// may be called at a time.
	Expire(ctx context.Context, retention Retention, now time.Time) (Expired, error)

	// Close ends the use of the store.
	Close() error
}

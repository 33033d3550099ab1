package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// queries is the half of a Store that reads. It is the same for every SQL
// database with the tables of migrations.
type queries struct {
	db     *sql.DB
	tables tables
}

// tables says where an engine has what is asked for.
type tables struct {
	// deliveries has every delivery with its event or, if that is not known,
	// with nulls.
	deliveries string
	// eventsFirst has the deliveries whose event is known, and is to be read
	// in the order of the events.
	eventsFirst string
	// passingType is the column type, such that no index of it is used: where
	// a type is common, to pass over the other types in order is less work than
	// to sort all of it.
	passingType string
	// payloads has every event with data, or whether that has expired.
	payloads, expired string
}

// Position implements Store.
func (q queries) Position(ctx context.Context, partition int) (uint64, error) {
	sequence, err := scanPosition(q.db.QueryRowContext(ctx, selectPosition, partition))
	if err != nil {
		return 0, fmt.Errorf("reading position of partition %d: %w", partition, err)
	}
	return sequence, nil
}

const selectPosition = "SELECT sequence FROM positions WHERE partition = $1"

// scanPosition reads the row of selectPosition, or that there is none.
func scanPosition(row *sql.Row) (uint64, error) {
	var sequence int64
	if err := row.Scan(&sequence); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	return uint64(sequence), nil //nolint:gosec // the inverse of integer
}

// Event implements Store.
func (q queries) Event(ctx context.Context, tenant, id string) (*fanfarev1.Event, error) {
	l := eventList(tenant, "event, data, "+q.tables.expired)
	l.table = q.tables.payloads
	l.and("event_id", "=", id)
	events, _, err := fetch(ctx, q.db, l, Page{Size: 1}, func(_ []int64, scan func(...any) error) (*fanfarev1.Event, error) {
		var encoded, data []byte
		var expired bool
		if err := scan(&encoded, &data, &expired); err != nil {
			return nil, err
		}
		event, err := decodeEvent(tenant, encoded)
		if err == nil {
			event.Data, event.DataExpired = data, expired
		}
		return event, err
	})
	return single(events, err)
}

// Events implements Store. The order is that of publish_time and, in one
// millisecond, of the log; in one partition that is the order of the log.
func (q queries) Events(ctx context.Context, query EventQuery, page Page) ([]*fanfarev1.Event, string, error) {
	return fetch(ctx, q.db, query.list(q.tables), page, func(_ []int64, scan func(...any) error) (*fanfarev1.Event, error) {
		var encoded []byte
		if err := scan(&encoded); err != nil {
			return nil, err
		}
		return decodeEvent(query.Tenant, encoded)
	})
}

// list returns the events of the query, without data.
func (q EventQuery) list(in tables) list {
	l := eventList(q.Tenant, "event")
	if q.Type != "" {
		l.and(in.passingType, "=", q.Type)
	}
	if q.TraceID != "" {
		l.and("trace_id", "=", q.TraceID)
		l.terms = append(l.terms, hasTrace)
	}
	l.between("publish_ms", q.Start, q.End)
	return l
}

// eventList lists all events of a tenant.
func eventList(tenant, columns string) list {
	l := list{
		table:   "events",
		columns: columns,
		key:     []string{"publish_ms", "partition", "sequence", "idx"},
		order:   newestFirst,
	}
	l.and("tenant", "=", tenant)
	return l
}

// Delivery implements Store.
func (q queries) Delivery(ctx context.Context, tenant string, key DeliveryKey) (*fanfarev1.Delivery, error) {
	l := q.tables.deliveryList(tenant)
	l.of(key)
	deliveries, _, err := fetch(ctx, q.db, l, Page{Size: 1}, deliveryReader(tenant))
	return single(deliveries, err)
}

// Deliveries implements Store. The order is that of the log, and in one event
// of the subscription's number, the largest first.
func (q queries) Deliveries(ctx context.Context, query DeliveryQuery, page Page) ([]*fanfarev1.Delivery, string, error) {
	return fetch(ctx, q.db, query.list(q.tables), page, deliveryReader(query.Tenant))
}

// list returns the deliveries of the query.
func (q DeliveryQuery) list(in tables) list {
	l := in.deliveryList(q.Tenant)
	if q.SubscriptionID != "" {
		l.and("subscription_id", "=", q.SubscriptionID)
	}
	if q.EventID != "" {
		l.and("event_id", "=", q.EventID)
	}
	if q.State != fanfarev1.Delivery_STATE_UNSPECIFIED {
		l.and("state", "=", int64(q.State))
	}
	if q.State != fanfarev1.Delivery_STATE_UNSPECIFIED && q.State != fanfarev1.Delivery_DELIVERED {
		l.terms = append(l.terms, notDelivered)
	}
	if q.State > fanfarev1.Delivery_DELIVERED {
		l.terms = append(l.terms, endedOtherwise)
	}
	if q.TraceID != "" {
		l.and("trace_id", "=", q.TraceID)
		l.terms = append(l.terms, hasTrace)
	}
	if q.StatusClass != 0 {
		l.and("last_status / 100", "=", int64(q.StatusClass))
	}
	if q.StatusClass >= 3 {
		l.terms = append(l.terms, notSucceeded)
	}
	if q.ErrorClass != "" {
		l.and("last_error_class", "=", q.ErrorClass)
		l.terms = append(l.terms, hasError)
	}
	if q.EventType != "" {
		q.andType(&l, in)
	}
	l.between("created_ms", q.Start, q.End)
	return l
}

// andType selects the events of a type. If nothing else is asked for that an
// index finds, they are found first; else the type is looked at last.
func (q DeliveryQuery) andType(l *list, in tables) {
	if q.SubscriptionID+q.EventID+q.TraceID+q.ErrorClass != "" || q.StatusClass >= 3 ||
		q.State != fanfarev1.Delivery_STATE_UNSPECIFIED && q.State != fanfarev1.Delivery_DELIVERED {
		l.and(in.passingType, "=", q.EventType)
		return
	}
	l.table = in.eventsFirst
	l.and("type", "=", q.EventType)
}

// These show the database that an index of some rows has all rows of another
// condition.
const (
	notDelivered = "state <> 2"
	notSucceeded = "last_status >= 300"
	hasError     = "last_error_class <> ''"
	hasTrace     = "trace_id <> ''"
	// endedOtherwise is of deliveries_ended_by_subscription.
	endedOtherwise = "state > 2"
)

// deliveryKey returns the columns of a DeliveryKey.
func deliveryKey() []string {
	return []string{"partition", "sequence", "idx", "subscription"}
}

// parseDeliveryKey returns the key that is in the columns of deliveryKey.
func parseDeliveryKey(columns []int64) DeliveryKey {
	return DeliveryKey{
		EventKey:     EventKey{Partition: int(columns[0]), Sequence: uint64(columns[1]), Index: uint32(columns[2])}, //nolint:gosec // the inverse of integer
		Subscription: uint64(columns[3]),                                                                            //nolint:gosec // the inverse of integer
	}
}

// deliveryList lists all deliveries of a tenant.
func (in tables) deliveryList(tenant string) list {
	l := list{
		table: in.deliveries,
		columns: "coalesce(event_id, ''), coalesce(type, ''), subscription_id, created_ms, state, attempts, " +
			"next_attempt_ms, ended_ms, last_status, last_error_class, coalesce(trace_id, '')",
		key:   deliveryKey(),
		order: newestFirst,
	}
	l.and("tenant", "=", tenant)
	return l
}

// deliveryReader reads a row of deliveryList.
func deliveryReader(tenant string) func([]int64, func(...any) error) (*fanfarev1.Delivery, error) {
	return func(key []int64, scan func(...any) error) (*fanfarev1.Delivery, error) {
		d := &fanfarev1.Delivery{}
		var eventID, subscriptionID string
		var created, next, ended int64
		err := scan(&eventID, &d.EventType, &subscriptionID, &created, &d.State, &d.AttemptCount,
			&next, &ended, &d.LastStatusCode, &d.LastErrorClass, &d.TraceId)
		d.Name = deliveryName(tenant, parseDeliveryKey(key))
		if eventID != "" {
			d.Event = eventName(tenant, eventID)
		}
		d.Subscription = "tenants/" + tenant + "/subscriptions/" + subscriptionID
		d.CreateTime, d.NextAttemptTime, d.EndTime = timestamp(created), timestamp(next), timestamp(ended)
		return d, err
	}
}

// Scan implements Store. Sequences begin with 1, so the zero key is before
// every row.
func (q queries) Scan(ctx context.Context, query ScanQuery, after DeliveryKey, limit int) ([]ScanRow, error) {
	if len(query.States) == 0 {
		return nil, errNoStates
	}
	l := query.list(q.tables)
	l.after([]int64{int64(after.Partition), integer(after.Sequence), int64(after.Index), integer(after.Subscription)})
	rows, _, err := fetch(ctx, q.db, l, Page{Size: limit}, func(key []int64, scan func(...any) error) (ScanRow, error) {
		var row ScanRow
		err := scan(&row.SubscriptionID, &row.EventType, &row.State, &row.Attempts)
		row.Key = parseDeliveryKey(key)
		return row, err
	})
	return rows, err
}

// Count implements Store.
func (q queries) Count(ctx context.Context, query ScanQuery) (n int64, _ error) {
	if len(query.States) == 0 {
		return 0, errNoStates
	}
	l := query.counted(q.tables)
	if err := q.db.QueryRowContext(ctx, l.count(), l.args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting deliveries: %w", err)
	}
	return n, nil
}

var errNoStates = errors.New("history: no states to scan for")

// list returns the deliveries of the query.
func (q ScanQuery) list(in tables) list {
	l := list{
		table:   in.deliveries,
		columns: "subscription_id, coalesce(type, ''), state, attempts",
		key:     deliveryKey(),
		order:   oldestFirst,
		either:  q.states(),
	}
	l.and("tenant", "=", q.Tenant)
	if q.SubscriptionID != "" {
		l.and("subscription_id", "=", q.SubscriptionID)
	}
	l.between("created_ms", q.Start, q.End)
	return l
}

// counted returns the deliveries of the query to be counted only. The events,
// of which each delivery has one at most, would not change their number, but
// each would be looked up.
func (q ScanQuery) counted(in tables) list {
	l := q.list(in)
	l.table = "deliveries"
	return l
}

// states returns the conditions for list.either: one for each state, which is
// a range of deliveries_by_state or, in one subscription, of
// deliveries_ended_by_subscription; but one for all if DELIVERED is among them,
// which has no index and so makes every row be looked at.
func (q ScanQuery) states() []string {
	states := slices.Compact(slices.Sorted(slices.Values(q.States)))
	numbers := make([]string, len(states))
	searches := make([]string, len(states))
	for i, state := range states {
		numbers[i] = strconv.Itoa(int(state))
		searches[i] = "state = " + numbers[i] + " AND " + notDelivered
		if state > fanfarev1.Delivery_DELIVERED {
			searches[i] += " AND " + endedOtherwise
		}
	}
	if slices.Contains(states, fanfarev1.Delivery_DELIVERED) {
		return []string{"state IN (" + strings.Join(numbers, ", ") + ")"}
	}
	return searches
}

// Attempts implements Store. There are none, and no error, when there is no
// such delivery.
func (q queries) Attempts(ctx context.Context, tenant string, key DeliveryKey, page Page) ([]*fanfarev1.Attempt, string, error) {
	prefix := deliveryName(tenant, key) + "/attempts/"
	return fetch(ctx, q.db, attemptList(tenant, key), page, func(number []int64, scan func(...any) error) (*fanfarev1.Attempt, error) {
		a := &fanfarev1.Attempt{}
		var start, latency, next int64
		err := scan(&a.Result, &start, &latency, &a.StatusCode, &a.ErrorClass, &a.Error, &a.ResponseBody, &a.Worker, &next)
		a.Name = fmt.Sprint(prefix, number[0])
		a.Number = int32(number[0]) //nolint:gosec // was an int32
		a.StartTime, a.NextAttemptTime = timestamp(start), timestamp(next)
		a.Latency = durationpb.New(time.Duration(latency) * time.Microsecond)
		return a, err
	})
}

// attemptList lists all attempts of a delivery.
func attemptList(tenant string, key DeliveryKey) list {
	l := list{
		table:   "attempts",
		columns: "result, start_ms, latency_us, status_code, error_class, error, response_body, worker, next_attempt_ms",
		key:     []string{"number"},
		order:   oldestFirst,
	}
	l.and("tenant", "=", tenant)
	l.of(key)
	return l
}

// of selects the rows of one delivery.
func (l *list) of(key DeliveryKey) {
	l.and("("+strings.Join(deliveryKey(), ", ")+")", "=",
		int64(key.Partition), integer(key.Sequence), int64(key.Index), integer(key.Subscription))
}

// between selects the rows whose column lies in [start, end); a zero time
// leaves that side open.
func (l *list) between(column string, start, end time.Time) {
	if !start.IsZero() {
		l.and(column, ">=", ceilMillis(start))
	}
	if !end.IsZero() {
		l.and(column, "<", ceilMillis(end))
	}
}

// single returns the only item of a list, or ErrNotFound.
func single[T any](items []T, err error) (item T, _ error) {
	if err != nil {
		return item, err
	}
	if len(items) == 0 {
		return item, ErrNotFound
	}
	return items[0], nil
}

func eventName(tenant, id string) string {
	return "tenants/" + tenant + "/events/" + id
}

func deliveryName(tenant string, key DeliveryKey) string {
	return "tenants/" + tenant + "/deliveries/" + DeliveryID(key)
}

// encodeEvent returns an event without its name, which follows from its id,
// and its data, which has a column of its own. (A clone would copy the data,
// and going through the fields by reflection costs more than encoding them.)
func encodeEvent(event *fanfarev1.Event) ([]byte, error) {
	return proto.Marshal(&fanfarev1.Event{
		Id: event.GetId(), Type: event.GetType(), Source: event.GetSource(), Subject: event.GetSubject(),
		Time: event.GetTime(), DataContentType: event.GetDataContentType(), DataSchema: event.GetDataSchema(),
		OrderingKey: event.GetOrderingKey(), Extensions: event.GetExtensions(),
		PublishTime: event.GetPublishTime(), DataExpired: event.GetDataExpired(),
	})
}

// decodeEvent is the inverse of encodeEvent; data is left out.
func decodeEvent(tenant string, encoded []byte) (*fanfarev1.Event, error) {
	event := &fanfarev1.Event{}
	if err := proto.Unmarshal(encoded, event); err != nil {
		return nil, fmt.Errorf("decoding event: %w", err)
	}
	event.Name = eventName(tenant, event.Id)
	return event, nil
}

// integer stores a number in SQL's signed integers. Both ways it is one to
// one; the order is kept below 2^63, which no log reaches.
func integer(n uint64) int64 {
	return int64(n) //nolint:gosec // one to one
}

// millis stores a time; the zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// ceilMillis returns the first millisecond that is not before t.
func ceilMillis(t time.Time) int64 {
	return t.Add(time.Millisecond - 1).UnixMilli()
}

// timestamp is the inverse of millis; no time is nil.
func timestamp(ms int64) *timestamppb.Timestamp {
	if ms == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(ms))
}

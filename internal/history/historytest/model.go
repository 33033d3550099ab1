package historytest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// model is a history so simple that it is seen to be right: lists of rows,
// all of which every question looks at.
type model struct {
	events     []history.EventRow
	deliveries []history.DeliveryRow
	attempts   []history.AttemptRow
}

// apply does what Store.Write does.
func (m *model) apply(batch history.Batch) {
	m.events = append(m.events, batch.Events...)
	for _, row := range batch.Deliveries {
		m.deliveries = replace(m.deliveries, row, func(old history.DeliveryRow) bool { return old.Key == row.Key })
	}
	for _, row := range batch.Attempts {
		m.attempts = replace(m.attempts, row, func(old history.AttemptRow) bool {
			return old.Key == row.Key && old.Attempt.Number == row.Attempt.Number
		})
	}
}

// replace puts row in the place of the one that is the same, or at the end.
func replace[R any](rows []R, row R, same func(R) bool) []R {
	if i := slices.IndexFunc(rows, same); i >= 0 {
		rows[i] = row
		return rows
	}
	return append(rows, row)
}

// event returns the newest event of an id.
func (m *model) event(tenant, id string) *fanfarev1.Event {
	var newest history.EventRow
	for _, row := range m.events {
		if row.Tenant == tenant && row.Event.Id == id && compareEvents(row.Key, newest.Key) > 0 {
			newest = row
		}
	}
	event := proto.CloneOf(newest.Event)
	event.Name = fmt.Sprintf("tenants/%s/events/%s", tenant, id)
	return event
}

func (m *model) listEvents(query history.EventQuery) []*fanfarev1.Event {
	rows := slices.Clone(m.events)
	slices.SortFunc(rows, func(a, b history.EventRow) int { return compareEvents(b.Key, a.Key) })
	var events []*fanfarev1.Event
	for _, row := range rows {
		if row.Tenant != query.Tenant || (query.Type != "" && row.Event.Type != query.Type) ||
			(query.TraceID != "" && traceOf(row.Event) != query.TraceID) ||
			!within(row.Event.PublishTime.AsTime(), query.Start, query.End) {
			continue
		}
		event := proto.CloneOf(row.Event)
		event.Name = fmt.Sprintf("tenants/%s/events/%s", row.Tenant, event.Id)
		event.Data = nil
		events = append(events, event)
	}
	return events
}

func (m *model) listDeliveries(query history.DeliveryQuery) []*fanfarev1.Delivery {
	rows := slices.Clone(m.deliveries)
	slices.SortFunc(rows, func(a, b history.DeliveryRow) int { return compareDeliveries(b.Key, a.Key) })
	var deliveries []*fanfarev1.Delivery
	for _, row := range rows {
		if row.Tenant != query.Tenant || (query.SubscriptionID != "" && row.SubscriptionID != query.SubscriptionID) ||
			(query.EventID != "" && m.eventOf(row).Id != query.EventID) ||
			(query.EventType != "" && m.eventOf(row).Type != query.EventType) ||
			(query.TraceID != "" && traceOf(m.eventOf(row)) != query.TraceID) ||
			(query.StatusClass != 0 && row.LastStatus/100 != query.StatusClass) ||
			(query.ErrorClass != "" && row.LastErrorClass != query.ErrorClass) ||
			(query.State != 0 && row.State != query.State) || !within(row.Created, query.Start, query.End) {
			continue
		}
		deliveries = append(deliveries, m.delivery(row))
	}
	return deliveries
}

func (m *model) scan(query history.ScanQuery, after history.DeliveryKey, limit int) []history.ScanRow {
	rows := slices.Clone(m.deliveries)
	slices.SortFunc(rows, func(a, b history.DeliveryRow) int { return compareDeliveries(a.Key, b.Key) })
	var found []history.ScanRow
	for _, row := range rows {
		if len(found) == limit {
			break
		}
		if row.Tenant != query.Tenant || (query.SubscriptionID != "" && row.SubscriptionID != query.SubscriptionID) ||
			!slices.Contains(query.States, row.State) || !within(row.Created, query.Start, query.End) ||
			compareDeliveries(row.Key, after) <= 0 {
			continue
		}
		found = append(found, history.ScanRow{
			Key: row.Key, SubscriptionID: row.SubscriptionID, EventType: m.eventOf(row).Type, State: row.State, Attempts: row.Attempts,
		})
	}
	return found
}

func (m *model) delivery(row history.DeliveryRow) *fanfarev1.Delivery {
	return &fanfarev1.Delivery{
		Name:            fmt.Sprintf("tenants/%s/deliveries/%s", row.Tenant, history.DeliveryID(row.Key)),
		Event:           fmt.Sprintf("tenants/%s/events/%s", row.Tenant, m.eventOf(row).Id),
		EventType:       m.eventOf(row).Type,
		Subscription:    fmt.Sprintf("tenants/%s/subscriptions/%s", row.Tenant, row.SubscriptionID),
		State:           row.State,
		AttemptCount:    row.Attempts,
		NextAttemptTime: timestamp(row.NextAttempt),
		CreateTime:      timestamp(row.Created),
		EndTime:         timestamp(row.Ended),
		LastStatusCode:  row.LastStatus,
		LastErrorClass:  row.LastErrorClass,
		TraceId:         traceOf(m.eventOf(row)),
	}
}

// traceOf returns the trace of an event of a world.
func traceOf(event *fanfarev1.Event) string {
	if parts := strings.Split(event.Extensions["traceparent"], "-"); len(parts) == 4 {
		return parts[1]
	}
	return ""
}

// eventOf returns the event of a delivery.
func (m *model) eventOf(row history.DeliveryRow) *fanfarev1.Event {
	i := slices.IndexFunc(m.events, func(event history.EventRow) bool { return event.Key == row.Key.EventKey })
	return m.events[i].Event
}

func (m *model) listAttempts(tenant string, key history.DeliveryKey) []*fanfarev1.Attempt {
	var attempts []*fanfarev1.Attempt
	for _, row := range m.attempts {
		if row.Key == key && row.Tenant == tenant {
			attempt := proto.CloneOf(row.Attempt)
			attempt.Name = fmt.Sprintf("tenants/%s/deliveries/%s/attempts/%d", tenant, history.DeliveryID(key), attempt.Number)
			attempts = append(attempts, attempt)
		}
	}
	slices.SortFunc(attempts, func(a, b *fanfarev1.Attempt) int { return cmp.Compare(a.Number, b.Number) })
	return attempts
}

// eventQuery asks for something that may well be there.
func (m *model) eventQuery(rng *rand.Rand) history.EventQuery {
	query := history.EventQuery{Tenant: pick(rng, tenants()).name}
	if maybe(rng) {
		query.Type = pick(rng, types())
	}
	query.Start, query.End = m.times(rng)
	return query
}

// deliveryQuery asks for something that may well be there.
func (m *model) deliveryQuery(rng *rand.Rand) history.DeliveryQuery {
	tenant := pick(rng, tenants())
	query := history.DeliveryQuery{Tenant: tenant.name}
	if maybe(rng) {
		query.SubscriptionID = pick(rng, tenant.subscriptions)
	}
	if len(m.events) > 0 && maybe(rng) {
		query.EventID = pick(rng, m.events).Event.Id
	}
	if maybe(rng) {
		query.State = fanfarev1.Delivery_State(1 + rng.Int32N(5))
	}
	if seldom(rng) {
		query.EventType = pick(rng, types())
	}
	if len(m.events) > 0 && seldom(rng) {
		query.TraceID = traceOf(pick(rng, m.events).Event)
	}
	if seldom(rng) {
		query.StatusClass = pick(rng, []int32{2, 4, 5})
	}
	if seldom(rng) {
		query.ErrorClass = pick(rng, []string{"status", "timeout", "none"})
	}
	query.Start, query.End = m.times(rng)
	return query
}

// scanQuery asks for something that may well be there.
func (m *model) scanQuery(rng *rand.Rand) history.ScanQuery {
	tenant := pick(rng, tenants())
	query := history.ScanQuery{Tenant: tenant.name}
	if maybe(rng) {
		query.SubscriptionID = pick(rng, tenant.subscriptions)
	}
	for range 1 + rng.IntN(4) { // some come twice
		query.States = append(query.States, fanfarev1.Delivery_State(2+rng.Int32N(4)))
	}
	query.Start, query.End = m.times(rng)
	return query
}

// times returns a range, open on either side half of the time, whose ends
// fall on or just beside times that events have.
func (m *model) times(rng *rand.Rand) (start, end time.Time) {
	near := func() time.Time {
		at := pick(rng, m.events).Event.PublishTime.AsTime()
		return at.Add(time.Duration(rng.IntN(5)-2) * time.Millisecond / 2)
	}
	if len(m.events) > 0 && maybe(rng) {
		start = near()
	}
	if len(m.events) > 0 && maybe(rng) {
		end = near()
	}
	return start, end
}

func compareEvents(a, b history.EventKey) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Index, b.Index))
}

func compareDeliveries(a, b history.DeliveryKey) int {
	return cmp.Or(compareEvents(a.EventKey, b.EventKey), cmp.Compare(a.Subscription, b.Subscription))
}

func within(at, start, end time.Time) bool {
	return !at.Before(start) && (end.IsZero() || at.Before(end))
}

// timestamp returns no time as nil.
func timestamp(at time.Time) *timestamppb.Timestamp {
	if at.IsZero() {
		return nil
	}
	return timestamppb.New(at)
}

func maybe(rng *rand.Rand) bool {
	return rng.IntN(2) == 0
}

func seldom(rng *rand.Rand) bool {
	return rng.IntN(4) == 0
}

func pick[T any](rng *rand.Rand, from []T) T {
	return from[rng.IntN(len(from))]
}

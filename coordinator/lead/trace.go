package lead

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/tracing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

const (
	// traceLasts is how long after an event became durable its trace is gone on
	// with. Whatever is attempted later begins a trace of its own, with a link
	// to the event's: what keeps traces puts them together within minutes, and
	// a trace that goes on for days is one that nobody can look at.
	traceLasts = time.Hour
	// tracedEvents is of how many traced events it is remembered how many of
	// their deliveries are in their traces; at most twice as many. One that was
	// forgotten gets as many again.
	tracedEvents = 1024
)

// traces has the dispatch of events that are traced recorded. Owned by the loop.
type traces struct {
	tracer    trace.Tracer
	partition int
	limit     int // of deliveries of one event that are in its trace even if nothing fails

	// How many of them there are so far, in two generations: when newer is full
	// it becomes older.
	newer, older map[ledger.Position]int
}

// newTraces returns nil if nothing is traced.
func newTraces(c Config) *traces {
	if c.Tracer == nil {
		return nil
	}
	return &traces{
		tracer: c.Tracer, partition: c.Partition, limit: max(c.TraceDeliveries, 0),
		newer: make(map[ledger.Position]int), older: make(map[ledger.Position]int),
	}
}

// begin returns what records that an event is dispatched, and notes in the
// message how many of its deliveries are recorded; nil if the event is not
// traced, which is the rule: it costs a look at its extension attributes.
func (t *traces) begin(d *linkv1.Dispatch, event *linkv1.LoggedEvent) *dispatching {
	if t == nil {
		return nil
	}
	parent, state := tracing.InEvent(event.GetEvent())
	if !tracing.IsSampled(parent) {
		return nil
	}
	targets := len(d.GetTargets())
	d.TracedTargets = uint32(t.grant(ledger.Position{Sequence: d.GetSequence(), Index: d.GetIndex()}, targets)) //nolint:gosec // at most targets
	return &dispatching{
		traces: t, event: event, origin: tracing.Remote(parent, state), at: time.Now(),
		attempt: d.GetTargets()[0].GetAttempt(),
	}
}

// grant returns how many of so many deliveries of an event are recorded.
func (t *traces) grant(at ledger.Position, wanted int) int {
	used, ok := t.newer[at]
	if !ok {
		used = t.older[at]
	}
	granted := min(wanted, t.limit-used)
	if granted <= 0 {
		return 0
	}
	if !ok && len(t.newer) >= tracedEvents {
		t.newer, t.older = make(map[ledger.Position]int), t.newer
	}
	t.newer[at] = used + granted
	return granted
}

// dispatching is a dispatch that is to be recorded.
type dispatching struct {
	traces  *traces // of which it only reads what never changes
	event   *linkv1.LoggedEvent
	origin  trace.SpanContext // the event's
	at      time.Time
	attempt uint32 // of its first target
}

// record records the dispatch, which goes to a worker now, and names its span in
// the message. It is called off the loop.
func (d *dispatching) record(ctx context.Context, message *linkv1.Dispatch, worker string) {
	if d == nil {
		return
	}
	kind := d.event.GetType()
	options := []trace.SpanStartOption{
		trace.WithTimestamp(d.at),
		trace.WithAttributes(
			semconv.MessagingSystemKey.String("fanfare"),
			semconv.MessagingOperationName("dispatch"),
			semconv.MessagingDestinationName(kind),
			semconv.MessagingDestinationPartitionID(strconv.Itoa(d.traces.partition)),
			semconv.MessagingMessageID(d.event.GetId()),
			attribute.String("fanfare.tenant", message.GetTenant()),
			attribute.String("fanfare.worker", worker),
			attribute.Int("fanfare.dispatch.targets", len(message.GetTargets())),
			attribute.Int64("fanfare.attempt", int64(d.attempt)),
		),
	}
	if d.at.Sub(time.UnixMilli(message.GetPublishTimeUnixMs())) < traceLasts {
		ctx = trace.ContextWithRemoteSpanContext(ctx, d.origin)
	} else {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: d.origin}))
	}
	_, span := d.traces.tracer.Start(ctx, "dispatch "+kind, options...)
	if span.SpanContext().IsSampled() {
		message.Traceparent = tracing.Format(span.SpanContext())
	}
	span.End()
}

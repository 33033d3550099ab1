package lead

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const publishedIn = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// tracedLeader is what a leader traces with, and what it has recorded.
type tracedLeader struct {
	*testing.T
	*traces
	spans *tracetest.SpanRecorder
}

func newTracedLeader(t *testing.T, limit int) *tracedLeader {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	return &tracedLeader{t, newTraces(Config{Partition: 3, Tracer: provider.Tracer("t"), TraceDeliveries: limit}), spans}
}

// dispatch dispatches an event that became durable some time ago to so many
// targets, and returns what the worker is told.
func (l *tracedLeader) dispatch(sequence uint64, traceparent string, ago time.Duration, targets int) *linkv1.Dispatch {
	l.Helper()
	event := &fanfarev1.Event{Id: "e1", Type: "order.created", Extensions: map[string]string{}}
	if traceparent != "" {
		event.Extensions["traceparent"], event.Extensions["tracestate"] = traceparent, "a=b"
	}
	encoded, err := proto.Marshal(event)
	if err != nil {
		l.Fatal(err)
	}
	d := &linkv1.Dispatch{Sequence: sequence, Tenant: "acme", PublishTimeUnixMs: time.Now().Add(-ago).UnixMilli()}
	for i := range targets {
		d.Targets = append(d.Targets, &linkv1.Target{Subscription: uint64(i), Attempt: 1})
	}
	begun := l.begin(d, &linkv1.LoggedEvent{Tenant: "acme", Id: "e1", Type: "order.created", Event: encoded})
	begun.record(l.Context(), d, "w1")
	return d
}

func TestDispatchIsRecorded(t *testing.T) {
	l := newTracedLeader(t, 10)
	d := l.dispatch(1, publishedIn, 0, 2)
	spans := l.spans.Ended()
	if len(spans) != 1 {
		t.Fatalf("%d spans", len(spans))
	}
	span, origin := spans[0], tracing.Remote(publishedIn, "a=b")
	if span.Name() != "dispatch order.created" || span.Parent().SpanID() != origin.SpanID() || span.SpanContext().TraceID() != origin.TraceID() {
		t.Errorf("the span is %s of %v", span.Name(), span.Parent())
	}
	if span.SpanContext().TraceState().Get("a") != "b" {
		t.Errorf("the state is %q", span.SpanContext().TraceState())
	}
	if d.GetTraceparent() != tracing.Format(span.SpanContext()) || d.GetTracedTargets() != 2 {
		t.Errorf("the worker is told %q, %d", d.GetTraceparent(), d.GetTracedTargets())
	}
	said := attribute.NewSet(span.Attributes()...)
	for key, want := range map[attribute.Key]string{
		"messaging.system": "fanfare", "messaging.message.id": "e1", "messaging.destination.name": "order.created",
		"messaging.destination.partition.id": "3", "fanfare.worker": "w1", "fanfare.tenant": "acme",
	} {
		if got, _ := said.Value(key); got.AsString() != want {
			t.Errorf("%s is %q, want %q", key, got.AsString(), want)
		}
	}
}

func TestWhatIsNotTracedIsNotRecorded(t *testing.T) {
	l := newTracedLeader(t, 10)
	for _, parent := range []string{"", "nonsense", publishedIn[:53] + "00"} {
		if d := l.dispatch(1, parent, 0, 2); d.GetTraceparent() != "" || d.GetTracedTargets() != 0 {
			t.Errorf("%q: the worker is told %q, %d", parent, d.GetTraceparent(), d.GetTracedTargets())
		}
	}
	if n := len(l.spans.Ended()); n != 0 {
		t.Errorf("%d spans", n)
	}
	if off := newTraces(Config{}); off != nil || off.begin(new(linkv1.Dispatch), new(linkv1.LoggedEvent)) != nil {
		t.Error("without a tracer it is traced")
	}
}

// A retry after days begins a trace of its own, with a link to the event's.
func TestDispatchLongAfterwardsIsLinked(t *testing.T) {
	l := newTracedLeader(t, 10)
	d := l.dispatch(1, publishedIn, traceLasts, 1)
	span, origin := l.spans.Ended()[0], tracing.Parse(publishedIn)
	if span.Parent().IsValid() || span.SpanContext().TraceID() == origin.TraceID() {
		t.Errorf("its parent is %v", span.Parent())
	}
	if links := span.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != origin.SpanID() {
		t.Errorf("it is linked to %v", links)
	}
	if d.GetTraceparent() != tracing.Format(span.SpanContext()) {
		t.Errorf("the worker is told %q", d.GetTraceparent())
	}
}

// However many deliveries an event has, and in however many dispatches, only so
// many are recorded if nothing fails.
func TestTracedDeliveriesAreBounded(t *testing.T) {
	l := newTracedLeader(t, 10)
	var granted []uint32
	for range 3 {
		granted = append(granted, l.dispatch(1, publishedIn, 0, 6).GetTracedTargets())
	}
	if granted[0] != 6 || granted[1] != 4 || granted[2] != 0 {
		t.Errorf("of three times 6 there are %v", granted)
	}
	if got := l.dispatch(2, publishedIn, 0, 6).GetTracedTargets(); got != 6 {
		t.Errorf("of another event %d", got)
	}
	for sequence := uint64(3); sequence < 3*tracedEvents; sequence++ {
		l.dispatch(sequence, publishedIn, 0, 1)
	}
	if n := len(l.newer) + len(l.older); n > 2*tracedEvents {
		t.Errorf("%d events are remembered", n)
	}
	if got := newTracedLeader(t, -1).dispatch(1, publishedIn, 0, 6).GetTracedTargets(); got != 0 {
		t.Errorf("of none %d", got)
	}
}

// BenchmarkTraceNothing is what it costs that traces are on, for an event that is
// not traced.
func BenchmarkTraceNothing(b *testing.B) {
	encoded, err := proto.Marshal(&fanfarev1.Event{Id: "e1", Type: "order.created", Source: "/shop", Data: make([]byte, 1024)})
	if err != nil {
		b.Fatal(err)
	}
	l := newTraces(Config{Tracer: sdktrace.NewTracerProvider().Tracer("t"), TraceDeliveries: 10})
	d := &linkv1.Dispatch{Targets: []*linkv1.Target{{Attempt: 1}}}
	event := &linkv1.LoggedEvent{Event: encoded}
	b.ReportAllocs()
	for b.Loop() {
		l.begin(d, event)
	}
}

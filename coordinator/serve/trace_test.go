package serve

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	called = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	own    = "00-1af7651916cd43dd8448eb211c80319c-17ad6b7169203331-01"
)

func event(id, traceparent string) *fanfarev1.Event {
	e := &fanfarev1.Event{Id: id, Type: "order.created"}
	if traceparent != "" {
		e.Extensions = map[string]string{"traceparent": traceparent}
	}
	return e
}

// callOf is a call that was made with a trace context, as its handler sees it.
func callOf(ctx context.Context, parent string) context.Context {
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("traceparent", parent, "tracestate", "a=b"))
	return trace.ContextWithRemoteSpanContext(ctx, tracing.Remote(parent, "a=b"))
}

// What is published is in the trace of who publishes it: its trace context is
// that of the publishing, if it has none of its own.
func TestPublishIsRecorded(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	s := New(Config{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("t")})
	for name, test := range map[string]struct {
		call   string
		events []*fanfarev1.Event
		parent string   // of the span
		links  []string // of the span
		want   []string // the events' trace contexts; "": the span
	}{
		"one event":               {called, []*fanfarev1.Event{event("1", "")}, called, nil, []string{""}},
		"one with its own":        {called, []*fanfarev1.Event{event("1", own)}, own, []string{called}, []string{own}},
		"some with their own":     {called, []*fanfarev1.Event{event("1", ""), event("2", own)}, called, []string{own}, []string{"", own}},
		"one with what is not it": {called, []*fanfarev1.Event{event("1", "nonsense")}, called, nil, []string{"nonsense"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, span := s.startPublish(callOf(t.Context(), test.call), "acme", test.events)
			traced := withTrace(ctx, test.events)
			endSpan(span, nil)
			recorded := spans.Ended()[len(spans.Ended())-1]
			if got := tracing.Format(recorded.Parent()); got != test.parent {
				t.Errorf("the parent is %q", got)
			}
			var links []string
			for _, link := range recorded.Links() {
				links = append(links, tracing.Format(link.SpanContext))
			}
			if len(links) != len(test.links) || len(links) > 0 && links[0] != test.links[0] {
				t.Errorf("the links are %q", links)
			}
			for i, want := range test.want {
				if want == "" {
					want = tracing.Format(span.SpanContext())
				}
				if got := traced[i].GetExtensions()["traceparent"]; got != want {
					t.Errorf("event %d is in %q, want %q", i, got, want)
				}
			}
			said := attribute.NewSet(recorded.Attributes()...)
			if got, _ := said.Value("messaging.destination.name"); got.AsString() != "order.created" || recorded.Name() != "publish order.created" {
				t.Errorf("%s to %s", recorded.Name(), got.AsString())
			}
		})
	}
}

// A producer that says that its trace is not recorded is heeded, and its trace
// context passed on as it is.
func TestPublishIsNotRecorded(t *testing.T) {
	const unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	spans := tracetest.NewSpanRecorder()
	sampler := sdktrace.ParentBased(sdktrace.NeverSample())
	s := New(Config{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithSpanProcessor(spans)).Tracer("t")})
	for _, call := range []string{unsampled, ""} {
		ctx := t.Context()
		if call != "" {
			ctx = callOf(ctx, call)
		}
		events := []*fanfarev1.Event{event("1", "")}
		ctx, span := s.startPublish(ctx, "acme", events)
		if got := withTrace(ctx, events)[0].GetExtensions()["traceparent"]; got != call {
			t.Errorf("called in %q the event is in %q", call, got)
		}
		endSpan(span, nil)
	}
	if n := len(spans.Ended()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

func TestRefusalIsRecorded(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	s := New(Config{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("t")})
	for want, err := range map[string]error{
		"invalid_argument": invalid("events[0].type", "is missing"), "resource_exhausted": eventlog.ErrNoSpace, "internal": errors.New("?"),
	} {
		_, span := s.startPublish(t.Context(), "acme", []*fanfarev1.Event{event("1", "")})
		endSpan(span, err)
		recorded := spans.Ended()[len(spans.Ended())-1]
		said := attribute.NewSet(recorded.Attributes()...)
		if got, _ := said.Value("error.type"); got.AsString() != want || recorded.Status().Code != otelcodes.Error {
			t.Errorf("%v: %q, %v", err, got.AsString(), recorded.Status())
		}
	}
}

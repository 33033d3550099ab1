package serve

import (
	"context"
	"maps"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// maxLinks bounds what one span is linked to.
const maxLinks = 128

// startPublish begins the span of one request to publish. It belongs to the
// call's trace; of a single event that brings its own trace context it belongs
// to that, so that there is one trace from the producer on. Requests of several
// events are linked to those that bring theirs.
func (s *Server) startPublish(ctx context.Context, tenant ledger.TenantID, events []*fanfarev1.Event) (context.Context, trace.Span) {
	call := trace.SpanContextFromContext(ctx)
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)}
	switch own := ownSpans(events); {
	case len(events) == 1 && len(own) == 1:
		if call.IsSampled() && call.TraceID() != own[0].SpanContext.TraceID() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: call}))
		}
		ctx = trace.ContextWithRemoteSpanContext(ctx, own[0].SpanContext)
	case len(own) > 0:
		options = append(options, trace.WithLinks(own...))
	}
	ctx, span := s.Tracer.Start(ctx, "publish", options...)
	if span.IsRecording() {
		describePublish(span, tenant, events)
	}
	return ctx, span
}

// ownSpans returns the spans of events that bring their own trace context.
func ownSpans(events []*fanfarev1.Event) (links []trace.Link) {
	for _, event := range events {
		if len(event.GetExtensions()) == 0 || len(links) == maxLinks {
			continue
		}
		if span := tracing.Remote(tracing.Of(event.GetExtensions())); span.IsSampled() {
			links = append(links, trace.Link{SpanContext: span})
		}
	}
	return links
}

// describePublish says what is published, by the conventions for messaging: a
// type of event is a destination.
func describePublish(span trace.Span, tenant ledger.TenantID, events []*fanfarev1.Event) {
	span.SetAttributes(
		semconv.MessagingSystemKey.String("fanfare"),
		semconv.MessagingOperationName("publish"),
		semconv.MessagingOperationTypeSend,
		attribute.String("fanfare.tenant", string(tenant)),
	)
	if len(events) == 0 {
		return
	}
	kind := events[0].GetType()
	for _, event := range events {
		if event.GetType() != kind {
			kind = ""
		}
	}
	if kind != "" {
		span.SetName("publish " + kind)
		span.SetAttributes(semconv.MessagingDestinationName(kind))
	}
	if len(events) > 1 {
		span.SetAttributes(semconv.MessagingBatchMessageCount(len(events)))
	}
}

// endSpan ends a span with what came of it.
func endSpan(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(errorType(err))
	}
	span.End()
}

// withTrace gives events the trace context of the request that publishes them,
// but for those that bring their own: the span of the publishing if it is
// recorded, or what the call was made with. An event that has no room for it goes
// without. It changes none in place.
func withTrace(ctx context.Context, events []*fanfarev1.Event) []*fanfarev1.Event {
	parent, state := contextOf(ctx)
	if parent == "" {
		return events
	}
	traced := make([]*fanfarev1.Event, len(events))
	for i, event := range events {
		if _, own := event.GetExtensions()[tracing.Parent]; own || event == nil || len(event.GetExtensions())+2 > maxExtensions {
			traced[i] = event
			continue
		}
		extensions := maps.Clone(event.GetExtensions())
		if extensions == nil {
			extensions = make(map[string]string)
		}
		extensions[tracing.Parent] = parent
		delete(extensions, tracing.State)
		if state != "" {
			extensions[tracing.State] = state
		}
		traced[i] = proto.CloneOf(event)
		traced[i].Extensions = extensions
	}
	return traced
}

// contextOf returns the trace context that what a call publishes is part of.
func contextOf(ctx context.Context) (parent, state string) {
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		parent, state = tracing.Format(span), span.TraceState().String()
		if !tracing.IsState(state) {
			state = ""
		}
		return parent, state
	}
	called := make(map[string]string)
	for _, name := range []string{tracing.Parent, tracing.State} {
		if values := metadata.ValueFromIncomingContext(ctx, name); len(values) == 1 {
			called[name] = values[0]
		}
	}
	return tracing.Of(called)
}

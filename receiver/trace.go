package receiver

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// tracer makes the spans of handlers.
type tracer struct {
	tracer     trace.Tracer
	propagator propagation.TraceContext
}

func newTracer(provider trace.TracerProvider) tracer {
	return tracer{tracer: provider.Tracer("github.com/fanfare-dev/fanfare/receiver")}
}

// start begins the span of a handler, in the trace of who sent the event: as the
// request's traceparent says, else the event's own (CloudEvents distributed
// tracing extension). Names and attributes are OpenTelemetry's for messaging.
func (t tracer) start(ctx context.Context, e *Event) (_ context.Context, end func(error)) {
	carrier := propagation.TextMapCarrier(propagation.HeaderCarrier(e.Request))
	if e.Request.Get("Traceparent") == "" {
		carrier = propagation.MapCarrier(e.Extensions)
	}
	ctx = t.propagator.Extract(ctx, carrier)
	ctx, span := t.tracer.Start(ctx, "process "+e.Type, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "webhook"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.message.id", e.ID),
		attribute.String("cloudevents.event_type", e.Type),
	))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
			span.RecordError(err)
		}
		span.End()
	}
}

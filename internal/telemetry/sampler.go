package telemetry

import (
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// sampler decides as another, with two rules more.
//
// A span without a parent that is linked to another was caused by it, long ago:
// it is decided on as its child would be. So a retry after days is recorded if
// and only if the event was, whatever part of new traces is.
//
// The streams of workers and of probes are never recorded: they last as long as
// the process, or come every second, and belong to no event.
type sampler struct{ sdktrace.Sampler }

func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if isOwn(p.Name) {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	if cause := causeOf(p.Links); cause.IsValid() && !trace.SpanContextFromContext(p.ParentContext).IsValid() {
		p.ParentContext = trace.ContextWithRemoteSpanContext(p.ParentContext, cause)
		p.TraceID = cause.TraceID()
	}
	return s.Sampler.ShouldSample(p)
}

// isOwn reports whether a call is one of those that keep the cluster together.
func isOwn(name string) bool {
	return strings.HasPrefix(name, "fanfare.link.") || strings.HasPrefix(name, "grpc.health.") || strings.HasPrefix(name, "grpc.reflection.")
}

// causeOf returns what a span is linked to: the first that is recorded, or else
// the first.
func causeOf(links []trace.Link) trace.SpanContext {
	for _, link := range links {
		if link.SpanContext.IsSampled() {
			return link.SpanContext
		}
	}
	if len(links) == 0 {
		return trace.SpanContext{}
	}
	return links[0].SpanContext
}

package worker

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// maxLinks bounds what the span of a batch is linked to.
const maxLinks = 128

// traceOf returns the headers of the trace context that an event was published
// with; nil if there is none. The receiver's work then belongs to the
// producer's trace.
func traceOf(e *fanfarev1.Event) http.Header {
	parent, state := tracing.Of(e.GetExtensions())
	if parent == "" {
		return nil
	}
	header := http.Header{"Traceparent": {parent}}
	if state != "" {
		header["Tracestate"] = []string{state}
	}
	return header
}

// passOn has a request carry the span in whose context it is made, if that is
// recorded, in place of what its event was published with: between the two there
// is what was done here.
func passOn(ctx context.Context, header http.Header) {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsSampled() {
		return
	}
	header["Traceparent"] = []string{tracing.Format(span)}
	if state := span.TraceState().String(); tracing.IsState(state) {
		header["Tracestate"] = []string{state}
	} else {
		delete(header, "Tracestate")
	}
}

// requestTrace records one request for deliveries of traced events. nil records
// nothing, which is the rule, and costs nothing.
type requestTrace struct {
	tracer     trace.Tracer
	target     *target
	deliveries []*delivery
	begin      time.Time
	parent     trace.SpanContext // the dispatch, if there is one
	links      []trace.Link      // the dispatches, if there are several
	span       trace.Span        // nil: the request is recorded only if it fails
}

// traceAttempt begins to record a request that carries one delivery.
func (a *attempter) traceAttempt(t *target, d *delivery, begin time.Time) *requestTrace {
	if a.tracer == nil || !d.message.dispatch.IsValid() {
		return nil
	}
	return a.traceRequest(t, []*delivery{d}, begin)
}

// traceRequest begins to record a request that carries deliveries.
func (a *attempter) traceRequest(t *target, deliveries []*delivery, begin time.Time) *requestTrace {
	if a.tracer == nil {
		return nil
	}
	links, always := dispatchesOf(deliveries)
	if len(links) == 0 {
		return nil
	}
	r := &requestTrace{tracer: a.tracer, target: t, deliveries: deliveries, begin: begin}
	if len(links) == 1 {
		r.parent = links[0].SpanContext
	} else {
		r.links = links
	}
	if always {
		r.span = r.start()
	}
	return r
}

// dispatchesOf returns the recorded dispatches that deliveries come from, each
// once, and whether a request for them is recorded whatever comes of it.
func dispatchesOf(deliveries []*delivery) (links []trace.Link, always bool) {
	var last trace.SpanContext
	for _, d := range deliveries {
		if d.message == nil || !d.message.dispatch.IsValid() {
			continue
		}
		always = always || d.traced
		if len(links) < maxLinks && !d.message.dispatch.Equal(last) {
			last = d.message.dispatch
			links = append(links, trace.Link{SpanContext: last})
		}
	}
	return links, always
}

// start begins the span.
func (r *requestTrace) start() trace.Span {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(r.begin)}
	ctx := context.Background()
	if r.parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, r.parent)
	} else {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(r.links...))
	}
	_, span := r.tracer.Start(ctx, "deliver", options...)
	if span.IsRecording() {
		r.describe(span)
	}
	return span
}

// describe says what is sent, by the conventions for messaging and for HTTP. Of
// the URL only where it leads to: the rest of it may be a secret.
func (r *requestTrace) describe(span trace.Span) {
	first := r.deliveries[0]
	span.SetAttributes(
		semconv.MessagingSystemKey.String("fanfare"),
		semconv.MessagingOperationName("deliver"),
		semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationSubscriptionName(r.target.id),
		semconv.HTTPRequestMethodPost,
		attribute.String("fanfare.tenant", r.target.tenant),
		attribute.Int64("fanfare.attempt", int64(first.attempt)),
	)
	if first.attempt > 1 {
		span.SetAttributes(semconv.HTTPRequestResendCount(int(first.attempt) - 1))
	}
	if kind := first.message.event.GetType(); len(r.deliveries) == 1 {
		span.SetName("deliver " + kind)
		span.SetAttributes(semconv.MessagingDestinationName(kind), semconv.MessagingMessageID(first.message.event.GetId()))
	} else {
		span.SetAttributes(semconv.MessagingBatchMessageCount(len(r.deliveries)))
	}
	if to, err := url.Parse(r.target.url); err == nil {
		span.SetAttributes(semconv.URLScheme(to.Scheme), semconv.ServerAddress(to.Hostname()))
		if port, err := strconv.Atoi(to.Port()); err == nil {
			span.SetAttributes(semconv.ServerPort(port))
		}
	}
}

// context returns the context to make the request in.
func (r *requestTrace) context(ctx context.Context) context.Context {
	switch {
	case r == nil:
		return ctx
	case r.span == nil:
		return trace.ContextWithRemoteSpanContext(ctx, r.parent)
	default:
		return httptrace.WithClientTrace(trace.ContextWithSpan(ctx, r.span), phasesOf(r.span))
	}
}

// end records what came of the request.
func (r *requestTrace) end(met *answer, at time.Time) {
	if r == nil {
		return
	}
	if r.span == nil {
		if met.class == egress.ClassNone {
			return
		}
		r.span = r.start()
	}
	if r.span.IsRecording() {
		describeAnswer(r.span, met)
	}
	r.span.End(trace.WithTimestamp(at))
}

func describeAnswer(span trace.Span, met *answer) {
	if met.status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(met.status))
	}
	if version, ok := strings.CutPrefix(met.protocol, "HTTP/"); ok {
		span.SetAttributes(semconv.NetworkProtocolName("http"), semconv.NetworkProtocolVersion(strings.TrimSuffix(version, ".0")))
	}
	if met.class == egress.ClassNone {
		return
	}
	kind := string(met.class)
	if met.class == classStatus {
		kind = strconv.Itoa(met.status) // as the conventions for HTTP want it
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, errorText(met))
}

// phasesOf records how a request gets on as events of its span: what waits for
// what is then seen at a glance.
func phasesOf(span trace.Span) *httptrace.ClientTrace {
	ended := func(name string, err error, more ...attribute.KeyValue) {
		if err != nil {
			more = append(more, semconv.ErrorTypeKey.String(string(egress.Classify(err))))
		}
		span.AddEvent(name, trace.WithAttributes(more...))
	}
	return &httptrace.ClientTrace{
		DNSStart:          func(httptrace.DNSStartInfo) { span.AddEvent("dns.start") },
		DNSDone:           func(info httptrace.DNSDoneInfo) { ended("dns.done", info.Err) },
		ConnectStart:      func(string, string) { span.AddEvent("connect.start") },
		ConnectDone:       func(_, _ string, err error) { ended("connect.done", err) },
		TLSHandshakeStart: func() { span.AddEvent("tls.start") },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { ended("tls.done", err) },
		GotConn: func(info httptrace.GotConnInfo) {
			ended("connection", nil, attribute.Bool("fanfare.connection.reused", info.Reused))
		},
		WroteRequest:         func(info httptrace.WroteRequestInfo) { ended("request.sent", info.Err) },
		GotFirstResponseByte: func() { span.AddEvent("response.first_byte") },
	}
}

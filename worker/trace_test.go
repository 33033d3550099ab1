package worker

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	publishedIn  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	dispatchedIn = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
)

// tracedWorker makes attempts and records them.
type tracedWorker struct {
	*testing.T
	*attempter
	spans   *tracetest.SpanRecorder
	headers []http.Header // of the requests
	status  int           // of the answers; 0: there is none
}

func newTracedWorker(t *testing.T, status int) *tracedWorker {
	t.Helper()
	w := &tracedWorker{T: t, spans: tracetest.NewSpanRecorder(), status: status}
	w.attempter = newTestAttempter(t, doer(func(r *http.Request) (*http.Response, error) {
		w.headers = append(w.headers, r.Header.Clone())
		if w.status == 0 {
			return nil, errors.New("nobody is there")
		}
		return &http.Response{StatusCode: w.status, Proto: "HTTP/2.0", Body: http.NoBody}, nil
	}))
	w.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w.spans)).Tracer("t")
	return w
}

// delivery returns a delivery of an event that was published in a trace, and
// dispatched in a span, which may be none.
func (w *tracedWorker) delivery(id, dispatched string, traced bool) *delivery {
	w.Helper()
	encoded, err := proto.Marshal(&fanfarev1.Event{
		Id: id, Type: "order.created", Data: []byte(`{}`),
		Extensions: map[string]string{"traceparent": publishedIn, "tracestate": "a=b"},
	})
	if err != nil {
		w.Fatal(err)
	}
	m := newMessage(&linkv1.Dispatch{Event: encoded, Traceparent: dispatched, PublishTimeUnixMs: time.Now().UnixMilli()})
	return &delivery{attempt: 2, step: 1, message: m, traced: traced}
}

func tracedTarget(change func(*fanfarev1.Subscription)) *target {
	e := testEndpoint(1, "https://user:password@example.com:8443/secret?token=secret")
	e.Tenant, e.SubscriptionId = "acme", "sub_1"
	if change != nil {
		change(e.GetSubscription())
	}
	return newTarget(e)
}

func TestAttemptIsRecorded(t *testing.T) {
	w := newTracedWorker(t, http.StatusOK)
	w.attempt(t.Context(), w.delivery("e1", dispatchedIn, true), tracedTarget(nil))
	spans := w.spans.Ended()
	if len(spans) != 1 {
		t.Fatalf("%d spans", len(spans))
	}
	span := spans[0]
	if span.Name() != "deliver order.created" || tracing.Format(span.Parent()) != dispatchedIn || span.Status().Code != codes.Unset {
		t.Errorf("the span is %s of %v, %v", span.Name(), span.Parent(), span.Status())
	}
	said := attribute.NewSet(span.Attributes()...)
	for key, want := range map[attribute.Key]string{
		"messaging.system": "fanfare", "messaging.operation.name": "deliver", "messaging.message.id": "e1",
		"messaging.destination.name": "order.created", "messaging.destination.subscription.name": "sub_1", "fanfare.tenant": "acme",
		"fanfare.attempt": "2", "http.request.method": "POST", "http.request.resend_count": "1", "http.response.status_code": "200",
		"url.scheme": "https", "server.address": "example.com", "server.port": "8443", "network.protocol.version": "2",
	} {
		if got, _ := said.Value(key); got.String() != want {
			t.Errorf("%s is %q, want %q", key, got.String(), want)
		}
	}
	for _, a := range span.Attributes() {
		if text := a.Value.String(); strings.Contains(text, "secret") || strings.Contains(text, "password") {
			t.Errorf("%s tells a secret: %s", a.Key, text)
		}
	}
	if got := w.headers[0]; got.Get("Traceparent") != tracing.Format(span.SpanContext()) || got.Get("Tracestate") != "a=b" {
		t.Errorf("the receiver was told %q, %q", got.Get("Traceparent"), got.Get("Tracestate"))
	}
}

func TestFailureIsRecorded(t *testing.T) {
	for status, want := range map[int]string{http.StatusServiceUnavailable: "503", 0: "other"} {
		w := newTracedWorker(t, status)
		w.attempt(t.Context(), w.delivery("e1", dispatchedIn, false), tracedTarget(nil)) // also if a success were not
		spans := w.spans.Ended()
		if len(spans) != 1 || spans[0].Status().Code != codes.Error {
			t.Fatalf("spans %v", spans)
		}
		said := attribute.NewSet(spans[0].Attributes()...)
		if got, _ := said.Value("error.type"); got.AsString() != want {
			t.Errorf("error.type is %q, want %q", got.AsString(), want)
		}
		if got := w.headers[0].Get("Traceparent"); got != dispatchedIn {
			t.Errorf("the receiver was told %q", got)
		}
	}
}

func TestWhatIsNotRecorded(t *testing.T) {
	for name, test := range map[string]struct {
		dispatched string
		traced     bool
		change     func(*fanfarev1.Subscription)
		want       string // what the receiver is told
		spans      int
	}{
		"a success beyond the limit": {dispatchedIn, false, nil, dispatchedIn, 0},
		"an event that is not":       {"", true, nil, publishedIn, 0},
		"nonsense":                   {"nonsense", true, nil, publishedIn, 0},
		"the receiver is not told":   {dispatchedIn, true, func(s *fanfarev1.Subscription) { s.OmitTraceContext = true }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTracedWorker(t, http.StatusOK)
			w.attempt(t.Context(), w.delivery("e1", test.dispatched, test.traced), tracedTarget(test.change))
			if n := len(w.spans.Ended()); n != test.spans {
				t.Errorf("%d spans", n)
			}
			if got := w.headers[0].Get("Traceparent"); got != test.want {
				t.Errorf("the receiver was told %q, want %q", got, test.want)
			}
		})
	}
}

// A batch of one dispatch belongs to it; one of several is linked to each.
func TestBatchIsRecorded(t *testing.T) {
	const other = "00-1af7651916cd43dd8448eb211c80319c-10f067aa0ba902b7-01"
	batched := func(s *fanfarev1.Subscription) { s.BatchCount = 10 }
	w := newTracedWorker(t, http.StatusOK)
	one := []*delivery{w.delivery("e1", dispatchedIn, true), w.delivery("e2", "", true)}
	several := append(one, w.delivery("e3", other, true))
	w.attemptBatch(t.Context(), one, tracedTarget(batched))
	w.attemptBatch(t.Context(), several, tracedTarget(batched))
	w.attemptBatch(t.Context(), one[1:], tracedTarget(batched)) // not traced
	spans := w.spans.Ended()
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	if got := tracing.Format(spans[0].Parent()); got != dispatchedIn {
		t.Errorf("the parent of the first is %q", got)
	}
	var linked []string
	for _, link := range spans[1].Links() {
		linked = append(linked, tracing.Format(link.SpanContext))
	}
	if spans[1].Parent().IsValid() || len(linked) != 2 || linked[0] != dispatchedIn || linked[1] != other {
		t.Errorf("the second is of %v, linked to %q", spans[1].Parent(), linked)
	}
	said := attribute.NewSet(spans[1].Attributes()...)
	if got, _ := said.Value("messaging.batch.message_count"); got.AsInt64() != 3 {
		t.Errorf("it says that it has %d events", got.AsInt64())
	}
	if got := w.headers[2].Get("Traceparent"); got != "" {
		t.Errorf("a batch that is not traced has %q", got)
	}
}

// BenchmarkTraceNothing is what it costs that traces are on, for an event that is
// not traced.
func BenchmarkTraceNothing(b *testing.B) {
	a := &attempter{tracer: sdktrace.NewTracerProvider().Tracer("t")}
	d := &delivery{message: &message{event: new(fanfarev1.Event)}}
	t := new(target)
	b.ReportAllocs()
	for b.Loop() {
		a.traceAttempt(t, d, time.Time{})
	}
}

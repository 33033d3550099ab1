package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fanfare-dev/fanfare/receiver"
)

func post(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	return answer
}

// open is a receiver that takes what is not signed.
func open(t testing.TB, config receiver.Config) *receiver.Receiver {
	t.Helper()
	config.AllowUnsigned = true
	r, err := receiver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// event returns an unsigned request with one event.
func event(id, eventType string) *http.Request {
	r := newHTTPRequest(http.MethodPost, strings.NewReader(fmt.Sprintf(`{"type":%q,"data":{}}`, eventType)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("webhook-id", id)
	return r
}

func ok(context.Context, *receiver.Event) error { return nil }

func TestHandlers(t *testing.T) {
	r := open(t, receiver.Config{})
	var called string
	note := func(name string) receiver.Handler {
		return func(context.Context, *receiver.Event) error { called = name; return nil }
	}
	for _, pattern := range []string{"*", "order.**", "order.*", "order.created", "*.paid"} {
		r.Handle(pattern, note(pattern))
	}
	r.HandleVersion("order.created", "2", note("order.created v2"))
	r.Handle("order.created", note("order.created, again")) // the last word counts
	for eventType, want := range map[string]string{
		"order.created": "order.created, again", "order.created.v2": "order.created v2", "order.created.v3": "order.created, again",
		"order.deleted": "order.*", "order.item.added": "order.**", "invoice.paid": "*.paid", "order.paid": "order.*", "x": "*",
	} {
		called = ""
		if got := post(r, event(eventType, eventType)); got.Code != 200 || called != want {
			t.Errorf("%s: answered %d, called %q; want %q", eventType, got.Code, called, want)
		}
	}
	for _, pattern := range []string{"", "a..b", "a.**.b", "a.b*"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("the pattern %q is taken", pattern)
				}
			}()
			r.Handle(pattern, ok)
		}()
	}
}

func TestFallback(t *testing.T) {
	r := open(t, receiver.Config{})
	r.Handle("a", ok)
	if got := post(r, event("1", "b")); got.Code != 404 {
		t.Errorf("without a handler: answered %d", got.Code)
	}
	r.Fallback(ok)
	if got := post(r, event("1", "b")); got.Code != 200 { // it was not claimed
		t.Errorf("with a fallback: answered %d", got.Code)
	}
}

func TestAnswers(t *testing.T) {
	r := open(t, receiver.Config{AllowedOrigins: []string{"fanfare.example"}})
	r.Handle("fails", func(context.Context, *receiver.Event) error { return errors.New("a secret reason") })
	r.Handle("panics", func(context.Context, *receiver.Event) error { panic("a secret reason") })
	r.Handle("gone", func(context.Context, *receiver.Event) error {
		return &receiver.Answer{Status: http.StatusGone, Err: errors.New("a secret reason")}
	})
	r.Handle("later", func(context.Context, *receiver.Event) error {
		return fmt.Errorf("wrapped: %w", &receiver.Answer{Status: 429, RetryAfter: 1500 * time.Millisecond, Err: errors.New("a secret reason")})
	})
	for eventType, want := range map[string]int{"fails": 500, "panics": 500, "gone": 410, "later": 429} {
		got := post(r, event(eventType, eventType))
		if got.Code != want || strings.Contains(got.Body.String(), "secret") {
			t.Errorf("%s: answered %d %q, want %d", eventType, got.Code, got.Body, want)
		}
		if after := got.Header().Get("Retry-After"); eventType == "later" && after != "2" {
			t.Errorf("Retry-After is %q, want 2", after)
		}
	}
	if got := post(r, newHTTPRequest(http.MethodGet, nil)); got.Code != 405 || got.Header().Get("Allow") == "" {
		t.Errorf("GET: answered %d, %v", got.Code, got.Header())
	}
	for origin, want := range map[string]int{"fanfare.example": 200, "other.example": 403, "": 403} {
		request := newHTTPRequest(http.MethodOptions, nil)
		request.Header.Set("WebHook-Request-Origin", origin)
		request.Header.Set("WebHook-Request-Rate", "120")
		got := post(r, request)
		if got.Code != want || want == 200 && (got.Header().Get("WebHook-Allowed-Origin") != origin || got.Header().Get("WebHook-Allowed-Rate") != "*") {
			t.Errorf("handshake of %q: answered %d, %v", origin, got.Code, got.Header())
		}
	}
}

// An event is handled once, whoever sends it how often; one that failed is
// handled again; and of a batch only what failed.
func TestOnce(t *testing.T) {
	r := open(t, receiver.Config{})
	counts := make(map[string]int)
	failing := map[string]bool{"b#1": true}
	r.Fallback(func(_ context.Context, e *receiver.Event) error {
		counts[e.ID]++
		if failing[e.ID] {
			return errors.New("not yet")
		}
		return nil
	})
	batch := func() *http.Request {
		request := newHTTPRequest(http.MethodPost, strings.NewReader(`[{"type":"a","data":0},{"type":"a","data":1},{"type":"a","data":2}]`))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("webhook-id", "b")
		return request
	}
	for i, want := range []int{500, 500, 200, 200} {
		failing["b#1"] = i < 2
		if got := post(r, batch()); got.Code != want {
			t.Errorf("request %d: answered %d, want %d", i, got.Code, want)
		}
	}
	if counts["b#0"] != 1 || counts["b#1"] != 3 || counts["b#2"] != 1 {
		t.Errorf("handled %v", counts)
	}
	for range 2 { // without an id nothing is known of it
		post(r, event("", "a"))
	}
	if counts[""] != 2 {
		t.Errorf("events without an id were handled %d times", counts[""])
	}
}

// Two requests with one event at the same moment run one handler.
func TestConcurrentDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, receiver.Config{})
		var calls atomic.Int32
		r.Fallback(func(context.Context, *receiver.Event) error {
			calls.Add(1)
			<-time.After(time.Second)
			return nil
		})
		var group sync.WaitGroup
		var mu sync.Mutex
		var statuses []int
		for range 5 {
			group.Go(func() {
				got := post(r, event("m", "a"))
				if got.Code == http.StatusConflict && got.Header().Get("Retry-After") == "" {
					t.Error("nothing says when to come again")
				}
				mu.Lock()
				defer mu.Unlock()
				statuses = append(statuses, got.Code)
			})
		}
		group.Wait()
		slices.Sort(statuses)
		if calls.Load() != 1 || !slices.Equal(statuses, []int{200, 409, 409, 409, 409}) {
			t.Errorf("%d calls, answers %v", calls.Load(), statuses)
		}
	})
}

// A handler's context ends with the lease: after that the event is another's.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, receiver.Config{Lease: time.Minute})
		begin := time.Now()
		r.Fallback(func(ctx context.Context, _ *receiver.Event) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if got := post(r, event("m", "a")); got.Code != 500 || time.Since(begin) != time.Minute {
			t.Errorf("answered %d after %v", got.Code, time.Since(begin))
		}
	})
}

// run runs a receiver until the test has what it wants of it.
func run(t *testing.T, r *receiver.Receiver) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	synctest.Wait()
	return func() error { cancel(); return <-ended }
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, receiver.Config{Queue: &receiver.Queue{Size: 3, Workers: 1}})
		var handled []string
		r.Fallback(func(_ context.Context, e *receiver.Event) error {
			<-time.After(time.Second)
			handled = append(handled, e.ID)
			return nil
		})
		if got := post(r, event("early", "a")); got.Code != 503 {
			t.Errorf("before Run: answered %d", got.Code)
		}
		stop := run(t, r)
		var codes []int
		for i := range 6 { // one is handled, three wait
			got := post(r, event(fmt.Sprint(i), "a"))
			codes = append(codes, got.Code)
			if got.Code == 503 && got.Header().Get("Retry-After") == "" {
				t.Error("nothing says when to come again")
			}
			synctest.Wait()
		}
		if want := []int{202, 202, 202, 202, 503, 503}; !slices.Equal(codes, want) {
			t.Errorf("answered %v, want %v", codes, want)
		}
		batch := newHTTPRequest(http.MethodPost, strings.NewReader(`[1,2,3,4]`))
		batch.Header.Set("Content-Type", "application/json")
		if got := post(r, batch); got.Code != 413 { // there will never be room: so the sender halves it
			t.Errorf("a batch larger than the queue: answered %d", got.Code)
		}
		if got := post(r, event("0", "a")); got.Code != 503 {
			t.Errorf("a duplicate without room for it: answered %d", got.Code)
		}
		if err := stop(); err != nil { // what waits is handled
			t.Error(err)
		}
		if want := []string{"0", "1", "2", "3"}; !slices.Equal(handled, want) {
			t.Errorf("handled %v, want %v", handled, want)
		}
		if got := post(r, event("late", "a")); got.Code != 503 {
			t.Errorf("after the end: answered %d", got.Code)
		}
	})
}

// What cannot be handled in time is given back, and said.
func TestQueueDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := receiver.NewMemory(0, 0)
		var log bytes.Buffer
		r := open(t, receiver.Config{
			Store: store, Gate: receiver.Gate{Logger: slog.New(slog.NewTextHandler(&log, nil))},
			Queue: &receiver.Queue{Workers: 1, DrainTimeout: 10 * time.Second},
		})
		r.Fallback(func(ctx context.Context, _ *receiver.Event) error {
			<-ctx.Done()
			return ctx.Err()
		})
		stop := run(t, r)
		for i := range 3 {
			post(r, event(fmt.Sprint(i), "a"))
		}
		begin := time.Now()
		if err := stop(); err == nil || !strings.Contains(err.Error(), "2 events") || time.Since(begin) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if !strings.Contains(log.String(), "handling a queued event") {
			t.Errorf("the log does not tell of the one that was cut off: %s", log.String())
		}
		for i := range 3 {
			if standing, err := store.Claim(t.Context(), "webhooks/"+fmt.Sprint(i), "next", time.Minute); standing != receiver.Claimed || err != nil {
				t.Errorf("event %d: %v, %v", i, standing, err)
			}
		}
	})
}

type brokenStore struct{ receiver.Store }

func (brokenStore) Claim(context.Context, string, string, time.Duration) (receiver.Standing, error) {
	return 0, errors.New("no database")
}

func TestBrokenStore(t *testing.T) {
	r := open(t, receiver.Config{Store: brokenStore{}})
	r.Fallback(func(context.Context, *receiver.Event) error { t.Error("handled without a claim"); return nil })
	if got := post(r, event("m", "a")); got.Code != 503 {
		t.Errorf("answered %d", got.Code)
	}
}

// A handler's span continues the trace of who sent the event.
func TestTrace(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	r := open(t, receiver.Config{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))})
	r.Fallback(ok)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	request := event("m", "order.created")
	request.Header.Set("traceparent", parent)
	post(r, request)
	inEvent := newHTTPRequest(http.MethodPost, strings.NewReader(
		`{"specversion":"1.0","id":"e","type":"b","source":"/s","traceparent":"`+parent+`"}`))
	inEvent.Header.Set("Content-Type", "application/cloudevents+json")
	post(r, inEvent)
	for i, name := range []string{"process order.created", "process b"} {
		got := spans.GetSpans()[i]
		if got.Name != name || got.SpanContext.TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" || got.Parent.SpanID().String() != "00f067aa0ba902b7" {
			t.Errorf("span %q in trace %v under %v", got.Name, got.SpanContext.TraceID(), got.Parent.SpanID())
		}
	}
}

func BenchmarkVerification(b *testing.B) {
	one := secret(b, secretOne)
	body := `{"type":"order.created","timestamp":"2026-01-02T03:04:05Z","data":{"pad":"` + strings.Repeat("x", 1024) + `"}}`
	bare := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	full, err := receiver.New(receiver.Config{Gate: receiver.Gate{Verifiers: verifiers(one)}})
	if err != nil {
		b.Fatal(err)
	}
	full.Fallback(ok)
	for name, handler := range map[string]http.Handler{
		"bare": bare, "gate": receiver.Gate{Verifiers: verifiers(one)}.Middleware(bare), "receiver": full,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				post(handler, signed(b, fmt.Sprint("m", n), body, one))
			}
		})
	}
}

package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

const (
	testSecret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	otherSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// doer answers requests by a function.
type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// respond answers every request alike.
func respond(status int, header http.Header, body io.Reader) doer {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(body)}, nil
	}
}

func newTestAttempter(t *testing.T, client Doer) *attempter {
	t.Helper()
	metrics, err := newAttemptMetrics(noop.NewMeterProvider().Meter(""))
	if err != nil {
		t.Fatal(err)
	}
	return &attempter{client: client, userAgent: "Fanfare/1.2", jitter: newJitter(low), metrics: metrics}
}

func testEndpoint(number uint64, url string) *linkv1.Endpoint {
	return &linkv1.Endpoint{
		Number: number, Tenant: "acme", Secrets: []string{testSecret},
		Subscription: &fanfarev1.Subscription{Url: url},
	}
}

func testDelivery(t *testing.T, attempt uint32) *delivery {
	t.Helper()
	return &delivery{ref: ref{3, 4, 5}, attempt: attempt, step: attempt, message: newMessage(dispatchOf(t, fullEvent()))}
}

func TestAttemptRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got *http.Request
		var body []byte
		client := doer(func(r *http.Request) (*http.Response, error) {
			got = r
			var err error
			if body, err = io.ReadAll(r.Body); err != nil {
				return nil, err
			}
			return respond(204, nil, http.NoBody)(r)
		})
		e := testEndpoint(3, "https://hook.test/in?x=1")
		e.Secrets = []string{testSecret, otherSecret}
		outcome, verdict := newTestAttempter(t, client).attempt(t.Context(), testDelivery(t, 1), newTarget(e))
		if outcome.GetKind() != linkv1.Outcome_DELIVERED || verdict != verdictSuccess || outcome.GetStatusCode() != 204 {
			t.Fatalf("outcome %v, verdict %v", outcome, verdict)
		}
		if got.Method != http.MethodPost || got.URL.String() != "https://hook.test/in?x=1" {
			t.Errorf("request is %s %s", got.Method, got.URL)
		}
		want := map[string]string{"Content-Type": "application/json", "User-Agent": "Fanfare/1.2", "Webhook-Id": "evt_1"}
		for name, value := range want {
			if got.Header.Get(name) != value {
				t.Errorf("%s: %q, want %q", name, got.Header.Get(name), value)
			}
		}
		for _, text := range e.GetSecrets() {
			secret, err := signature.ParseSecret(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := signature.Verify([]signature.Secret{secret}, got.Header, body, time.Now(), time.Second); err != nil {
				t.Errorf("signature: %v", err)
			}
		}
	})
}

func TestAttemptOutcome(t *testing.T) {
	tests := []struct {
		name    string
		client  Doer
		attempt uint32
		want    *linkv1.Outcome // what matters of it
		wait    time.Duration   // until the next attempt
		verdict verdict
	}{
		{
			"200", respond(200, nil, strings.NewReader("ok")), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_DELIVERED, StatusCode: 200, ResponseBody: []byte("ok")}, 0, verdictSuccess,
		},
		{
			"redirect", respond(301, nil, http.NoBody), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 301, ErrorClass: "status", Error: "the endpoint answered 301 Moved Permanently"},
			4 * time.Second, verdictAnswered,
		},
		{
			"404", respond(404, nil, strings.NewReader("no")), 2,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 404, ErrorClass: "status", Error: "the endpoint answered 404 Not Found", ResponseBody: []byte("no")},
			4 * time.Minute, verdictAnswered,
		},
		{
			"408", respond(408, nil, http.NoBody), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 408, ErrorClass: "status", Error: "the endpoint answered 408 Request Timeout"},
			4 * time.Second, verdictFailing,
		},
		{
			"410", respond(410, nil, http.NoBody), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_DEAD, StatusCode: 410, ErrorClass: "status", Error: "the endpoint answered 410 Gone"}, 0, verdictAnswered,
		},
		{
			"429 with Retry-After", respond(429, http.Header{"Retry-After": {"90"}}, http.NoBody), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 429, ErrorClass: "status", Error: "the endpoint answered 429 Too Many Requests", HoldUntilUnixMs: 90_000},
			90 * time.Second, verdictFailing,
		},
		{
			"503, the last attempt", respond(503, http.Header{"Retry-After": {"90"}}, http.NoBody), 10,
			&linkv1.Outcome{Kind: linkv1.Outcome_DEAD, StatusCode: 503, ErrorClass: "status", Error: "the endpoint answered 503 Service Unavailable", HoldUntilUnixMs: 90_000}, 0, verdictFailing,
		},
		{
			"a status without a name", respond(599, nil, http.NoBody), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 599, ErrorClass: "status", Error: "the endpoint answered 599"},
			4 * time.Second, verdictFailing,
		},
		{
			"no answer", doer(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, ErrorClass: "reset", Error: "unexpected EOF"}, 4 * time.Second, verdictFailing,
		},
		{
			"an answer that breaks off", respond(200, nil, io.MultiReader(strings.NewReader("o"), errorReader{io.ErrUnexpectedEOF})), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 200, ErrorClass: "reset", Error: "reading answer: unexpected EOF", ResponseBody: []byte("o")},
			4 * time.Second, verdictFailing,
		},
		{
			"a refusal that breaks off", respond(404, nil, errorReader{io.ErrUnexpectedEOF}), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, StatusCode: 404, ErrorClass: "status", Error: "the endpoint answered 404 Not Found"},
			4 * time.Second, verdictAnswered,
		},
		{
			"an error of broken text", doer(func(*http.Request) (*http.Response, error) {
				return nil, errors.New("a\xff" + strings.Repeat("b", 2000))
			}), 1,
			&linkv1.Outcome{Kind: linkv1.Outcome_RETRY, ErrorClass: "other", Error: "a\uFFFD" + strings.Repeat("b", 1022)},
			4 * time.Second, verdictFailing,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, verdict := newTestAttempter(t, test.client).attempt(t.Context(), testDelivery(t, test.attempt), newTarget(testEndpoint(3, "https://hook.test")))
				test.want.Subscription, test.want.Sequence, test.want.Index = 3, 4, 5
				test.want.Attempt = test.attempt
				test.want.StartTimeUnixMs = time.Now().UnixMilli()
				if test.want.GetHoldUntilUnixMs() > 0 {
					test.want.HoldUntilUnixMs += time.Now().UnixMilli()
				}
				if test.wait > 0 {
					test.want.NextTimeUnixMs = time.Now().Add(test.wait).UnixMilli()
				}
				if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				if verdict != test.verdict {
					t.Errorf("verdict %v, want %v", verdict, test.verdict)
				}
			})
		})
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestAttemptTimeout(t *testing.T) {
	hang := doer(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	drip := doer(func(r *http.Request) (*http.Response, error) {
		return respond(200, nil, readerFunc(func([]byte) (int, error) {
			<-r.Context().Done()
			return 0, r.Context().Err()
		}))(r)
	})
	tests := []struct {
		name    string
		client  Doer
		timeout time.Duration
		want    time.Duration
	}{
		{"default", hang, 0, 15 * time.Second},
		{"own", hang, 3 * time.Second, 3 * time.Second},
		{"answer without end", drip, 0, 15 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := testEndpoint(3, "https://hook.test")
				if test.timeout > 0 {
					e.Subscription.Timeout = durationpb.New(test.timeout)
				}
				begin := time.Now()
				got, verdict := newTestAttempter(t, test.client).attempt(t.Context(), testDelivery(t, 1), newTarget(e))
				if took := time.Since(begin); took != test.want || got.GetLatencyUs() != uint64(test.want.Microseconds()) {
					t.Errorf("took %v and says %d us, want %v", took, got.GetLatencyUs(), test.want)
				}
				if got.GetErrorClass() != "timeout" || got.GetKind() != linkv1.Outcome_RETRY || verdict != verdictFailing {
					t.Errorf("outcome %v, verdict %v", got, verdict)
				}
			})
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAttemptReadsNoMoreThanItMust(t *testing.T) {
	read := 0
	endless := readerFunc(func(p []byte) (int, error) {
		read += len(p)
		return copy(p, bytes.Repeat([]byte("x"), len(p))), nil
	})
	got, verdict := newTestAttempter(t, respond(200, nil, endless)).attempt(t.Context(), testDelivery(t, 1), newTarget(testEndpoint(3, "https://hook.test")))
	if verdict != verdictSuccess || len(got.GetResponseBody()) != 4<<10 || read > 64<<10 {
		t.Errorf("verdict %v, kept %d bytes, read %d", verdict, len(got.GetResponseBody()), read)
	}
}

func TestAttemptAborted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	client := doer(func(r *http.Request) (*http.Response, error) { return nil, r.Context().Err() })
	got, verdict := newTestAttempter(t, client).attempt(ctx, testDelivery(t, 1), newTarget(testEndpoint(3, "https://hook.test")))
	if got.GetKind() != linkv1.Outcome_RETRY || got.GetErrorClass() != "canceled" || verdict != verdictNone {
		t.Errorf("outcome %v, verdict %v", got, verdict)
	}
}

// What cannot be sent fails without a request.
func TestAttemptUnsendable(t *testing.T) {
	tests := []struct {
		name  string
		class string
		spoil func(*linkv1.Endpoint, *delivery)
	}{
		{"payload mode of the future", "other", func(e *linkv1.Endpoint, _ *delivery) { e.Subscription.PayloadMode = "xml" }},
		{"broken secret", "other", func(e *linkv1.Endpoint, _ *delivery) { e.Secrets[0] = "whsec_?" }},
		{"no secret", "other", func(e *linkv1.Endpoint, _ *delivery) { e.Secrets = nil }},
		{"broken URL", "other", func(e *linkv1.Endpoint, _ *delivery) { e.Subscription.Url = "http://[" }},
		{"broken event", "payload", func(_ *linkv1.Endpoint, d *delivery) { d.message = newMessage(&linkv1.Dispatch{Event: []byte{0xff}}) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e, d := testEndpoint(3, "https://hook.test"), testDelivery(t, 1)
			test.spoil(e, d)
			client := doer(func(*http.Request) (*http.Response, error) {
				t.Error("a request was made")
				return nil, io.EOF
			})
			got, _ := newTestAttempter(t, client).attempt(t.Context(), d, newTarget(e))
			if got.GetKind() != linkv1.Outcome_RETRY || got.GetErrorClass() != test.class || got.GetError() == "" {
				t.Errorf("outcome %v, want class %s", got, test.class)
			}
		})
	}
}

func TestNewTargetSchedule(t *testing.T) {
	e := testEndpoint(3, "https://hook.test")
	e.Subscription.RetrySchedule = []*durationpb.Duration{durationpb.New(time.Second), durationpb.New(0)}
	if diff := cmp.Diff([]time.Duration{time.Second, 0}, newTarget(e).schedule); diff != "" {
		t.Errorf("schedule (-want +got):\n%s", diff)
	}
}

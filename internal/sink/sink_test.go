package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fanfare-dev/fanfare/internal/sink"
	"github.com/fanfare-dev/fanfare/signature"
)

// untimed leaves the times out of a comparison of Stats.
var untimed = cmpopts.IgnoreFields(sink.Stats{}, "FirstTime", "LastTime")

// webhook is a request to send to a sink.
type webhook struct {
	path, id, body string
	secret         signature.Secret // zero: not signed
}

func (h webhook) request(ctx context.Context) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://sink.test"+h.path, strings.NewReader(h.body))
	if h.id != "" {
		r.Header.Set("webhook-id", h.id)
	}
	if !h.secret.IsZero() {
		signature.NewSigner(h.secret).SetHeaders(r.Header,
			signature.Message{ID: h.id, Timestamp: time.Now(), Body: []byte(h.body)})
	}
	return r
}

// send gives a webhook to the sink and returns the status, 0 if it hung up.
func send(ctx context.Context, s *sink.Sink, h webhook) (status int) {
	recorder := httptest.NewRecorder()
	defer func() {
		if reason := recover(); reason != nil {
			if err, ok := reason.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				panic(reason)
			}
			status = 0
		}
	}()
	s.ServeHTTP(recorder, h.request(ctx))
	return recorder.Code
}

func secretOf(t *testing.T, fill byte) signature.Secret {
	t.Helper()
	secret, err := signature.NewSecret(bytes.NewReader(bytes.Repeat([]byte{fill}, signature.NewSecretBytes)))
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestCountsIDs(t *testing.T) {
	var got []string
	s := sink.New(sink.Config{OnRequest: func(r sink.Request) {
		note := r.Path + " " + r.ID
		if r.Duplicate {
			note += " duplicate"
		}
		if r.OutOfOrder {
			note += " out of order"
		}
		got = append(got, note)
	}})
	for _, h := range []webhook{
		{path: "/a", id: "evt_2", body: "12345"},
		{path: "/a", id: "evt_3"},
		{path: "/a", id: "evt_1"},                // came late
		{path: "/a", id: "evt_2", body: "12345"}, // came again: not late
		{path: "/b", id: "evt_2"},                // for another subscription
		{path: "/b", id: "evt_1"},
		{path: "/b", id: "evt_1"},
		{path: "/b", id: ""},
		{path: "/b", id: ""},
	} {
		if status := send(t.Context(), s, h); status != 200 {
			t.Errorf("%+v: status %d", h, status)
		}
	}
	want := []string{
		"/a evt_2", "/a evt_3", "/a evt_1 out of order", "/a evt_2 duplicate",
		"/b evt_2", "/b evt_1 out of order", "/b evt_1 duplicate", "/b ", "/b ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	counts := sink.Stats{
		Received: 9, Accepted: 9, Distinct: 5, Duplicates: 2, WithoutID: 2, OutOfOrder: 2, Bytes: 10,
	}
	if diff := cmp.Diff(counts, s.Stats(), untimed); diff != "" {
		t.Error(diff)
	}
}

// What failed was not accepted: when it comes again it is no duplicate.
func TestRetryAfterFailureIsNoDuplicate(t *testing.T) {
	s := sink.New(sink.Config{FailFirst: 2, FailStatus: 500})
	var got []int
	for range 4 {
		got = append(got, send(t.Context(), s, webhook{path: "/", id: "evt_1"}))
	}
	if diff := cmp.Diff([]int{500, 500, 200, 200}, got); diff != "" {
		t.Error(diff)
	}
	want := sink.Stats{Received: 4, Accepted: 2, Failed: 2, Distinct: 1, Duplicates: 1}
	if diff := cmp.Diff(want, s.Stats(), untimed); diff != "" {
		t.Error(diff)
	}
}

func TestVerifies(t *testing.T) {
	first, second, other := secretOf(t, 1), secretOf(t, 2), secretOf(t, 3)
	var last sink.Request
	s := sink.New(sink.Config{
		Secrets:   []signature.Secret{first, second},
		FailFirst: 1, // applies to the first good one
		OnRequest: func(r sink.Request) { last = r },
	})
	tests := []struct {
		name     string
		hook     webhook
		status   int
		verified sink.Verification
		problem  error
	}{
		{"other secret", webhook{path: "/", id: "evt_1", body: "{}", secret: other}, 401, sink.Unverified, signature.ErrNoMatch},
		{"no signature", webhook{path: "/", id: "evt_1", body: "{}"}, 401, sink.Unverified, nil},
		{"good, but made to fail", webhook{path: "/", id: "evt_1", body: "{}", secret: first}, 503, sink.Verified, nil},
		{"first secret", webhook{path: "/", id: "evt_1", body: "{}", secret: first}, 200, sink.Verified, nil},
		{"second secret", webhook{path: "/", id: "evt_2", body: "{}", secret: second}, 200, sink.Verified, nil},
	}
	for _, test := range tests {
		if got := send(t.Context(), s, test.hook); got != test.status || last.Status != got {
			t.Errorf("%s: status %d, told %d, want %d", test.name, got, last.Status, test.status)
		}
		if last.Verification != test.verified {
			t.Errorf("%s: verification %s, want %s", test.name, last.Verification, test.verified)
		}
		if test.problem != nil && !errors.Is(last.Problem, test.problem) {
			t.Errorf("%s: problem %v, want %v", test.name, last.Problem, test.problem)
		}
		if (last.Problem != nil) != (test.status == 401) {
			t.Errorf("%s: problem %v", test.name, last.Problem)
		}
	}
	want := sink.Stats{Received: 5, Accepted: 2, Failed: 1, BadSignatures: 2, Distinct: 2, Bytes: 10}
	if diff := cmp.Diff(want, s.Stats(), untimed); diff != "" {
		t.Error(diff)
	}
}

func TestFailRate(t *testing.T) {
	draws := []float64{0.0, 0.29, 0.3, 0.9}
	next := 0
	s := sink.New(sink.Config{
		FailRate: 0.3, FailStatus: 429, Status: 204,
		Random: func() float64 { next++; return draws[next-1] },
	})
	var got []int
	for range draws {
		got = append(got, send(t.Context(), s, webhook{path: "/"}))
	}
	if diff := cmp.Diff([]int{429, 429, 204, 204}, got); diff != "" {
		t.Error(diff)
	}
	always := sink.New(sink.Config{FailRate: 1})
	for range 100 {
		if got := send(t.Context(), always, webhook{path: "/"}); got != 503 {
			t.Fatalf("status %d at a fail rate of 1", got)
		}
	}
}

func TestStatusThatFails(t *testing.T) {
	s := sink.New(sink.Config{Status: 410})
	if got := send(t.Context(), s, webhook{path: "/", id: "a"}); got != 410 {
		t.Errorf("status %d", got)
	}
	if diff := cmp.Diff(sink.Stats{Received: 1, Failed: 1}, s.Stats(), untimed); diff != "" {
		t.Error(diff)
	}
}

func TestDelayAndFailFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sink.New(sink.Config{Delay: 200 * time.Millisecond, FailFor: time.Second})
		<-time.After(time.Hour) // fail-for counts from the first request, not from here
		start := time.Now()
		var statuses []int
		for range 7 {
			statuses = append(statuses, send(t.Context(), s, webhook{path: "/"}))
		}
		if diff := cmp.Diff([]int{503, 503, 503, 503, 503, 200, 200}, statuses); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(start); took != 7*200*time.Millisecond {
			t.Errorf("took %v", took)
		}
		counts := s.Stats()
		if got := counts.FirstTime.Sub(start); got != 0 {
			t.Errorf("first time is %v after the start", got)
		}
		if got := counts.LastTime.Sub(start); got != 6*200*time.Millisecond {
			t.Errorf("last time is %v after the start", got)
		}
	})
}

// A client that goes is counted as gone, not as accepted or failed.
func TestClientGoes(t *testing.T) {
	for name, config := range map[string]sink.Config{
		"hang":  {Hang: true},
		"delay": {Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []sink.Request
				config.OnRequest = func(r sink.Request) { told = append(told, r) }
				s := sink.New(config)
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				start := time.Now()
				if got := send(ctx, s, webhook{path: "/", id: "evt_1"}); got != 0 {
					t.Errorf("status %d, want none", got)
				}
				if took := time.Since(start); took != 15*time.Second {
					t.Errorf("took %v", took)
				}
				if len(told) != 1 || told[0].Status != 0 || !strings.Contains(told[0].String(), "no answer") {
					t.Errorf("told of %v", told)
				}
				if diff := cmp.Diff(sink.Stats{Received: 1, Abandoned: 1}, s.Stats(), untimed); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestRefuses(t *testing.T) {
	s := sink.New(sink.Config{MaxBodyBytes: 8})
	for _, test := range []struct {
		name   string
		hook   webhook
		status int
	}{
		{"body at the limit", webhook{path: "/", body: "12345678"}, 200},
		{"body over the limit", webhook{path: "/", body: "123456789"}, 413},
		{"id at the limit", webhook{path: "/", id: strings.Repeat("a", sink.MaxIDBytes)}, 200},
		{"id over the limit", webhook{path: "/", id: strings.Repeat("a", sink.MaxIDBytes+1)}, 400},
		{"path over the limit", webhook{path: "/" + strings.Repeat("a", sink.MaxPathBytes)}, 414},
	} {
		if got := send(t.Context(), s, test.hook); got != test.status {
			t.Errorf("%s: status %d, want %d", test.name, got, test.status)
		}
	}
	want := sink.Stats{Received: 5, Accepted: 2, Refused: 3, Distinct: 1, WithoutID: 1, Bytes: 16}
	if diff := cmp.Diff(want, s.Stats(), untimed); diff != "" {
		t.Error(diff)
	}
}

// The ids remembered are the newest MaxIDs; an older one counts as new.
func TestForgetsTheOldestIDs(t *testing.T) {
	s := sink.New(sink.Config{MaxIDs: 3})
	for _, id := range []string{"1", "2", "3", "1", "4", "4", "2", "1"} {
		send(t.Context(), s, webhook{path: "/", id: id})
	}
	// 4 makes it forget 1; 2 is known; 1 comes as new and makes it forget 2.
	want := sink.Stats{
		Received: 8, Accepted: 8, Distinct: 5, Duplicates: 3, OutOfOrder: 1, ForgottenIDs: 2,
	}
	if diff := cmp.Diff(want, s.Stats(), untimed); diff != "" {
		t.Error(diff)
	}
}

func TestPathsAreBounded(t *testing.T) {
	s := sink.New(sink.Config{})
	for i := range sink.MaxPaths + 10 {
		path := fmt.Sprintf("/%d", i)
		send(t.Context(), s, webhook{path: path, id: "2"})
		send(t.Context(), s, webhook{path: path, id: "1"})
	}
	if got := s.Stats().OutOfOrder; got != sink.MaxPaths {
		t.Errorf("out of order on %d paths, want %d", got, sink.MaxPaths)
	}
}

func TestType(t *testing.T) {
	for _, test := range []struct {
		name, body, header, want string
	}{
		{"of a JSON object", `{"type":"order.created","data":{"type":"x"}}`, "", "order.created"},
		{"of the header first", `{"type":"order.created"}`, "order.paid", "order.paid"},
		{"of an array", `[{"type":"order.created"}]`, "", ""},
		{"not a string", `{"type":1}`, "", ""},
		{"not JSON", `type`, "", ""},
		{"no body", ``, "", ""},
	} {
		var got string
		s := sink.New(sink.Config{OnRequest: func(r sink.Request) { got = r.Type }})
		r := webhook{path: "/", body: test.body}.request(t.Context())
		r.Header.Set("ce-type", test.header)
		s.ServeHTTP(httptest.NewRecorder(), r)
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestStatsOverHTTP(t *testing.T) {
	s := sink.New(sink.Config{Status: 500})
	server := httptest.NewServer(s)
	defer server.Close()
	if got := send(t.Context(), s, webhook{path: sink.StatsPath, id: "a"}); got != 500 {
		t.Errorf("a POST to the path of the counts got %d", got)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+sink.StatsPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var got sink.Stats
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	if diff := cmp.Diff(s.Stats(), got, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Error(diff)
	}
	if got.Received != 1 {
		t.Errorf("asking for the counts was counted: %d", got.Received)
	}
}

// The names are an interface: scripts read them.
func TestStatsJSON(t *testing.T) {
	var out strings.Builder
	if err := sink.New(sink.Config{}).Stats().Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `{
  "received": 0,
  "accepted": 0,
  "failed": 0,
  "badSignatures": 0,
  "refused": 0,
  "abandoned": 0,
  "distinct": 0,
  "duplicates": 0,
  "withoutId": 0,
  "outOfOrder": 0,
  "forgottenIds": 0,
  "bytes": 0
}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// Every request ends in exactly one of the counts, however many come at once.
func TestCountsAddUp(t *testing.T) {
	secret := secretOf(t, 1)
	s := sink.New(sink.Config{Secrets: []signature.Secret{secret}, FailRate: 0.5, MaxBodyBytes: 100})
	var group sync.WaitGroup
	for sender := range 8 {
		group.Go(func() {
			for i := range 100 {
				hook := webhook{path: "/", id: fmt.Sprintf("%03d", i), body: "{}", secret: secret}
				switch i % 10 {
				case sender:
					hook.secret = signature.Secret{}
				case 9:
					hook.body = strings.Repeat("x", 101)
				}
				send(t.Context(), s, hook)
			}
		})
	}
	group.Wait()
	got := s.Stats()
	if sum := got.Accepted + got.Failed + got.BadSignatures + got.Refused + got.Abandoned; sum != 800 || got.Received != 800 {
		t.Errorf("received %d, the rest adds up to %d: %+v", got.Received, sum, got)
	}
	if got.BadSignatures != 80 || got.Refused != 80 || got.Distinct+got.Duplicates != got.Accepted {
		t.Errorf("got %+v", got)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name    string
		config  sink.Config
		problem string
	}{
		{"zero", sink.Config{}, ""},
		{"all set", sink.Config{Status: 204, FailStatus: 500, FailRate: 1, FailFirst: 1, FailFor: 1, Delay: 1}, ""},
		{"status of no answer", sink.Config{Status: 100}, "status"},
		{"status too great", sink.Config{Status: 600}, "status"},
		{"fail status", sink.Config{FailStatus: -1}, "fail status"},
		{"rate below 0", sink.Config{FailRate: -0.1}, "fail rate"},
		{"rate above 1", sink.Config{FailRate: 1.1}, "fail rate"},
		{"rate of no number", sink.Config{FailRate: math.NaN()}, "fail rate"},
		{"first", sink.Config{FailFirst: -1}, "fail first"},
		{"for", sink.Config{FailFor: -1}, "fail for"},
		{"delay", sink.Config{Delay: -1}, "delay"},
	} {
		err := test.config.Validate()
		if test.problem == "" && err != nil || test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%s: got error %v, want %q", test.name, err, test.problem)
		}
	}
}

func TestRequestString(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	for _, test := range []struct {
		request sink.Request
		want    string
	}{
		{
			sink.Request{
				Time: at, Method: "POST", Path: "/hooks", ID: "evt_1", Type: "order.created", Body: make([]byte, 42),
				Verification: sink.Verified, Status: 200,
			},
			"03:04:05.678 POST /hooks         evt_1                            order.created                42 B  ✓  200",
		},
		{
			sink.Request{
				Time: at, Method: "POST", Path: "/", Verification: sink.Unverified, Status: 401,
				Problem: signature.ErrNoMatch,
			},
			"03:04:05.678 POST /              -                                -                             0 B  ✗  401" +
				"  (no matching signature)",
		},
		{
			sink.Request{
				Time: at, Method: "PUT", Path: "/", ID: "e", Verification: sink.Unchecked, Status: 0,
				Duplicate: true, OutOfOrder: true,
			},
			"03:04:05.678 PUT  /              e                                -                             0 B  -  no answer" +
				"  (duplicate, out of order)",
		},
		{ // nothing from outside may move the cursor or fill the screen
			sink.Request{
				Time: at, Method: "POST", Path: "/\x1b[2J", ID: "a\r\nb", Type: strings.Repeat("é", 100),
				Verification: sink.Unchecked, Status: 200,
			},
			"03:04:05.678 POST /\uFFFD[2J          a\uFFFD\uFFFDb                             " + strings.Repeat("é", 79) +
				"…      0 B  -  200",
		},
	} {
		if diff := cmp.Diff(test.want, test.request.String()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRequestHasWhatWasSent(t *testing.T) {
	var got sink.Request
	s := sink.New(sink.Config{OnRequest: func(r sink.Request) { got = r }})
	r := webhook{path: "/a/b", id: "evt_1", body: "as sent"}.request(t.Context())
	r.Header.Set("X-Extra", "1")
	s.ServeHTTP(httptest.NewRecorder(), r)
	if got.Method != "POST" || got.Path != "/a/b" || string(got.Body) != "as sent" || got.Header.Get("X-Extra") != "1" {
		t.Errorf("got %+v", got)
	}
	if _, err := r.Body.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the body was not read to its end: %v", err)
	}
}

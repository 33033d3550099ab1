package worker

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// What was sent and what came back is shown, but for credentials.
func TestTester(t *testing.T) {
	var sent http.Header
	client := doer(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return respond(202, http.Header{"X-Echo": {r.Header.Get("X-Api-Key"), "b"}}, strings.NewReader("got "+r.Header.Get("X-Api-Key")))(r)
	})
	endpoint := withCredentials(&linkv1.Credentials{Headers: map[string]string{"X-Api-Key": "top-secret"}})
	endpoint.Subscription.PayloadMode = "raw"
	got := NewTester(client, "1.2").Test(t.Context(), endpoint, dispatchOf(t, sample()))
	if got.GetStatusCode() != 202 || string(got.GetResponseBody()) != "got ***" || got.GetErrorClass() != "" || got.GetLatency() == nil {
		t.Errorf("got %v", got)
	}
	if diff := cmp.Diff(map[string]string{"X-Echo": "***, b"}, got.GetResponseHeaders()); diff != "" {
		t.Error(diff)
	}
	if sent.Get("X-Api-Key") != "top-secret" || sent.Get("User-Agent") != "Fanfare/1.2" {
		t.Errorf("sent %v", sent)
	}
	for name, text := range got.GetRequestHeaders() {
		if want := sent.Get(name); text != want && name != "X-Api-Key" || strings.Contains(text, "secret") {
			t.Errorf("%s was %q and is shown as %q", name, want, text)
		}
	}
	if len(got.GetRequestHeaders()) != len(sent) || string(got.GetRequestBody()) != string(sample().GetData()) {
		t.Errorf("shown are %v and %s", got.GetRequestHeaders(), got.GetRequestBody())
	}
	failed := NewTester(respond(500, nil, http.NoBody), "").Test(t.Context(), testEndpoint(1, "https://example.com"), dispatchOf(t, sample()))
	if failed.GetErrorClass() != "status" || failed.GetError() != "the endpoint answered 500 Internal Server Error" {
		t.Errorf("got %v", failed)
	}
	broken := NewTester(client, "").Test(t.Context(), &linkv1.Endpoint{Subscription: &fanfarev1.Subscription{}}, &linkv1.Dispatch{Event: []byte{1}})
	if broken.GetErrorClass() == "" || broken.GetStatusCode() != 0 {
		t.Errorf("got %v", broken)
	}
}

// What a Tester forwards is what a worker sends: alone, and to an endpoint of
// batches in one.
func TestTesterForwards(t *testing.T) {
	for _, mode := range []string{"", "raw", "cloudevents-structured", "cloudevents-binary"} {
		for _, batch := range []uint32{0, 10} {
			if mode == "cloudevents-binary" && batch > 0 {
				continue
			}
			t.Run(mode+strings.Repeat(" batched", int(batch)/10), func(t *testing.T) {
				var sent []*http.Request
				var bodies []string
				client := doer(func(r *http.Request) (*http.Response, error) {
					body, err := io.ReadAll(r.Body)
					sent, bodies = append(sent, r), append(bodies, string(body))
					if err != nil {
						return nil, err
					}
					return respond(204, nil, http.NoBody)(r)
				})
				endpoint := testEndpoint(1, "https://example.com/hook")
				endpoint.Subscription.PayloadMode, endpoint.Subscription.BatchCount = mode, batch
				d := &delivery{ref: ref{3, 4, 5}, attempt: 1, step: 1, message: newMessage(dispatchOf(t, sample()))}
				attempter := newTestAttempter(t, client)
				if batch > 0 {
					attempter.attemptBatch(t.Context(), []*delivery{d}, newTarget(endpoint))
				} else {
					attempter.attempt(t.Context(), d, newTarget(endpoint))
				}
				forwarded := NewTester(client, "").Forward(t.Context(), endpoint, dispatchOf(t, sample()))
				if len(sent) != 2 || forwarded.GetStatusCode() != 204 {
					t.Fatalf("%d requests; %v", len(sent), forwarded)
				}
				if diff := cmp.Diff(bodies[0], bodies[1]); diff != "" {
					t.Error(diff)
				}
				passing := cmpopts.IgnoreMapEntries(func(name string, _ []string) bool {
					return name == "Webhook-Timestamp" || name == "Webhook-Signature" || name == "User-Agent"
				})
				if diff := cmp.Diff(sent[0].Header, sent[1].Header, passing); diff != "" {
					t.Error(diff)
				}
				secret, err := signature.ParseSecret(testSecret)
				if err != nil {
					t.Fatal(err)
				}
				if err := signature.Verify([]signature.Secret{secret}, sent[1].Header, []byte(bodies[1]), time.Now(), 0); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

package worker

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
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

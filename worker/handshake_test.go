package worker

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/receiver"
	"github.com/fanfare-dev/fanfare/signature"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// asking is an endpoint of which consent is asked.
func asking(url string, requestsPerMinute uint32) *linkv1.Endpoint {
	endpoint := testEndpoint(1, url)
	endpoint.Subscription.Handshake = &fanfarev1.WebhookHandshake{RequestsPerMinute: requestsPerMinute}
	return endpoint
}

func TestHandshake(t *testing.T) {
	const origin = "hooks.example.com"
	header := func(pairs ...string) http.Header {
		h := make(http.Header)
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	for _, tt := range []struct {
		name    string
		asked   uint32
		status  int
		answer  http.Header
		allowed uint32
		wrong   string // what the error has; empty: it is granted
	}{
		{"origin", 0, 200, header("WebHook-Allowed-Origin", origin), 0, ""},
		{"origin in other case", 0, 200, header("WebHook-Allowed-Origin", "Hooks.Example.com"), 0, ""},
		{"every origin", 0, 204, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "*"), 0, ""},
		{"rate", 120, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "100"), 100, ""},
		{"rate that was not asked for", 0, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "100"), 100, ""},
		{"more than asked for", 120, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "6000"), 6000, ""},
		{"no rate where one was asked for", 120, 200, header("WebHook-Allowed-Origin", "*"), 120, ""},
		{"any rate", 120, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "*"), 0, ""},
		{"a rate beyond all", 0, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "99999999999"), 1<<32 - 1, ""},
		{"the header counts, not the status", 0, 405, header("WebHook-Allowed-Origin", origin), 0, ""},
		{"200 is no consent", 0, 200, header("Allow", "POST"), 0, "answered 200 without WebHook-Allowed-Origin"},
		{"refused", 0, 403, nil, 0, "answered 403 without WebHook-Allowed-Origin"},
		{"redirect", 0, 301, header("Location", "https://other.example"), 0, "answered 301 without"},
		{"another origin", 0, 200, header("WebHook-Allowed-Origin", "example.com"), 0, `"example.com", which is neither hooks.example.com nor *`},
		{"several origins", 0, 200, header("WebHook-Allowed-Origin", origin+", *"), 0, "neither"},
		{"rate 0", 60, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "0"), 0, `WebHook-Allowed-Rate "0"`},
		{"negative rate", 60, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "-5"), 0, "neither a positive number"},
		{"rate in words", 60, 200, header("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "120/min"), 0, "neither a positive number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sent *http.Request
			client := doer(func(r *http.Request) (*http.Response, error) {
				sent = r
				return respond(tt.status, tt.answer, strings.NewReader("body"))(r)
			})
			got, err := NewTester(client, "1.2").Handshake(t.Context(), asking("https://example.com/hook?a=b", tt.asked), origin)
			rate := ""
			if tt.asked != 0 {
				rate = strconv.Itoa(int(tt.asked))
			}
			if sent.Method != http.MethodOptions || sent.URL.String() != "https://example.com/hook?a=b" ||
				sent.Header.Get("WebHook-Request-Origin") != origin || sent.Header.Get("WebHook-Request-Rate") != rate {
				t.Errorf("sent %s %v with %v", sent.Method, sent.URL, sent.Header)
			}
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("got %v, want an error with %q", err, tt.wrong)
				}
				return
			}
			want := &fanfarev1.WebhookHandshake{RequestsPerMinute: tt.asked, Origin: origin, AllowedRequestsPerMinute: tt.allowed}
			if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%v, granted (-want +got):\n%s", err, diff)
			}
		})
	}
}

// What the endpoint is shown is in no error, though it says it again.
func TestHandshakeMasksCredentials(t *testing.T) {
	client := doer(func(r *http.Request) (*http.Response, error) {
		return respond(200, http.Header{"Webhook-Allowed-Origin": {r.Header.Get("X-Api-Key")}}, http.NoBody)(r)
	})
	endpoint := withCredentials(&linkv1.Credentials{Headers: map[string]string{"X-Api-Key": "top-secret"}})
	_, err := NewTester(client, "").Handshake(t.Context(), endpoint, "a.example")
	if err == nil || strings.Contains(err.Error(), "top-secret") || !strings.Contains(err.Error(), `"***"`) {
		t.Errorf("got %v", err)
	}
}

// Both ends are ours here, over real connections: what the receiver allows is
// granted, and the guard is asked as for every other request. What is sent
// later is sent in the name that was granted.
func TestHandshakeWithReceiver(t *testing.T) {
	got := make(chan *http.Request, 1)
	endpoint, err := receiver.New(receiver.Config{
		Gate: receiver.Gate{AllowUnsigned: true}, AllowedOrigins: []string{"hooks.example.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body)
			got <- r
			return
		}
		endpoint.ServeHTTP(w, r)
	}))
	defer server.Close()
	client := egress.NewClient(egress.Config{Policy: egress.Policy{AllowHTTP: true, AllowLoopback: true}})
	defer client.CloseIdle()
	tester := NewTester(client, "1.2")

	granted, err := tester.Handshake(t.Context(), asking(server.URL, 600), "hooks.example.com")
	if err != nil || granted.GetOrigin() != "hooks.example.com" || granted.GetAllowedRequestsPerMinute() != 0 {
		t.Errorf("granted %v, %v", granted, err)
	}
	if _, err := tester.Handshake(t.Context(), asking(server.URL, 0), "other.example.com"); err == nil {
		t.Error("the receiver grants consent to a sender that it does not know")
	}
	strict := egress.NewClient(egress.Config{Policy: egress.Policy{AllowHTTP: true}})
	if _, err := NewTester(strict, "").Handshake(t.Context(), asking(server.URL, 0), "hooks.example.com"); err == nil ||
		!strings.Contains(err.Error(), "not allowed") {
		t.Errorf("around the guard: %v", err)
	}

	sending := asking(server.URL, 0)
	sending.Subscription.Handshake = granted
	d := &delivery{ref: ref{3, 4, 5}, attempt: 1, step: 1, message: newMessage(dispatchOf(t, sample()))}
	newTestAttempter(t, client).attempt(t.Context(), d, newTarget(sending))
	if r := <-got; r.Header.Get("WebHook-Request-Origin") != "hooks.example.com" || r.Header.Get(signature.HeaderID) == "" {
		t.Errorf("the event came with %v", r.Header)
	}
}

// Whatever an endpoint answers, what is read from it is a consent or an error.
func FuzzGranted(f *testing.F) {
	f.Add("*", "120", uint32(60))
	f.Add("a.example", "*", uint32(0))
	f.Add("", "", uint32(1))
	f.Add("A.EXAMPLE ", " 18446744073709551616", uint32(1))
	f.Add("*", "+1", uint32(1))
	f.Fuzz(func(t *testing.T, origin, rate string, asked uint32) {
		header := http.Header{allowedOrigin: {origin}, allowedRate: {rate}}
		allowed, err := granted(header, "a.example", asked)
		switch to, text := strings.TrimSpace(origin), strings.TrimSpace(rate); {
		case err != nil:
			if len(err.Error()) > 8*maxQuoted || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("the error is %q", err)
			}
		case to != "*" && !strings.EqualFold(to, "a.example"):
			t.Errorf("%q is a consent", origin)
		case text == "" && allowed != asked, text == "*" && allowed != 0:
			t.Errorf("rate %q with %d asked for: %d", rate, asked, allowed)
		case text != "" && text != "*" && (allowed == 0 || strings.Trim(text, "0123456789") != ""):
			t.Errorf("rate %q is %d", rate, allowed)
		}
	})
}

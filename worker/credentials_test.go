package worker

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// oauthEndpoint answers both for tokens, at /token, and deliveries.
type oauthEndpoint struct {
	mu       sync.Mutex
	fetched  int             // tokens; guarded by mu
	lasts    int             // seconds; guarded by mu
	revoked  map[string]bool // guarded by mu
	broken   string          // what /token answers with 400, if not empty; guarded by mu
	received []http.Header   // of deliveries; guarded by mu
}

func (o *oauthEndpoint) Do(r *http.Request) (*http.Response, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	json := http.Header{"Content-Type": {"application/json"}}
	if r.URL.Path == "/token" {
		if o.broken != "" {
			return respond(400, json, strings.NewReader(o.broken))(r)
		}
		o.fetched++
		return respond(200, json, strings.NewReader(fmt.Sprintf(`{"access_token":"token-%d","token_type":"bearer","expires_in":%d}`, o.fetched, o.lasts)))(r)
	}
	o.received = append(o.received, r.Header)
	if o.revoked[r.Header.Get("Authorization")] {
		return respond(401, nil, strings.NewReader("not with "+r.Header.Get("Authorization")))(r)
	}
	return respond(200, nil, http.NoBody)(r)
}

func withCredentials(c *linkv1.Credentials) *linkv1.Endpoint {
	e := testEndpoint(3, "https://example.com/hook")
	e.Credentials = c
	return e
}

func oauth() *linkv1.Endpoint {
	return withCredentials(&linkv1.Credentials{Authentication: &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Oauth2{
		Oauth2: &fanfarev1.Oauth2Authentication{
			TokenUrl: "https://auth.example.com/token", ClientId: "fanfare", ClientSecret: "client-secret-text", Scopes: []string{"hooks"},
			Parameters: map[string]string{"audience": "example"},
		},
	}}})
}

// A token is fetched once for many attempts, replaced before it ends, and
// fetched anew when it is refused, in the same attempt.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &oauthEndpoint{lasts: 3600, revoked: map[string]bool{}}
		attempter, target := newTestAttempter(t, server), newTarget(oauth())
		attempt := func(wantStatus uint32, wantFetched int) {
			t.Helper()
			o, _ := attempter.attempt(t.Context(), testDelivery(t, 1), target)
			if o.GetStatusCode() != wantStatus || server.fetched != wantFetched {
				t.Errorf("got %d %q after %d tokens, want %d after %d", o.GetStatusCode(), o.GetError(), server.fetched, wantStatus, wantFetched)
			}
		}
		var together sync.WaitGroup
		for range 10 {
			together.Go(func() { attempter.attempt(t.Context(), testDelivery(t, 1), target) })
		}
		together.Wait()
		attempt(200, 1)
		<-time.After(time.Hour - tokenEarly - time.Second)
		attempt(200, 1)
		<-time.After(2 * time.Second)
		attempt(200, 2)
		server.revoked["Bearer token-2"] = true
		attempt(200, 3)
		if got := len(server.received); got != 10+1+1+1+2 {
			t.Errorf("there were %d requests", got)
		}
		// One that is new and refused is not asked for again and again.
		server.revoked["Bearer token-3"], server.revoked["Bearer token-4"] = true, true
		attempt(401, 4)
		attempt(200, 5)
		server.lasts = 40
		server.revoked["Bearer token-5"] = true
		attempt(200, 6)
		<-time.After(20 * time.Second)
		attempt(200, 6)
	})
}

func TestTokenFailures(t *testing.T) {
	for name, test := range map[string]struct {
		client Doer
		class  egress.Class
		text   string
	}{
		"refused":   {&oauthEndpoint{broken: `{"error":"invalid_client","error_description":"not client-secret-text"}`}, classAuthentication, "fetching an OAuth2 token: the token endpoint answered 400 invalid_client"},
		"no code":   {&oauthEndpoint{broken: "client-secret-text"}, classAuthentication, "fetching an OAuth2 token: the token endpoint answered 400"},
		"no token":  {respond(200, http.Header{"Content-Type": {"application/json"}}, strings.NewReader("{}")), classAuthentication, "fetching an OAuth2 token: its answer holds no token"},
		"bad token": {respond(200, http.Header{"Content-Type": {"application/json"}}, strings.NewReader(`{"access_token":"a\nb"}`)), classAuthentication, "fetching an OAuth2 token: the token has characters that a header cannot carry"},
		"mac token": {respond(200, http.Header{"Content-Type": {"application/json"}}, strings.NewReader(`{"access_token":"a","token_type":"mac"}`)), classAuthentication, "fetching an OAuth2 token: the token is not a bearer token"},
		"redirect":  {respond(302, http.Header{"Location": {"https://elsewhere.example/"}}, http.NoBody), classAuthentication, "fetching an OAuth2 token: the token endpoint answered 302"},
		"denied": {doer(func(*http.Request) (*http.Response, error) {
			return nil, &egress.DeniedError{Target: "10.0.0.1", Reason: "it is private"}
		}), egress.ClassEgressDenied, "fetching an OAuth2 token: 10.0.0.1 is not allowed: it is private"},
		"unreachable": {doer(func(*http.Request) (*http.Response, error) { return nil, errors.New("no route") }), classAuthentication, "fetching an OAuth2 token: no route"},
	} {
		o, v := newTestAttempter(t, test.client).attempt(t.Context(), testDelivery(t, 1), newTarget(oauth()))
		if o.GetErrorClass() != string(test.class) || o.GetError() != test.text || o.GetKind() != linkv1.Outcome_RETRY || v != verdictFailing {
			t.Errorf("%s: got %s %q %v", name, o.GetErrorClass(), o.GetError(), v)
		}
	}
}

func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, "application/json", `{"access_token":"abc","token_type":"Bearer","expires_in":"3600"}`)
	f.Add(200, "application/x-www-form-urlencoded", "access_token=abc&expires_in=1")
	f.Add(400, "application/json", `{"error":"invalid_client"}`)
	f.Add(200, "text/plain", "\x00")
	f.Fuzz(func(t *testing.T, status int, contentType, body string) {
		way := tokenTransport{client: respond(status, http.Header{"Content-Type": {contentType}}, strings.NewReader(body))}
		token, _, err := newTokens(&fanfarev1.Oauth2Authentication{TokenUrl: "https://a.example/"}).get(t.Context(), way)
		if err == nil && (token == "" || strings.ContainsAny(token, " \r\n\x00")) {
			t.Errorf("the token is %q", token)
		}
		if err != nil && len(body) > 30 && strings.Contains(err.Error(), body) {
			t.Errorf("the error quotes the answer: %v", err)
		}
	})
}

// What an endpoint is shown arrives, and takes the place of nothing else; and
// when it writes it down, nobody reads it here.
func TestCredentialsAreShownAndMasked(t *testing.T) {
	for name, test := range map[string]struct {
		credentials *linkv1.Credentials
		want        string // authorization
	}{
		"basic": {&linkv1.Credentials{Authentication: &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Basic{
			Basic: &fanfarev1.BasicAuthentication{Username: "Aladdin", Password: "open sesame"},
		}}}, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="},
		"bearer": {&linkv1.Credentials{Authentication: &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Bearer{
			Bearer: &fanfarev1.BearerAuthentication{Token: "a-bearer-token"},
		}}}, "Bearer a-bearer-token"},
		"header": {&linkv1.Credentials{Headers: map[string]string{
			"authorization": "ApiKey top-secret-key", "X-Api-Key": "another-secret", "content-type": "text/plain", "Webhook-Id": "forged",
		}}, "ApiKey top-secret-key"},
	} {
		t.Run(name, func(t *testing.T) {
			var got http.Header
			client := doer(func(r *http.Request) (*http.Response, error) {
				got = r.Header
				echo := "you sent " + r.Header.Get("Authorization") + " and " + r.Header.Get("X-Api-Key")
				return respond(400, nil, strings.NewReader(echo))(r)
			})
			o, _ := newTestAttempter(t, client).attempt(t.Context(), testDelivery(t, 1), newTarget(withCredentials(test.credentials)))
			if got.Get("Authorization") != test.want {
				t.Errorf("authorization is %q", got.Get("Authorization"))
			}
			if got.Get("Content-Type") == "text/plain" || got.Get("Webhook-Id") == "forged" {
				t.Errorf("a static header replaced one of ours: %v", got)
			}
			for _, secret := range []string{"QWxhZGRp", "open sesame", "a-bearer-token", "top-secret-key", "another-secret"} {
				if bytes.Contains(o.GetResponseBody(), []byte(secret)) {
					t.Errorf("the answer that is kept shows %q: %s", secret, o.GetResponseBody())
				}
			}
			if !bytes.Contains(o.GetResponseBody(), []byte("***")) {
				t.Errorf("nothing is masked in %s", o.GetResponseBody())
			}
			failing := doer(func(r *http.Request) (*http.Response, error) {
				return nil, errors.New("cannot send " + r.Header.Get("Authorization"))
			})
			o, _ = newTestAttempter(t, failing).attempt(t.Context(), testDelivery(t, 1), newTarget(withCredentials(test.credentials)))
			if !strings.Contains(o.GetError(), "***") || strings.Contains(o.GetError(), strings.Fields(test.want)[1]) {
				t.Errorf("the error is %q", o.GetError())
			}
		})
	}
}

func TestCredentialsThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]*linkv1.Credentials{
		"no method":      {Authentication: &fanfarev1.Authentication{}},
		"no certificate": {Tls: &fanfarev1.TlsOptions{ClientCertificate: "x", ClientKey: "y"}},
		"no authority":   {Tls: &fanfarev1.TlsOptions{CaCertificates: "x"}},
	} {
		if newTarget(withCredentials(c)).err == nil {
			t.Errorf("%s: it can be sent to", name)
		}
	}
}

// A body is compressed if that is asked for and pays; the bytes signed are the
// bytes sent.
func TestCompression(t *testing.T) {
	secret, err := signature.ParseSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		size int
		zip  bool
	}{{100, false}, {5000, true}} {
		event := fullEvent()
		event.Data, event.DataContentType = []byte(`"`+strings.Repeat("x", test.size)+`"`), "application/json"
		client := doer(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			if err := signature.Verify([]signature.Secret{secret}, r.Header, body, time.Now(), 0); err != nil {
				t.Errorf("%d bytes: %v", test.size, err)
			}
			if zipped := r.Header.Get("Content-Encoding") == "gzip"; zipped != test.zip {
				t.Errorf("%d bytes: compressed %v", test.size, zipped)
			}
			if test.zip {
				reader, err := gzip.NewReader(bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if body, err = io.ReadAll(reader); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(body, event.GetData()) {
				t.Errorf("%d bytes: the body is another", test.size)
			}
			return respond(204, nil, http.NoBody)(r)
		})
		endpoint := testEndpoint(3, "https://example.com")
		endpoint.Subscription.Compression, endpoint.Subscription.PayloadMode = "gzip", "raw"
		for range 2 {
			d := &delivery{ref: ref{3, 4, 5}, attempt: 1, step: 1, message: newMessage(dispatchOf(t, event))}
			newTestAttempter(t, client).attempt(t.Context(), d, newTarget(endpoint))
		}
	}
}

func TestTraceIsPassedOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, test := range []struct {
		extensions map[string]string
		omit       bool
		want       [2]string
	}{
		{map[string]string{"traceparent": parent, "tracestate": "a=b"}, false, [2]string{parent, "a=b"}},
		{map[string]string{"traceparent": parent, "tracestate": "a=b"}, true, [2]string{}},
		{map[string]string{"traceparent": "nonsense", "tracestate": "a=b"}, false, [2]string{}},
		{nil, false, [2]string{}},
	} {
		event := fullEvent()
		event.Extensions = test.extensions
		client := doer(func(r *http.Request) (*http.Response, error) {
			if got := [2]string{r.Header.Get("Traceparent"), r.Header.Get("Tracestate")}; got != test.want {
				t.Errorf("%v: got %q, want %q", test.extensions, got, test.want)
			}
			return respond(204, nil, http.NoBody)(r)
		})
		endpoint := testEndpoint(3, "https://example.com")
		endpoint.Subscription.OmitTraceContext = test.omit
		d := &delivery{ref: ref{3, 4, 5}, attempt: 1, step: 1, message: newMessage(dispatchOf(t, event))}
		newTestAttempter(t, client).attempt(t.Context(), d, newTarget(endpoint))
	}
}

// A body that comes byte by byte is cut off by the timeout of the attempt.
func TestSlowBodyIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := doer(func(r *http.Request) (*http.Response, error) {
			return respond(200, nil, drip{r.Context()})(r)
		})
		begin := time.Now()
		o, _ := newTestAttempter(t, client).attempt(t.Context(), testDelivery(t, 1), newTarget(testEndpoint(3, "https://example.com")))
		if took := time.Since(begin); took != defaultTimeout || o.GetErrorClass() != string(egress.ClassTimeout) || o.GetKind() != linkv1.Outcome_RETRY {
			t.Errorf("after %v: %v", took, o)
		}
	})
}

// drip is a body of one byte a second, without end.
type drip struct{ ctx context.Context } //nolint:containedctx // as the transport's bodies end with their request

func (d drip) Read(b []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		b[0] = 'x'
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

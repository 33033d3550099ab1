package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/receiver"
	"github.com/fanfare-dev/fanfare/signature"
)

func secret(t testing.TB, text string) signature.Secret {
	t.Helper()
	s, err := signature.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	secretOne = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secretTwo = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// signed returns a request that is signed with a secret.
func signed(t testing.TB, id, body string, by ...signature.Secret) *http.Request {
	t.Helper()
	r := newHTTPRequest(http.MethodPost, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	signature.NewSigner(by...).SetHeaders(r.Header, signature.Message{ID: id, Timestamp: time.Now(), Body: []byte(body)})
	return r
}

func verifiers(secrets ...signature.Secret) []signature.Verifier {
	return []signature.Verifier{{Secrets: secrets}}
}

func TestGate(t *testing.T) {
	one, two := secret(t, secretOne), secret(t, secretTwo)
	const body = `{"type":"a","data":1}`
	for _, tt := range []struct {
		name    string
		gate    receiver.Gate
		request func() *http.Request
		kind    receiver.Kind // 0: it passes
	}{
		{"signed", receiver.Gate{Verifiers: verifiers(one)}, func() *http.Request { return signed(t, "m", body, one) }, 0},
		{"the old secret", receiver.Gate{Verifiers: verifiers(two, one)}, func() *http.Request { return signed(t, "m", body, one) }, 0},
		{"another sender", receiver.Gate{Verifiers: append(verifiers(two), verifiers(one)...)}, func() *http.Request { return signed(t, "m", body, one) }, 0},
		{"another secret", receiver.Gate{Verifiers: verifiers(two)}, func() *http.Request { return signed(t, "m", body, one) }, receiver.Unverified},
		{"altered", receiver.Gate{Verifiers: verifiers(one)}, func() *http.Request {
			r := signed(t, "m", body, one)
			r.Body = io.NopCloser(strings.NewReader(strings.Replace(body, "1", "2", 1)))
			return r
		}, receiver.Unverified},
		{"unsigned", receiver.Gate{Verifiers: verifiers(one)}, func() *http.Request {
			return newHTTPRequest(http.MethodPost, strings.NewReader(body))
		}, receiver.Unverified},
		{"the zero gate", receiver.Gate{}, func() *http.Request { return signed(t, "m", body, one) }, receiver.Unverified},
		{"open", receiver.Gate{AllowUnsigned: true}, func() *http.Request {
			return newHTTPRequest(http.MethodPost, strings.NewReader(body))
		}, 0},
		{"as long as may be", receiver.Gate{AllowUnsigned: true, MaxBodyBytes: int64(len(body))}, func() *http.Request { return signed(t, "m", body, one) }, 0},
		{"too long, and says so", receiver.Gate{AllowUnsigned: true, MaxBodyBytes: 3}, func() *http.Request { return signed(t, "m", body, one) }, receiver.TooLarge},
		{"too long, and says nothing", receiver.Gate{AllowUnsigned: true, MaxBodyBytes: 3}, func() *http.Request {
			r := signed(t, "m", body, one)
			r.ContentLength = -1
			return r
		}, receiver.TooLarge},
		{"broken off", receiver.Gate{AllowUnsigned: true}, func() *http.Request {
			r := signed(t, "m", body, one)
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), brokenReader{}))
			return r
		}, receiver.Malformed},
		{
			"from where it may not",
			receiver.Gate{AllowUnsigned: true, Origin: receiver.Origin{Allowed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
			func() *http.Request { return signed(t, "m", body, one) }, receiver.Forbidden,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request := tt.request()
			got, err := tt.gate.Check(request)
			if tt.kind == 0 {
				if err != nil {
					t.Fatal(err)
				}
				again, err := io.ReadAll(request.Body)
				if string(got) != body || err != nil || !bytes.Equal(again, got) {
					t.Errorf("body %q, read again %q, %v; want %q", got, again, err, body)
				}
				return
			}
			refusal, ok := errors.AsType[*receiver.Error](err)
			if !ok || refusal.Kind != tt.kind {
				t.Fatalf("error %v, want kind %v", err, tt.kind)
			}
			answer := httptest.NewRecorder()
			tt.gate.Middleware(http.NotFoundHandler()).ServeHTTP(answer, tt.request())
			if answer.Code != refusal.Status() {
				t.Errorf("answered %d, want %d", answer.Code, refusal.Status())
			}
		})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestMiddlewarePassesTheBody(t *testing.T) {
	one := secret(t, secretOne)
	const body = `{"x": 1}`
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		whole, ok := receiver.Body(r.Context())
		read, err := io.ReadAll(r.Body)
		if !ok || string(whole) != body || string(read) != body || err != nil {
			t.Errorf("Body is %q, %v; Request.Body is %q, %v", whole, ok, read, err)
		}
		w.WriteHeader(http.StatusTeapot)
	})
	answer := httptest.NewRecorder()
	receiver.Gate{Verifiers: verifiers(one)}.Middleware(next).ServeHTTP(answer, signed(t, "m", body, one))
	if answer.Code != http.StatusTeapot {
		t.Errorf("answered %d", answer.Code)
	}
	if _, ok := receiver.Body(t.Context()); ok {
		t.Error("a context without a request has a body")
	}
}

func TestValidate(t *testing.T) {
	one := secret(t, secretOne)
	for field, config := range map[string]receiver.Config{
		"Verifiers is empty":          {},
		"AllowUnsigned is set beside": {Gate: receiver.Gate{Verifiers: verifiers(one), AllowUnsigned: true}},
		"Verifiers[1]":                {Gate: receiver.Gate{Verifiers: append(verifiers(one), signature.Verifier{})}},
		"MaxBodyBytes":                {Gate: receiver.Gate{AllowUnsigned: true, MaxBodyBytes: -1}},
		"Lease":                       {Gate: receiver.Gate{AllowUnsigned: true}, Lease: -1},
		"Queue":                       {Gate: receiver.Gate{AllowUnsigned: true}, Queue: &receiver.Queue{Size: -1}},
	} {
		if _, err := receiver.New(config); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestOrigin(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tt := range []struct {
		name, peer string
		forwarded  []string
		want       string // empty: an error
	}{
		{"no proxy", "203.0.113.7:1", nil, "203.0.113.7"},
		{"a stranger says what it likes", "203.0.113.7:1", []string{"10.1.1.1"}, "203.0.113.7"},
		{"one proxy", "10.0.0.1:1", []string{"203.0.113.7"}, "203.0.113.7"},
		{"two proxies", "10.0.0.1:1", []string{"203.0.113.7, 10.0.0.2"}, "203.0.113.7"},
		{"two headers", "10.0.0.1:1", []string{"203.0.113.7", "10.0.0.2"}, "203.0.113.7"},
		{"the client lies in front", "10.0.0.1:1", []string{"192.0.2.1, 203.0.113.7"}, "203.0.113.7"},
		{"a proxy that says nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"with a port", "10.0.0.1:1", []string{"203.0.113.7:80"}, "203.0.113.7"},
		{"IPv6", "[fd00::1]:1", []string{"2001:db8::7"}, "2001:db8::7"},
		{"IPv6 with a port", "[fd00::1]:1", []string{"[2001:db8::7]:443"}, "2001:db8::7"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:1", []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{"not an address", "10.0.0.1:1", []string{"unknown"}, ""},
		{"a Unix socket", "@", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRequest(http.MethodPost, nil)
			r.RemoteAddr = tt.peer
			r.Header["X-Forwarded-For"] = tt.forwarded
			got, err := receiver.Origin{TrustedProxies: proxies}.Client(r)
			if tt.want == "" {
				if err == nil {
					t.Errorf("got %v, want an error", got)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("got %v, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// newRequest returns a request as a sender makes it.
func newRequest(url string, by signature.Secret, id, body string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body)) //nolint:noctx // of a test
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/json")
	signature.NewSigner(by).SetHeaders(r.Header, signature.Message{ID: id, Timestamp: time.Now(), Body: []byte(body)})
	return r
}

// newHTTPRequest returns a request as a server has it.
func newHTTPRequest(method string, body io.Reader) *http.Request {
	return httptest.NewRequestWithContext(context.Background(), method, "/", body)
}

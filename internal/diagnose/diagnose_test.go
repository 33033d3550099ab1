package diagnose_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/diagnose"
	"github.com/fanfare-dev/fanfare/signature"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// sent is what a sender sent, by Standard Webhooks.
func sent(t *testing.T, secret, body string, at time.Time) diagnose.Request {
	t.Helper()
	key, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	header := make(http.Header)
	signature.NewSigner(key).SetHeaders(header, signature.Message{ID: "msg_1", Timestamp: at, Body: []byte(body)})
	return diagnose.Request{Header: header, Body: []byte(body)}
}

func TestExplain(t *testing.T) {
	now := time.Unix(1767323045, 0)
	const body = `{"type":"order.created","data":{"name":"J\u00f6rg","link":"https://x/y","n":[1,2.50,true,null],"é":"ü"}}`
	zipped := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write([]byte(s)); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	keyText := strings.TrimPrefix(secret, "whsec_")
	for _, tt := range []struct {
		name     string
		body     string // as sent
		change   func(c *diagnose.Case)
		valid    bool
		mistakes []string // parts of what is found, in order
	}{
		{"right", body, func(*diagnose.Case) {}, true, nil},
		{"right, beside another secret", body, func(c *diagnose.Case) { c.Secrets = append([]string{"nonsense"}, c.Secrets...) }, true, nil},
		{"another secret", body, func(c *diagnose.Case) { c.Secrets = []string{"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"} }, false, nil},
		{"another body", body, func(c *diagnose.Case) { c.Request.Body = []byte(`{}`) }, false, nil},
		{"old", body, func(c *diagnose.Case) { c.Now = now.Add(3 * time.Hour) }, false, []string{"3h0m0s ago"}},
		{"from the future", body, func(c *diagnose.Case) { c.Now = now.Add(-time.Hour) }, false, []string{"1h0m0s in the future"}},
		{"a line end too many", body, func(c *diagnose.Case) { c.Request.Body = append(c.Request.Body, '\n') }, false, []string{"line end"}},
		{"a line end too few", body + "\n", func(c *diagnose.Case) { c.Request.Body = []byte(body) }, false, []string{"lacks the line end"}},
		{"indented", body, func(c *diagnose.Case) {
			var b bytes.Buffer
			if err := json.Indent(&b, c.Request.Body, "", "   "); err != nil {
				t.Error(err)
			}
			c.Request.Body = b.Bytes()
		}, false, []string{"without white space"}},
		{"compacted", `{"a": 1, "b": ["x:,\"", 2]}`, func(c *diagnose.Case) { c.Request.Body = []byte(`{"a":1,"b":["x:,\"",2]}`) }, false, []string{"as Python writes it"}},
		{"Fanfare's envelope around data with spaces", `{"type":"a","timestamp":"2026-01-02T03:04:05Z","data":{"order": 42, "b": [1, 2]}}`, func(c *diagnose.Case) {
			c.Request.Body = []byte(`{"type":"a","timestamp":"2026-01-02T03:04:05Z","data":{"order":42,"b":[1,2]}}`)
		}, false, []string{"its data with a space"}},
		{"cut", body, func(c *diagnose.Case) {
			c.Request.Header.Set("Content-Length", strconv.Itoa(len(body)))
			c.Request.Body = c.Request.Body[:20]
		}, false, []string{"the body has 20 bytes, and content-length says"}},
		{"another secret, of the right length", body, func(c *diagnose.Case) {
			c.Request.Header.Set("Content-Length", strconv.Itoa(len(body)))
			c.Secrets = []string{"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}
		}, false, nil},
		{"unescaped", body, func(c *diagnose.Case) {
			c.Request.Body = bytes.ReplaceAll(c.Request.Body, []byte(`\u00f6`), []byte("ö"))
		}, false, nil},
		{"escapes lost", `{"a":"\u00f6","b":"\ud83d\ude00"}`, func(c *diagnose.Case) { c.Request.Body = []byte(`{"a":"ö","b":"😀"}`) }, false, []string{`with \u escapes`}},
		{"escapes made", `{"a":"ö","b":[{},[],{"c":"<"}],"d":null}`, func(c *diagnose.Case) {
			c.Request.Body = []byte(`{"a":"\u00f6","b":[{},[],{"c":"\u003c"}],"d":null}`)
		}, false, []string{`without \u escapes`}},
		{"slashes", `{"a":"x\/y"}`, func(c *diagnose.Case) { c.Request.Body = []byte(`{"a":"x/y"}`) }, false, []string{"PHP"}},
		{"order of keys", `{"a":1,"b":2}`, func(c *diagnose.Case) { c.Request.Body = []byte(`{"b":2,"a":1}`) }, false, []string{"sorted keys"}},
		{"encoded twice", body, func(c *diagnose.Case) { c.Request.Body, _ = json.Marshal(string(c.Request.Body)) }, false, []string{"quoted string"}},
		{"base64", body, func(c *diagnose.Case) {
			c.Request.Body = []byte(base64.StdEncoding.EncodeToString(c.Request.Body))
		}, false, []string{"base64"}},
		{"compressed", body, func(c *diagnose.Case) { c.Request.Body = []byte(zipped(body)) }, false, []string{"compressed"}},
		{"a secret with a line end", body, func(c *diagnose.Case) { c.Secrets = []string{secret + "\n"} }, false, []string{"white space"}},
		{"a secret without its prefix", body, func(c *diagnose.Case) { c.Secrets = []string{keyText} }, false, nil},
		{"two mistakes", body, func(c *diagnose.Case) {
			c.Secrets = []string{`"` + secret + `"`}
			c.Request.Body = append(c.Request.Body, '\n')
		}, false, []string{"line end", "quotes"}},
		{"svix headers", body, func(c *diagnose.Case) {
			h := make(http.Header)
			for _, name := range []string{"id", "timestamp", "signature"} {
				h.Set("svix-"+name, c.Request.Header.Get("webhook-"+name))
			}
			c.Request.Header = h
		}, false, []string{"svix-id"}},
		{"a signature without its version", body, func(c *diagnose.Case) {
			c.Request.Header.Set("webhook-signature", strings.TrimPrefix(c.Request.Header.Get("webhook-signature"), "v1,"))
		}, false, []string{"version"}},
		{"milliseconds", body, func(c *diagnose.Case) {
			c.Request.Header.Set("webhook-timestamp", c.Request.Header.Get("webhook-timestamp")+"000")
		}, false, []string{"milliseconds"}},
		{"no header", body, func(c *diagnose.Case) { c.Request.Header.Del("webhook-id") }, false, nil},
		{"the wrong scheme", body, func(c *diagnose.Case) { c.Scheme = diagnose.GitHub() }, false, []string{"Standard Webhooks"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := diagnose.Case{Request: sent(t, secret, tt.body, now), Scheme: diagnose.Standard(), Secrets: []string{secret}, Now: now}
			tt.change(&c)
			got := diagnose.Explain(c)
			if got.Valid != tt.valid || got.Valid != (got.Problem == "") {
				t.Fatalf("valid %v, problem %q", got.Valid, got.Problem)
			}
			if tt.name == "a secret without its prefix" || tt.name == "unescaped" {
				return // see their own tests
			}
			if len(got.Mistakes) != len(tt.mistakes) {
				t.Fatalf("found %q, want %q", got.Mistakes, tt.mistakes)
			}
			for i, part := range tt.mistakes {
				if !strings.Contains(got.Mistakes[i], part) {
					t.Errorf("found %q, want %q", got.Mistakes[i], part)
				}
			}
		})
	}
}

// What is found is never more than there is: nothing of what was received is
// made up, so that a forged request stays one.
func FuzzExplain(f *testing.F) {
	f.Add("v1,AAAA", "1767323045", []byte(`{"a":1}`), secret)
	f.Add("v1,AAAA v1a,AAAA", "x", []byte("\x1f\x8b"), "whsec_")
	f.Fuzz(func(t *testing.T, mark, timestamp string, body []byte, key string) {
		got := diagnose.Explain(diagnose.Case{
			Request: diagnose.Request{Header: http.Header{
				"Webhook-Id": {"m"}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {mark},
			}, Body: body},
			Scheme: diagnose.Standard(), Secrets: []string{key}, Now: time.Unix(1767323045, 0),
		})
		if got.Valid || len(got.Mistakes) > 0 {
			t.Errorf("%+v", got) // 2^-256
		}
	})
}

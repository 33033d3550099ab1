package rules_test

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/rules"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// input is a request with a signature and a time.
func input(t testing.TB, signature, sent, body string) rules.Input {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/hooks/x", strings.NewReader(body))
	r.Header["X-Sig"] = []string{signature}
	r.Header["X-Time"] = []string{sent}
	return rules.Input{Request: request.New(r, []byte(body), netip.MustParseAddr("192.0.2.1")), Now: time.Unix(1_700_000_000, 0)}
}

// No signature is good that was not made with the secret.
func FuzzSignature(f *testing.F) {
	f.Add("sha256=00", "1700000000", "hello", uint8(0))
	f.Add("v1=00,v1=11,t=1700000000", "", "{}", uint8(1))
	f.Add("t=1,sha256=", "Tue, 14 Nov 2023 22:13:20 GMT", "", uint8(2))
	header := spec.Argument{Source: spec.SourceHeader, Name: "X-Sig"}
	types := []spec.Match{
		{Type: spec.MatchSHA256, Secret: "not to be guessed", Parameter: header},
		{
			Type: spec.MatchHMAC, Secret: "not to be guessed", Prefix: "v1=", SignedContent: "{timestamp}.{body}", Encoding: "base64url",
			Timestamp: &spec.Argument{Source: spec.SourceHeader, Name: "X-Sig#t"}, Parameter: header,
		},
		{Type: spec.MatchScalr, Secret: "not to be guessed"},
		{Type: spec.MatchStandardWebhooks, Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
	}
	f.Fuzz(func(t *testing.T, signature, sent, body string, which uint8) {
		in := input(t, signature, sent, body)
		in.Request.Raw["Webhook-Id"] = []string{"m"}
		in.Request.Raw["Webhook-Timestamp"] = []string{sent}
		in.Request.Raw["Webhook-Signature"] = []string{signature}
		in.Request.Header["X-Signature"], in.Request.Header["Date"] = signature, sent
		match := types[int(which)%len(types)]
		if ok, err := rules.Compile(&spec.Rule{Match: &match}).Evaluate(in); ok {
			t.Fatalf("%s: %q is taken for a signature of %q, %v", match.Type, signature, body, err)
		}
	})
}

// Any rule that can be read can be evaluated, and `not` is never the same.
func FuzzRule(f *testing.F) {
	f.Add(`[{"id": "x", "trigger-rule": {"and": [{"or": []}, {"not": {"match": {"type": "regex", "regex": "(", "parameter": {"source": "header", "name": "x-sig"}}}}]}}]`)
	f.Add(`[{"id": "x", "trigger-rule": {"match": {"type": "cidr", "ip-range": "192.0.2.0/24 ::1"}}}]`)
	f.Add(`[{"id": "x", "trigger-rule": {"match": {"type": "timestamp", "tolerance": "1h", "parameter": {"source": "header", "name": "x-time"}}}}]`)
	f.Fuzz(func(t *testing.T, text string) {
		file, err := spec.Parse([]byte(text))
		if err != nil {
			return
		}
		for i := range file.Hooks {
			rule := file.Hooks[i].Rule
			if rule == nil {
				continue
			}
			steps := 0
			in := input(t, "x", "1700000000", "body")
			in.Trace = func(rules.Step) { steps++ }
			result, err := rules.Compile(rule).Evaluate(in)
			negated, negatedErr := rules.Compile(&spec.Rule{Not: rule}).Evaluate(in)
			if result == negated || (err == nil) != (negatedErr == nil) || steps < 3 {
				t.Fatalf("it is %v, %v, its negation %v, %v; %d steps", result, err, negated, negatedErr, steps)
			}
		}
	})
}

// Times are understood as senders write them, and nothing else is a time.
func TestTimestamps(t *testing.T) {
	t.Parallel()
	rule := rules.Compile(&spec.Rule{Match: &spec.Match{Type: spec.MatchTimestamp, Tolerance: "10s", Parameter: spec.Argument{Source: spec.SourceHeader, Name: "X-Time"}}})
	for sent, want := range map[string]bool{
		"1700000000": true, "1700000010": true, "1700000011": false, "1699999990": true, "1699999989": false,
		"1700000000999": true, "2023-11-14T22:13:20Z": true, "2023-11-14T23:13:20.5+01:00": true, "Tue, 14 Nov 2023 22:13:20 GMT": true,
		"": false, "0": false, "-1700000000": false, "1.7e9": false, "now": false, "99999999999999999999": false,
	} {
		if got, err := rule.Evaluate(input(t, "", sent, "")); got != want || (err == nil) != want {
			t.Errorf("%q: %v, %v", sent, got, err)
		}
	}
}

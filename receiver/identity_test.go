package receiver_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/receiver"
	"github.com/fanfare-dev/fanfare/signature"
)

// counting returns a receiver that counts what it handles, by type.
func counting(t *testing.T, config receiver.Config) (r *receiver.Receiver, counts map[string]int) {
	t.Helper()
	r, err := receiver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	counts = make(map[string]int)
	r.Fallback(func(_ context.Context, e *receiver.Event) error { counts[e.Type]++; return nil })
	return r, counts
}

// Ids of CloudEvents are unique within their source: the same id of two sources
// is two events, and none of them is lost.
func TestSameIDOfOtherSource(t *testing.T) {
	r, counts := counting(t, receiver.Config{Gate: receiver.Gate{AllowUnsigned: true}})
	send := func(source, id, eventType string) {
		t.Helper()
		request := newHTTPRequest(http.MethodPost, strings.NewReader(`[{"specversion":"1.0","id":"`+id+`","type":"`+eventType+`","source":"`+source+`"}]`))
		request.Header.Set("Content-Type", "application/cloudevents-batch+json")
		if got := post(r, request); got.Code != 200 {
			t.Errorf("answered %d", got.Code)
		}
	}
	send("/a", "1", "first")
	send("/b", "1", "second")
	send("/a", "1", "again")
	send("x", "/y/1", "third")
	send("x/y", "1", "fourth") // no mixing up of where a source ends
	send("x%2Fy", "1", "fifth")
	for eventType, want := range map[string]int{"first": 1, "second": 1, "again": 0, "third": 1, "fourth": 1, "fifth": 1} {
		if counts[eventType] != want {
			t.Errorf("%s was handled %d times, want %d", eventType, counts[eventType], want)
		}
	}
}

// Headers that are not signed make no new event of a request that is played back.
func TestReplayWithOtherHeaders(t *testing.T) {
	one := secret(t, secretOne)
	r, counts := counting(t, receiver.Config{Gate: receiver.Gate{Verifiers: verifiers(one)}})
	const body = `{"type":"order.created","data":{}}`
	for _, forged := range []http.Header{
		nil,
		{"X-Github-Event": {"forged"}, "X-Github-Delivery": {"other"}},
		{"Ce-Specversion": {"1.0"}, "Ce-Id": {"other"}, "Ce-Type": {"forged"}, "Ce-Source": {"/other"}},
		{"Stripe-Signature": {"t=1,v1=00"}},
		{"Content-Type": {"text/plain"}},
	} {
		request := signed(t, "msg_1", body, one)
		maps.Copy(request.Header, forged)
		if got := post(r, request); got.Code != 200 {
			t.Errorf("%v: answered %d", forged, got.Code)
		}
	}
	if len(counts) != 1 || counts["order.created"] != 1 {
		t.Errorf("handled %v, want one order.created", counts)
	}
}

// A batch has an id of its own: its events go by theirs, in whatever batch they
// come again.
func TestBatchOfOne(t *testing.T) {
	one := secret(t, secretOne)
	r, counts := counting(t, receiver.Config{Gate: receiver.Gate{Verifiers: verifiers(one)}})
	for batch, body := range map[string]string{
		"batch_1": `[{"id":"e1","type":"a","data":1}]`,
		"batch_2": `[{"id":"e1","type":"a","data":1},{"id":"e2","type":"a","data":2}]`,
	} {
		if got := post(r, signed(t, batch, body, one)); got.Code != 200 {
			t.Errorf("answered %d", got.Code)
		}
	}
	if counts["a"] != 2 {
		t.Errorf("%d events were handled, want 2", counts["a"])
	}
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What Fanfare compresses is signed compressed, and decoded; a small body that
// becomes a large one is not.
func TestCompressed(t *testing.T) {
	one := secret(t, secretOne)
	r, counts := counting(t, receiver.Config{Gate: receiver.Gate{Verifiers: verifiers(one), MaxBodyBytes: 4096}})
	for _, tt := range []struct {
		name, encoding, body string
		want                 int
	}{
		{"gzip", "gzip", gzipped(t, `{"type":"a","data":{}}`), 200},
		{"in capitals", "GZIP", gzipped(t, `{"type":"a","data":{}}`), 200},
		{"not at all", "identity", `{"type":"a","data":{}}`, 200},
		{"a bomb", "gzip", gzipped(t, `{"type":"a","data":"`+strings.Repeat("x", 1<<20)+`"}`), 413},
		{"none", "gzip", `{"type":"a","data":{}}`, 400},
		{"cut off", "gzip", gzipped(t, `{"type":"a","data":{}}`)[:20], 400},
		{"unknown", "br", `{"type":"a","data":{}}`, 400},
	} {
		request := signed(t, tt.name, tt.body, one)
		request.Header.Set("Content-Encoding", tt.encoding)
		if got := post(r, request); got.Code != tt.want {
			t.Errorf("%s: answered %d, want %d", tt.name, got.Code, tt.want)
		}
	}
	if counts["a"] != 3 {
		t.Errorf("%d events were handled, want 3", counts["a"])
	}
	request := signed(t, "forged", gzipped(t, `{"type":"a","data":{}}`), secret(t, secretTwo))
	request.Header.Set("Content-Encoding", "gzip")
	if got := post(r, request); got.Code != 401 {
		t.Errorf("of another secret: answered %d", got.Code)
	}
}

// GitHub's id is its own: webhook-id is signed by none of its requests.
func TestGitHubGoesByDelivery(t *testing.T) {
	text, err := signature.TextSecret("a-secret-to-everybody-here")
	if err != nil {
		t.Fatal(err)
	}
	r, counts := counting(t, receiver.Config{Gate: receiver.Gate{Verifiers: []signature.Verifier{{Scheme: signature.GitHub(), Secrets: []signature.Secret{text}}}}})
	signer, err := signature.GitHub().NewSigner(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, delivery := range []string{"d1", "d1", "d2"} {
		request := newHTTPRequest(http.MethodPost, strings.NewReader(`{"action":"opened"}`))
		signer.SetHeaders(request.Header, signature.Message{Body: []byte(`{"action":"opened"}`)})
		request.Header.Set("X-GitHub-Event", "issues")
		request.Header.Set("X-GitHub-Delivery", delivery)
		request.Header.Set("webhook-id", "the same")
		if got := post(r, request); got.Code != 200 {
			t.Errorf("answered %d", got.Code)
		}
	}
	if counts["issues.opened"] != 2 {
		t.Errorf("%d events were handled, want 2", counts["issues.opened"])
	}
}

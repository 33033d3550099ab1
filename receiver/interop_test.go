package receiver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/receiver"
	"github.com/fanfare-dev/fanfare/signature"
)

// signer signs with libraries that are not ours, in Node.
type signer struct {
	stdin  *json.Encoder
	stdout *bufio.Reader
}

// startSigner starts Node, until the test ends.
func startSigner(t *testing.T, folder string) *signer {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "signer.mjs")
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // it was told to end, or ended by itself
	})
	return &signer{json.NewEncoder(stdin), bufio.NewReader(stdout)}
}

// sign returns the headers of a request.
func (s *signer) sign(t *testing.T, library, secret, id, body string) http.Header {
	t.Helper()
	if err := s.stdin.Encode(map[string]string{"library": library, "secret": secret, "id": id, "body": body}); err != nil {
		t.Fatal(err)
	}
	line, err := s.stdout.ReadBytes('\n')
	if err != nil {
		t.Fatalf("the signer does not answer: %v", err)
	}
	var all map[string]string
	if err := json.Unmarshal(line, &all); err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	for name, value := range all {
		header.Set(name, value)
	}
	return header
}

// What libraries that are not ours sign passes a Receiver and is decoded; what
// was altered on the way, or signed with another secret, is refused. `make
// interop` runs it.
func TestInteropWithSigners(t *testing.T) {
	folder := os.Getenv("FANFARE_INTEROP")
	if folder == "" {
		t.Skip("needs node and npm: run `make interop`")
	}
	node := startSigner(t, folder)
	const textOne, textTwo = "correct-horse-battery-staple", "another-text-of-some-length"
	for _, c := range []struct {
		library   string
		scheme    signature.Scheme
		one, two  string
		id        string // as the event has it
		body      string
		eventType string
		carrier   string // the header with the signature
		alter     func(http.Header)
	}{
		{
			"standardwebhooks", signature.Standard(), secretOne, secretTwo, "msg_1",
			`{"type":"order.created","timestamp":"2026-01-02T15:04:05Z","data":{"order": 42, "note": "ünïcödé"}}`, "order.created", signature.HeaderSignature,
			func(h http.Header) { h.Set(signature.HeaderID, "msg_2") },
		},
		{
			"svix", signature.Standard(), secretOne, secretTwo, "msg_1",
			`{"type":"order.created","data":{"order":42,"price":1.50}}`, "order.created", signature.HeaderSignature,
			func(h http.Header) { h.Set(signature.HeaderTimestamp, strconv.FormatInt(time.Now().Unix()+30, 10)) },
		},
		{
			"stripe", signature.Stripe(), secretOne, secretTwo, "evt_42",
			`{"id":"evt_42","object":"event","type":"charge.succeeded","created":1767366245,"data":{"object":{"amount":42}}}`, "charge.succeeded", "Stripe-Signature",
			func(h http.Header) {
				h.Set("Stripe-Signature", fmt.Sprintf("t=%d,%s", time.Now().Unix()+30, h.Get("Stripe-Signature")[len("t=1234567890,"):]))
			},
		},
		{
			"octokit", signature.GitHub(), textOne, textTwo, "72d3162e-cc78-11e3-81ab-4c9367dc0958",
			`{"ref":"refs/heads/main","size":42,"note":"ünïcödé"}`, "push", "X-Hub-Signature-256",
			func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64)) },
		},
	} {
		t.Run(c.library, func(t *testing.T) {
			one, two := anySecret(t, c.one), anySecret(t, c.two)
			header := node.sign(t, c.library, c.one, c.id, c.body)
			for _, tt := range []struct {
				name    string
				secrets []signature.Secret
				alter   func(http.Header, string) string
				status  int
			}{
				{"as it is", []signature.Secret{one}, nil, http.StatusOK},
				{"rotated, old still known", []signature.Secret{two, one}, nil, http.StatusOK},
				{"another secret", []signature.Secret{two}, nil, http.StatusUnauthorized},
				{"another body", []signature.Secret{one}, func(_ http.Header, body string) string {
					return strings.Replace(body, "42", "43", 1)
				}, http.StatusUnauthorized},
				{"a line end", []signature.Secret{one}, func(_ http.Header, body string) string { return body + "\n" }, http.StatusUnauthorized},
				{"not signed", []signature.Secret{one}, func(h http.Header, body string) string {
					h.Del(c.carrier)
					return body
				}, http.StatusUnauthorized},
				{"another id, time or signature", []signature.Secret{one}, func(h http.Header, body string) string {
					c.alter(h)
					return body
				}, http.StatusUnauthorized},
			} {
				t.Run(tt.name, func(t *testing.T) {
					header, body := header.Clone(), c.body
					if tt.alter != nil {
						body = tt.alter(header, body)
					}
					gate := receiver.Gate{Verifiers: []signature.Verifier{{Scheme: c.scheme, Secrets: tt.secrets}}}
					got, event := receive(t, gate, header, body)
					if got != tt.status {
						t.Fatalf("answered %d, want %d", got, tt.status)
					}
					if want := tt.status == http.StatusOK; want != (event != nil) {
						t.Fatalf("the handler was called: %v, want %v", event != nil, want)
					}
					if event != nil && (event.ID != c.id || event.Type != c.eventType) {
						t.Errorf("decoded %s of type %s, want %s of type %s", event.ID, event.Type, c.id, c.eventType)
					}
				})
			}
		})
	}
}

// anySecret reads a secret of any sender.
func anySecret(t *testing.T, text string) signature.Secret {
	t.Helper()
	s, err := signature.TextSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// receive sends a request to a Receiver of its own, over HTTP, and returns the
// answer's status and the event that was handled.
func receive(t *testing.T, gate receiver.Gate, header http.Header, body string) (status int, handled *receiver.Event) {
	t.Helper()
	r, err := receiver.New(receiver.Config{Gate: gate})
	if err != nil {
		t.Fatal(err)
	}
	r.Handle("*", func(_ context.Context, e *receiver.Event) error {
		handled = e
		return nil
	})
	server := httptest.NewServer(r)
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, handled
}

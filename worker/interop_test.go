package worker

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

const (
	firstText  = "correct-horse-battery-staple"
	secondText = "another-text-of-some-length"
	// firstKey is that of RFC 8037, appendix A.1.
	firstKey  = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
	secondKey = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
)

// sample is the event that is sent. Its subject has no space, which the binary
// mode has as %20: the SDK of CloudEvents does not decode it.
func sample() *fanfarev1.Event {
	return &fanfarev1.Event{
		Id: "evt_1", Type: "order.created", Source: "/shop", Subject: "order-42", Time: timestamppb.New(time.Unix(1_700_000_000, 5)),
		Data: []byte(`{"order": 42, "note": "ünïcödé"}`), DataContentType: "application/json",
		Extensions: map[string]string{"shop": "north"},
	}
}

// interopCase is a request to a library that is not ours.
type interopCase struct {
	name    string
	scheme  string
	mode    string
	secrets []string // that sign, newest first
	library string
	with    []string // what the library is given
	refused bool     // else it is accepted, and refused once altered
}

func jwkOf(t *testing.T, private string) string {
	t.Helper()
	secret, err := signature.ParseSecret(private)
	if err != nil {
		t.Fatal(err)
	}
	return `{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(secret.PublicKey().Bytes()) + `"}`
}

func interopCases(t *testing.T) []interopCase {
	t.Helper()
	both := []string{otherSecret, testSecret}
	cases := []interopCase{
		{"", "standard", "", []string{testSecret}, "standardwebhooks", []string{testSecret}, false},
		{"rotating, old", "standard", "", both, "standardwebhooks", []string{testSecret}, false},
		{"rotating, new", "standard", "", both, "standardwebhooks", []string{otherSecret}, false},
		{"rotated, old", "standard", "", both[:1], "standardwebhooks", []string{testSecret}, true},
		{"to ed25519", "standard-ed25519", "", []string{firstKey, testSecret}, "standardwebhooks", []string{testSecret}, false},
		{"", "standard", "raw", []string{testSecret}, "svix", []string{testSecret}, false},
		{"rotating, old", "standard", "cloudevents-structured", both, "svix", []string{testSecret}, false},
		{"rotating, new", "standard", "", both, "svix", []string{otherSecret}, false},
		{"rotated, old", "standard", "", both[:1], "svix", []string{testSecret}, true},
		{"", "standard-ed25519", "", []string{firstKey}, "ed25519", []string{jwkOf(t, firstKey)}, false},
		{"rotating, old", "standard-ed25519", "", []string{secondKey, firstKey}, "ed25519", []string{jwkOf(t, firstKey)}, false},
		{"rotating, new", "standard-ed25519", "", []string{secondKey, firstKey}, "ed25519", []string{jwkOf(t, secondKey)}, false},
		{"rotated, old", "standard-ed25519", "", []string{secondKey}, "ed25519", []string{jwkOf(t, firstKey)}, true},
		{"", "github", "raw", []string{firstText}, "octokit", []string{firstText}, false},
		{"whsec", "github", "raw", []string{testSecret}, "octokit", []string{testSecret}, false},
		{"rotating, new", "github", "", []string{secondText, firstText}, "octokit", []string{secondText}, false},
		{"rotating, with fallback", "github", "", []string{secondText, firstText}, "octokit", []string{firstText, secondText}, false},
		{"rotating, old", "github", "", []string{secondText, firstText}, "octokit-previous", []string{firstText}, false},
		{"rotated, old", "github", "", []string{secondText}, "octokit", []string{firstText}, true},
		{"", "stripe", "raw", []string{testSecret}, "stripe", []string{testSecret}, false},
		{"rotating, old", "stripe", "", []string{otherSecret, testSecret}, "stripe", []string{testSecret}, false},
		{"rotating, new", "stripe", "", []string{otherSecret, testSecret}, "stripe", []string{otherSecret}, false},
		{"rotated, old", "stripe", "", []string{otherSecret}, "stripe", []string{testSecret}, true},
	}
	for _, mode := range []string{"cloudevents-binary", "cloudevents-structured"} {
		cases = append(cases, interopCase{mode, "", mode, []string{testSecret}, "cloudevents", nil, false})
	}
	return cases
}

func (c interopCase) endpoint(receiver string) *linkv1.Endpoint {
	return &linkv1.Endpoint{
		Number: 1, Tenant: "acme", Secrets: c.secrets,
		Subscription: &fanfarev1.Subscription{
			Url:         receiver + "/" + c.library + "?" + url.Values{"secret": c.with}.Encode(),
			PayloadMode: c.mode, Signing: &fanfarev1.Signing{Scheme: c.scheme},
		},
	}
}

// altering changes a digit in the body of what is sent by it.
type altering struct{ Doer }

func (a altering) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	body = bytes.Replace(body, []byte("42"), []byte("43"), 1)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return a.Doer.Do(r)
}

// What we send is accepted by the libraries that receivers use, and refused by
// them when it was altered on the way. `make interop` runs it.
func TestInteropWithLibraries(t *testing.T) {
	folder := os.Getenv("FANFARE_INTEROP")
	if folder == "" {
		t.Skip("needs node and npm: run `make interop`")
	}
	receiver := startReceiver(t, folder)
	client := egress.NewClient(egress.Config{Policy: egress.Policy{AllowHTTP: true, AllowLoopback: true}})
	defer client.CloseIdle()
	for _, c := range interopCases(t) {
		t.Run(strings.TrimSpace(c.library+" "+c.name), func(t *testing.T) {
			target := newTarget(c.endpoint(receiver))
			send := func(client Doer) *linkv1.Outcome {
				d := &delivery{ref: ref{3, 4, 5}, attempt: 1, step: 1, message: newMessage(dispatchOf(t, sample()))}
				outcome, _ := newTestAttempter(t, client).attempt(t.Context(), d, target)
				return outcome
			}
			want := uint32(http.StatusNoContent)
			if c.refused {
				want = http.StatusUnauthorized
			}
			if got := send(client); got.GetStatusCode() != want {
				t.Errorf("got %d %s %s, want %d", got.GetStatusCode(), got.GetError(), got.GetResponseBody(), want)
			}
			if got := send(altering{client}); got.GetStatusCode() != http.StatusUnauthorized {
				t.Errorf("altered: got %d %s", got.GetStatusCode(), got.GetError())
			}
		})
	}
}

// startReceiver starts the receiver in Node and returns its URL.
func startReceiver(t *testing.T, folder string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "receiver.mjs")
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
	port, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the receiver does not say its port: %v", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}

// The Go library of Standard Webhooks verifies what we send.
func TestInteropWithStandardWebhooks(t *testing.T) {
	for _, c := range []struct {
		name    string
		secrets []string
		with    string
		ok      bool
	}{
		{"one secret", []string{testSecret}, testSecret, true},
		{"rotating, old", []string{otherSecret, testSecret}, testSecret, true},
		{"rotating, new", []string{otherSecret, testSecret}, otherSecret, true},
		{"rotated, old", []string{otherSecret}, testSecret, false},
		{"beside ed25519", []string{firstKey, testSecret}, testSecret, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			theirs, err := standardwebhooks.NewWebhook(strings.TrimPrefix(c.with, "whsec_"))
			if err != nil {
				t.Fatal(err)
			}
			client := doer(func(r *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, err
				}
				if err := theirs.Verify(body, r.Header); (err == nil) != c.ok {
					t.Errorf("their library: %v", err)
				}
				if err := theirs.Verify(append(body, ' '), r.Header); err == nil {
					t.Error("their library takes another body")
				}
				return respond(204, nil, http.NoBody)(r)
			})
			endpoint := testEndpoint(3, "https://example.com/hook")
			endpoint.Secrets = c.secrets
			d := &delivery{ref: ref{3, 4, 5}, attempt: 1, step: 1, message: newMessage(dispatchOf(t, sample()))}
			newTestAttempter(t, client).attempt(t.Context(), d, newTarget(endpoint))
		})
	}
}

package signature_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// The key pair, and the signature of vectors[0] by it, that Svix publishes with
// the tests of its server.
const (
	privateVector = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	publicVector  = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
	v1aVector     = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)

func mustText(t testing.TB, text string) signature.Secret {
	t.Helper()
	secret, err := signature.TextSecret(text)
	if err != nil {
		t.Fatalf("TextSecret: %v", err)
	}
	return secret
}

func mustCustom(t testing.TB, h signature.HMAC) signature.Scheme {
	t.Helper()
	scheme, err := signature.Custom(h)
	if err != nil {
		t.Fatalf("Custom: %v", err)
	}
	return scheme
}

func TestPublishedVectorOfEd25519(t *testing.T) {
	secret := mustParse(t, privateVector)
	if got := secret.PublicKey().String(); got != publicVector {
		t.Errorf("the public key is %s, want %s", got, publicVector)
	}
	at := time.Unix(vectors[0].timestamp, 0)
	message := signature.Message{ID: vectors[0].id, Timestamp: at, Body: []byte(vectors[0].body)}
	if got := signature.Sign(message, secret); got != v1aVector {
		t.Errorf("Sign = %s, want %s", got, v1aVector)
	}
	public, err := signature.ParsePublicKey(publicVector)
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{}
	signature.NewSigner(secret).SetHeaders(header, message)
	for name, verifier := range map[string]signature.Verifier{
		"public key":  {PublicKeys: []signature.PublicKey{public}},
		"private key": {Secrets: []signature.Secret{secret}},
	} {
		if err := verifier.Verify(header, message.Body, at); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := signature.Verify([]signature.Secret{mustParse(t, vectors[0].secret)}, header, message.Body, at, 0); !errors.Is(err, signature.ErrNoMatch) {
		t.Errorf("by a symmetric secret: %v", err)
	}
}

// The example of GitHub's documentation ("Validating webhook deliveries"), but
// for the spaces in its secret.
func TestPublishedVectorOfGitHub(t *testing.T) {
	secret := mustText(t, "It's-a-Secret-to-Everybody")
	signer, err := signature.GitHub().NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	got := string(signer.Append(nil, signature.Message{ID: "1", Timestamp: time.Unix(1, 0), Body: []byte("Hello, World!")}))
	// printf 'Hello, World!' | openssl dgst -sha256 -hmac "It's-a-Secret-to-Everybody"
	if want := "sha256=" + githubVector; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// githubVector is what openssl says.
const githubVector = "fff9d530176ddefaf50a3004e52ad278a4ef09eee3f00efc14fc4c207384f931"

// way is one way to sign and what a receiver of it has.
type way struct {
	name     string
	scheme   signature.Scheme
	old, new signature.Secret
	timed    bool // the time is signed
	withID   bool // the id is signed
}

func ways(t testing.TB) []way {
	t.Helper()
	oldKey, err := signature.NewPrivateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	symmetric := [2]signature.Secret{mustParse(t, vectors[0].secret), mustParse(t, vectors[1].secret)}
	text := [2]signature.Secret{mustText(t, "correct-horse-battery"), mustText(t, "staple-of-another-kind")}
	list := []way{
		{"standard", signature.Standard(), symmetric[0], symmetric[1], true, true},
		{"ed25519", signature.Standard(), oldKey, mustParse(t, privateVector), true, true},
		{"both kinds", signature.Standard(), symmetric[0], oldKey, true, true},
		{"github", signature.GitHub(), text[0], text[1], false, false},
		{"stripe", signature.Stripe(), symmetric[0], text[1], true, false},
	}
	for _, algorithm := range []string{"", "sha1", "sha256", "sha384", "sha512"} {
		for _, encoding := range []string{"", "hex", "base64"} {
			list = append(list, way{
				"custom " + algorithm + " " + encoding,
				mustCustom(t, signature.HMAC{
					Header: "X-Shop-Hmac", Algorithm: algorithm, Encoding: encoding, Prefix: "v0=",
					TimestampHeader: "X-Shop-Time", Content: "v0:{timestamp}:{id}:{body}!",
				}), text[0], text[1], true, true,
			})
		}
	}
	return append(list, way{"custom plain", mustCustom(t, signature.HMAC{Header: "x-sig"}), text[0], text[1], false, false})
}

// Whatever the scheme: what was signed verifies with the secret, before, during
// and after a rotation, and not when anything signed is altered.
func TestEverySchemeVerifies(t *testing.T) {
	at := time.Unix(1700000000, 0)
	body := []byte(`{"type":"order.created"}`)
	message := signature.Message{ID: "evt_1", Timestamp: at, Body: body}
	for _, w := range ways(t) {
		t.Run(w.name, func(t *testing.T) {
			signed := func(secrets ...signature.Secret) http.Header {
				signer, err := w.scheme.NewSigner(secrets...)
				if err != nil {
					t.Fatal(err)
				}
				header := http.Header{}
				signer.SetHeaders(header, message)
				return header
			}
			check := func(what string, secret signature.Secret, header http.Header, body []byte, now time.Time, want error) {
				t.Helper()
				verifier := signature.Verifier{Scheme: w.scheme, Secrets: []signature.Secret{secret}}
				if err := verifier.Verify(header, body, now); !errors.Is(err, want) {
					t.Errorf("%s: got %v, want %v", what, err, want)
				}
			}
			check("before", w.old, signed(w.old), body, at, nil)
			during := signed(w.new, w.old)
			check("during, by the new", w.new, during, body, at, nil)
			check("during, by the old", w.old, during, body, at, nil)
			check("after", w.new, signed(w.new), body, at, nil)
			check("after, by the old", w.old, signed(w.new), body, at, signature.ErrNoMatch)
			check("other body", w.new, during, []byte("{}"), at, signature.ErrNoMatch)
			check("no secret", signature.Secret{}, during, body, at, signature.ErrNoMatch)

			late, tooOld, tooNew := at.Add(time.Hour), signature.ErrTooOld, signature.ErrTooNew
			if !w.timed {
				tooOld, tooNew = nil, nil
			}
			check("an hour later", w.new, during, body, late, tooOld)
			check("an hour before", w.new, during, body, at.Add(-time.Hour), tooNew)
			other := during.Clone()
			other.Set(signature.HeaderID, "evt_2")
			if w.withID {
				check("other id", w.new, other, body, at, signature.ErrNoMatch)
			} else {
				check("other id", w.new, other, body, at, nil)
			}
			for _, name := range w.scheme.Headers() {
				if got := during.Values(name); len(got) == 0 {
					t.Errorf("header %s is not set", name)
				}
			}
			verifier := signature.Verifier{Scheme: w.scheme, Secrets: []signature.Secret{w.new}}
			if missing, ok := errors.AsType[*signature.MissingHeaderError](verifier.Verify(http.Header{}, body, at)); !ok || missing.Header == "" {
				t.Error("without headers nothing is missing")
			}
		})
	}
}

func TestMalformedHeaders(t *testing.T) {
	at := time.Unix(1700000000, 0)
	text := mustText(t, "correct-horse-battery")
	for _, test := range []struct {
		name   string
		scheme signature.Scheme
		header http.Header
		want   error
	}{
		{"stripe without t", signature.Stripe(), http.Header{"Stripe-Signature": {"v1=00"}}, signature.ErrMalformed},
		{"stripe without v1", signature.Stripe(), http.Header{"Stripe-Signature": {"t=1700000000,v0=00"}}, signature.ErrMalformed},
		{"stripe with two times", signature.Stripe(), http.Header{"Stripe-Signature": {"t=1700000000,t=1,v1=0"}}, signature.ErrMalformed},
		{"stripe with a word for a time", signature.Stripe(), http.Header{"Stripe-Signature": {"t=now,v1=0"}}, signature.ErrTimestamp},
		{"stripe with many", signature.Stripe(), http.Header{"Stripe-Signature": {"t=1700000000" + strings.Repeat(",v1=0", 65)}}, signature.ErrMalformed},
		{"github without prefix", signature.GitHub(), http.Header{"X-Hub-Signature-256": {"00"}}, signature.ErrMalformed},
		{"github wrong", signature.GitHub(), http.Header{"X-Hub-Signature-256": {"sha256=00"}}, signature.ErrNoMatch},
		{"standard with many", signature.Standard(), http.Header{
			"Webhook-Id": {"1"}, "Webhook-Timestamp": {"1700000000"}, "Webhook-Signature": {strings.Repeat("v1a,x ", 65)},
		}, signature.ErrMalformed},
	} {
		verifier := signature.Verifier{Scheme: test.scheme, Secrets: []signature.Secret{text}}
		if err := verifier.Verify(test.header, nil, at); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

func TestCustomRefuses(t *testing.T) {
	for _, test := range []struct {
		hmac  signature.HMAC
		field string
	}{
		{signature.HMAC{}, "header"},
		{signature.HMAC{Header: "x y"}, "header"},
		{signature.HMAC{Header: "Content-Length"}, "header"},
		{signature.HMAC{Header: "webhook-ID"}, "header"},
		{signature.HMAC{Header: "host"}, "header"},
		{signature.HMAC{Header: strings.Repeat("x", 65)}, "header"},
		{signature.HMAC{Header: "a", TimestampHeader: "A"}, "timestamp_header"},
		{signature.HMAC{Header: "a", TimestampHeader: "b:"}, "timestamp_header"},
		{signature.HMAC{Header: "a", Algorithm: "md5"}, "algorithm"},
		{signature.HMAC{Header: "a", Encoding: "base32"}, "encoding"},
		{signature.HMAC{Header: "a", Prefix: "a\nb"}, "prefix"},
		{signature.HMAC{Header: "a", Content: "{timestamp}"}, "content"},
		{signature.HMAC{Header: "a", Content: "{body}{body}"}, "content"},
		{signature.HMAC{Header: "a", Content: "{body"}, "content"},
		{signature.HMAC{Header: "a", Content: "{secret}{body}"}, "content"},
		{signature.HMAC{Header: "a", Content: "\x00{body}"}, "content"},
	} {
		if _, err := signature.Custom(test.hmac); !errors.Is(err, signature.ErrScheme) || !strings.HasPrefix(err.Error(), test.field+": ") {
			t.Errorf("%+v: got %v, want one that names %s", test.hmac, err, test.field)
		}
	}
}

func TestSchemesTakeTheirSecrets(t *testing.T) {
	text, private := mustText(t, "correct-horse-battery"), mustParse(t, privateVector)
	for _, test := range []struct {
		scheme signature.Scheme
		secret signature.Secret
		want   error
	}{
		{signature.Standard(), text, signature.ErrScheme},
		{signature.Standard(), private, nil},
		{signature.GitHub(), private, signature.ErrScheme},
		{signature.Stripe(), private, signature.ErrScheme},
		{signature.Stripe(), mustParse(t, vectors[0].secret), nil},
		{signature.GitHub(), signature.Secret{}, nil},
	} {
		if _, err := test.scheme.NewSigner(test.secret); !errors.Is(err, test.want) {
			t.Errorf("got %v, want %v", err, test.want)
		}
	}
}

func TestParsePrivateAndPublicKeys(t *testing.T) {
	full, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(privateVector, "whsk_"))
	if err != nil {
		t.Fatal(err)
	}
	private := func(b []byte) string { return "whsk_" + base64.StdEncoding.EncodeToString(b) }
	swapped := bytes.Clone(full)
	swapped[40] ^= 1
	for name, text := range map[string]string{
		"too short": private(full[:31]), "too long": private(append(bytes.Clone(full), 1)), "between": private(full[:40]),
		"other public half": private(swapped), "empty": "whsk_", "no base64": "whsk_?",
	} {
		if secret, err := signature.ParseSecret(text); !errors.Is(err, signature.ErrSecret) || !secret.IsZero() {
			t.Errorf("%s: got %v", name, err)
		}
	}
	seed := mustParse(t, private(full[:32]))
	if !seed.Equal(mustParse(t, privateVector)) || seed.Reveal() != private(full[:32]) {
		t.Error("a seed is not the key that it is the seed of")
	}
	for name, text := range map[string]string{
		"empty": "", "secret": vectors[0].secret, "private": privateVector, "short": publicVector[:40] + "=", "newline": publicVector + "\n",
	} {
		if key, err := signature.ParsePublicKey(text); !errors.Is(err, signature.ErrSecret) || !key.IsZero() || key.String() != "" {
			t.Errorf("%s: got %v, %v", name, key, err)
		}
	}
	for text, want := range map[string]string{privateVector: "whsk_***", vectors[0].secret: "whsec_***"} {
		if got := mustParse(t, text).String(); got != want {
			t.Errorf("String = %s, want %s", got, want)
		}
	}
}

func TestTextSecret(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", 257), "with a space in the middle", "tab\tinside-of-it---", "ünïcödé-ünïcödé"} {
		if _, err := signature.TextSecret(text); !errors.Is(err, signature.ErrSecret) || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if secret := mustText(t, "correct-horse-battery"); secret.String() != "***" || secret.Reveal() != "correct-horse-battery" {
		t.Errorf("got %v", secret)
	}
}

func FuzzVerifier(f *testing.F) {
	f.Add(0, "evt_1", "1700000000", "v1,abc v1a,def", []byte("{}"))
	f.Add(1, "", "", "t=1700000000,v1=ab,v1=cd", []byte("{}"))
	f.Add(2, "", "", "sha256=00", []byte("{}"))
	f.Add(3, "a", "1700000000", "v0=AAAA", []byte("{}"))
	custom := mustCustom(f, signature.HMAC{Header: "X-Sig", Prefix: "v0=", Encoding: "base64", Content: "{id}.{timestamp}.{body}"})
	schemes := []signature.Scheme{signature.Standard(), signature.Stripe(), signature.GitHub(), custom}
	headers := []string{"webhook-signature", signature.HeaderStripe, signature.HeaderGitHub, "X-Sig"}
	secrets := []signature.Secret{mustParse(f, vectors[0].secret), mustParse(f, privateVector), mustText(f, "correct-horse-battery")}
	f.Fuzz(func(t *testing.T, which int, id, timestamp, value string, body []byte) {
		which = int(uint(which) % uint(len(schemes)))
		header := http.Header{}
		header.Set("webhook-id", id)
		header.Set("webhook-timestamp", timestamp)
		header.Set(headers[which], value)
		verifier := signature.Verifier{Scheme: schemes[which], Secrets: secrets}
		if err := verifier.Verify(header, body, time.Unix(1700000000, 0)); err == nil {
			t.Errorf("a signature that nobody made is believed: %q", value)
		}
	})
}

package signature_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fanfare-dev/fanfare/signature"
)

func encode(n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n))
}

func mustParse(t testing.TB, text string) signature.Secret {
	t.Helper()
	secret, err := signature.ParseSecret(text)
	if err != nil {
		t.Fatalf("ParseSecret: %v", err)
	}
	return secret
}

func TestParseSecret(t *testing.T) {
	tests := []struct {
		name, text string
		problem    string // part of the error; empty: it parses
	}{
		{"published vector", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ""},
		{"shortest", encode(24), ""},
		{"default length", encode(32), ""},
		{"longest", encode(64), ""},
		{"empty", "", "does not begin with whsec_"},
		{"prefix only", "whsec_", "0 bytes"},
		{"no prefix", strings.TrimPrefix(encode(32), "whsec_"), "does not begin with whsec_"},
		{"upper-case prefix", "WHSEC_" + strings.TrimPrefix(encode(32), "whsec_"), "does not begin"},
		{"public key", "whpk_" + strings.TrimPrefix(encode(32), "whsec_"), "does not begin"},
		{"too short", encode(23), "23 bytes"},
		{"too long", encode(65), "65 bytes"},
		{"far too long", encode(1 << 16), "longer than 64 bytes"},
		{"no padding", strings.TrimRight(encode(32), "="), "base64"},
		{"url alphabet", strings.ReplaceAll(encode(32), "+", "-"), "base64"},
		{"leading space", " " + encode(32), "does not begin"},
		{"trailing space", encode(32) + " ", "base64"},
		{"trailing newline", encode(32) + "\n", "base64"},
		{"newline inside", encode(32)[:20] + "\n" + encode(32)[20:], "base64"},
		{"stray bits at the end", "whsec_" + strings.Repeat("A", 42) + "B=", "base64"},
		{"text after padding", encode(32) + "AAAA", "base64"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			secret, err := signature.ParseSecret(test.text)
			if test.problem == "" {
				if err != nil {
					t.Fatalf("got error %v", err)
				}
				if got := secret.Reveal(); got != test.text {
					t.Errorf("Reveal() = %q, want %q", got, test.text)
				}
				return
			}
			if !errors.Is(err, signature.ErrSecret) || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got error %v, want ErrSecret with %q", err, test.problem)
			}
			if !secret.IsZero() {
				t.Error("got a secret with the error")
			}
			if len(test.text) > 30 && strings.Contains(err.Error(), test.text[10:20]) {
				t.Errorf("error quotes the secret: %v", err)
			}
		})
	}
}

func TestNewSecret(t *testing.T) {
	first, err := signature.NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := signature.NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if first.Equal(second) {
		t.Error("two new secrets are equal")
	}
	if again := mustParse(t, first.Reveal()); !again.Equal(first) {
		t.Error("a new secret does not survive Reveal and ParseSecret")
	}
	if got, want := len(first.Reveal()), len(encode(signature.NewSecretBytes)); got != want {
		t.Errorf("text form has %d bytes, want %d", got, want)
	}
	broken := errors.New("no entropy")
	if _, err := signature.NewSecret(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
	if _, err := signature.NewSecret(strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v from a short source", err)
	}
}

func TestZeroSecret(t *testing.T) {
	var zero signature.Secret
	if !zero.IsZero() || zero.Reveal() != "" || !zero.Equal(signature.Secret{}) {
		t.Error("the zero Secret is not zero")
	}
	if secret := mustParse(t, encode(32)); secret.Equal(zero) || zero.Equal(secret) || secret.IsZero() {
		t.Error("a secret is taken for the zero Secret")
	}
}

// A secret must not be seen in a log, by whatever way it gets there.
func TestSecretIsMasked(t *testing.T) {
	secret := mustParse(t, "whsec_"+base64.StdEncoding.EncodeToString([]byte("correct horse battery staple")))
	type subscription struct {
		Secret  signature.Secret
		private signature.Secret
		several []signature.Secret
	}
	inside := subscription{Secret: secret, private: secret, several: []signature.Secret{secret}}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&printed, verb+"\n", secret)
		fmt.Fprintf(&printed, verb+"\n", inside)
		fmt.Fprintf(&printed, verb+"\n", &inside)
	}
	for _, logger := range []*slog.Logger{
		slog.New(slog.NewTextHandler(&printed, nil)),
		slog.New(slog.NewJSONHandler(&printed, nil)),
	} {
		logger.InfoContext(t.Context(), "made", slog.Any("secret", secret), slog.Any("inside", inside))
	}
	if err := json.NewEncoder(&printed).Encode(inside); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(printed.String(), "whsec_***") {
		t.Error("the mask does not appear")
	}
	key := []byte("correct horse battery staple")
	for name, leak := range map[string]string{
		"key":      "horse",
		"text":     secret.Reveal()[8:20],
		"hex":      fmt.Sprintf("%x", key[:4]),
		"HEX":      fmt.Sprintf("%X", key[:4]),
		"decimals": strings.Trim(fmt.Sprintf("%d", key[:4]), "[]"),
	} {
		if strings.Contains(printed.String(), leak) {
			t.Errorf("the secret shows as %s in:\n%s", name, printed.String())
		}
	}
}

func FuzzParseSecret(f *testing.F) {
	for _, seed := range []string{"", "whsec_", encode(24), encode(32), encode(64), encode(65), encode(32) + "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		secret, err := signature.ParseSecret(text)
		if err != nil {
			if !secret.IsZero() {
				t.Error("a secret with an error")
			}
			return
		}
		if secret.Reveal() != text {
			t.Errorf("%q became %q", text, secret.Reveal())
		}
		if secret.String() == text {
			t.Error("String shows the secret")
		}
	})
}

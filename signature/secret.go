package signature

import (
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Sizes of a secret in bytes, before base64. The bounds are those of the
// Standard Webhooks specification.
const (
	MinSecretBytes = 24
	MaxSecretBytes = 64
	NewSecretBytes = 32 // what NewSecret makes
)

// secretPrefix begins the text form of every secret.
const secretPrefix = "whsec_"

// maskedSecret is how a secret appears wherever it is printed.
const maskedSecret = secretPrefix + "***"

// ErrSecret is wrapped by every error of ParseSecret.
var ErrSecret = errors.New("malformed webhook secret")

// Secret is the key that the two ends of a webhook share. Printing or logging
// one, alone or inside another value, does not show it; Reveal does.
//
// The zero Secret is no secret: it signs nothing and matches nothing. A Secret
// never changes and is safe for concurrent use.
type Secret struct {
	// A function, because package fmt looks into unexported fields, where it
	// cannot call String, and through pointers; of a function it prints the
	// address. nil in the zero Secret.
	key func() []byte
}

func newSecret(key []byte) Secret {
	return Secret{key: func() []byte { return key }}
}

// NewSecret makes a secret of NewSecretBytes bytes read from random, which
// should be crypto/rand.Reader. It fails only if random does.
func NewSecret(random io.Reader) (Secret, error) {
	key := make([]byte, NewSecretBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return Secret{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return newSecret(key), nil
}

// ParseSecret reads a secret in its text form, whsec_ and then the padded
// standard base64 of MinSecretBytes to MaxSecretBytes bytes. Exactly the texts
// that Reveal returns are accepted. The error wraps ErrSecret, says what is
// wrong, and never quotes the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Secret{}, fmt.Errorf("%w: it does not begin with %s", ErrSecret, secretPrefix)
	}
	if len(encoded) > base64.StdEncoding.EncodedLen(MaxSecretBytes) {
		return Secret{}, fmt.Errorf("%w: it is longer than %d bytes", ErrSecret, MaxSecretBytes)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	// The decoder skips line breaks; a secret has none.
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return Secret{}, fmt.Errorf("%w: what follows %s is not padded standard base64", ErrSecret, secretPrefix)
	}
	if len(key) < MinSecretBytes || len(key) > MaxSecretBytes {
		return Secret{}, fmt.Errorf("%w: it has %d bytes, not %d to %d",
			ErrSecret, len(key), MinSecretBytes, MaxSecretBytes)
	}
	return newSecret(key), nil
}

// Reveal returns the text form of the secret, whsec_…, which ParseSecret
// reads. It is the empty string for the zero Secret.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(s.key())
}

// IsZero reports whether s is the zero Secret.
func (s Secret) IsZero() bool { return s.key == nil }

// Equal reports whether the two are the same secret, in a time that depends on
// their lengths only. Two zero Secrets are equal.
func (s Secret) Equal(other Secret) bool {
	if s.IsZero() || other.IsZero() {
		return s.IsZero() == other.IsZero()
	}
	return hmac.Equal(s.key(), other.key())
}

// String returns a text that says that there is a secret, not which.
func (s Secret) String() string { return maskedSecret }

// GoString is String, for %#v.
func (s Secret) GoString() string { return maskedSecret }

// LogValue is String, for package log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(maskedSecret) }

package signature

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Sizes of a symmetric secret in bytes, before base64. The bounds are those of
// the Standard Webhooks specification.
const (
	MinSecretBytes = 24
	MaxSecretBytes = 64
	NewSecretBytes = 32 // what NewSecret makes
)

// Bounds of a text that is a secret as it stands, in bytes: see TextSecret.
const (
	MinTextBytes = 16
	MaxTextBytes = 256
)

// What the text forms of keys begin with.
const (
	secretPrefix  = "whsec_" // symmetric: both ends have it
	privatePrefix = "whsk_"  // ed25519: the sender's
	publicPrefix  = "whpk_"  // ed25519: what receivers verify with
)

// How a secret appears wherever it is printed.
const (
	maskedSecret  = secretPrefix + "***"
	maskedPrivate = privatePrefix + "***"
	maskedText    = "***"
)

// ErrSecret is wrapped by every error of ParseSecret, TextSecret and
// ParsePublicKey.
var ErrSecret = errors.New("malformed webhook secret")

// Secret is what a sender signs with. There are three kinds: the symmetric key
// of Standard Webhooks (whsec_…), its private ed25519 key (whsk_…), and a text
// that two ends have agreed upon. Printing or logging one, alone or inside
// another value, does not show it; Reveal does.
//
// The zero Secret is no secret: it signs nothing and matches nothing. A Secret
// never changes and is safe for concurrent use.
type Secret struct {
	// A function, because package fmt looks into unexported fields, where it
	// cannot call String, and through pointers; of a function it prints the
	// address. nil in the zero Secret.
	material func() material
}

// material is what a secret consists of.
type material struct {
	text    string             // the text form
	key     []byte             // of HMAC, where the text is whsec_…
	private ed25519.PrivateKey // where the text is whsk_…
}

func newSecret(m material) Secret {
	return Secret{material: func() material { return m }}
}

func symmetric(key []byte) Secret {
	return newSecret(material{text: secretPrefix + base64.StdEncoding.EncodeToString(key), key: key})
}

// NewSecret makes a symmetric secret of NewSecretBytes bytes read from random,
// which should be crypto/rand.Reader. It fails only if random does.
func NewSecret(random io.Reader) (Secret, error) {
	key := make([]byte, NewSecretBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return Secret{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return symmetric(key), nil
}

// NewPrivateKey makes a private ed25519 key, whsk_…, from bytes read from
// random, which should be crypto/rand.Reader. It fails only if random does.
func NewPrivateKey(random io.Reader) (Secret, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return Secret{}, fmt.Errorf("reading random bytes: %w", err)
	}
	private := ed25519.NewKeyFromSeed(seed)
	return newSecret(material{text: privatePrefix + base64.StdEncoding.EncodeToString(private), private: private}), nil
}

// ParseSecret reads a secret of Standard Webhooks in its text form: whsec_ and
// then the padded standard base64 of MinSecretBytes to MaxSecretBytes bytes,
// or whsk_ and that of a private ed25519 key, with its public half (64 bytes)
// or without (32). Reveal returns the same text. The error wraps ErrSecret,
// says what is wrong, and never quotes the text.
func ParseSecret(text string) (Secret, error) {
	if strings.HasPrefix(text, privatePrefix) {
		return parsePrivate(text)
	}
	key, err := decodeKey(text, secretPrefix, MaxSecretBytes)
	if err != nil {
		return Secret{}, err
	}
	if len(key) < MinSecretBytes || len(key) > MaxSecretBytes {
		return Secret{}, fmt.Errorf("%w: it has %d bytes, not %d to %d",
			ErrSecret, len(key), MinSecretBytes, MaxSecretBytes)
	}
	return symmetric(key), nil
}

func parsePrivate(text string) (Secret, error) {
	key, err := decodeKey(text, privatePrefix, ed25519.PrivateKeySize)
	if err != nil {
		return Secret{}, err
	}
	if len(key) != ed25519.SeedSize && len(key) != ed25519.PrivateKeySize {
		return Secret{}, fmt.Errorf("%w: it has %d bytes, not %d or %d",
			ErrSecret, len(key), ed25519.SeedSize, ed25519.PrivateKeySize)
	}
	private := ed25519.NewKeyFromSeed(key[:ed25519.SeedSize])
	if len(key) == ed25519.PrivateKeySize && !bytes.Equal(key, private) {
		return Secret{}, fmt.Errorf("%w: its public half belongs to another key", ErrSecret)
	}
	return newSecret(material{text: text, private: private}), nil
}

// decodeKey reads a prefix and then the base64 of at most so many bytes.
func decodeKey(text, prefix string, most int) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrSecret, prefix)
	}
	if len(encoded) > base64.StdEncoding.EncodedLen(most) {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrSecret, most)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	// The decoder skips line breaks; a secret has none.
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return nil, fmt.Errorf("%w: what follows %s is not padded standard base64", ErrSecret, prefix)
	}
	return key, nil
}

// TextSecret returns a secret for the schemes that take any text as the key of
// an HMAC, byte for byte: GitHub's, Stripe's and Custom ones. It has
// MinTextBytes to MaxTextBytes bytes of visible ASCII. The error wraps
// ErrSecret and never quotes the text.
//
// A text that ParseSecret reads as whsec_… gives that secret, which serves
// these schemes too: there its text is the key.
func TextSecret(text string) (Secret, error) {
	if secret, err := ParseSecret(text); err == nil {
		return secret, nil
	}
	if len(text) < MinTextBytes || len(text) > MaxTextBytes {
		return Secret{}, fmt.Errorf("%w: it has %d characters, not %d to %d",
			ErrSecret, len(text), MinTextBytes, MaxTextBytes)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Secret{}, fmt.Errorf("%w: it has characters other than visible ASCII", ErrSecret)
	}
	return newSecret(material{text: text}), nil
}

// Reveal returns the text form of the secret, which ParseSecret or TextSecret
// reads. It is the empty string for the zero Secret.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.material().text
}

// IsZero reports whether s is the zero Secret.
func (s Secret) IsZero() bool { return s.material == nil }

// IsPrivateKey reports whether s is a private ed25519 key, whsk_….
func (s Secret) IsPrivateKey() bool { return !s.IsZero() && s.material().private != nil }

// IsSymmetric reports whether s is a symmetric secret of Standard Webhooks,
// whsec_….
func (s Secret) IsSymmetric() bool { return !s.IsZero() && s.material().key != nil }

// PublicKey returns what receivers verify with; the zero PublicKey if s is no
// private key.
func (s Secret) PublicKey() PublicKey {
	if !s.IsPrivateKey() {
		return PublicKey{}
	}
	public := make([]byte, ed25519.PublicKeySize)
	copy(public, s.material().private[ed25519.SeedSize:])
	return PublicKey{key: string(public)}
}

// Equal reports whether the two are the same secret, in a time that depends on
// their lengths only. Two zero Secrets are equal.
func (s Secret) Equal(other Secret) bool {
	if s.IsZero() || other.IsZero() {
		return s.IsZero() == other.IsZero()
	}
	a, b := s.material(), other.material()
	if a.private != nil && b.private != nil { // of two texts
		return hmac.Equal(a.private, b.private)
	}
	return hmac.Equal([]byte(a.text), []byte(b.text))
}

// String returns a text that says that there is a secret, not which.
func (s Secret) String() string {
	switch {
	case s.IsPrivateKey():
		return maskedPrivate
	case s.IsZero() || s.IsSymmetric():
		return maskedSecret
	default:
		return maskedText
	}
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue is String, for package log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// PublicKey is the public half of an ed25519 key. It is no secret: whoever has
// it can verify, and only verify. The zero PublicKey matches nothing.
type PublicKey struct{ key string }

// ParsePublicKey reads a public key in its text form: whpk_ and the padded
// standard base64 of 32 bytes. The error wraps ErrSecret.
func ParsePublicKey(text string) (PublicKey, error) {
	key, err := decodeKey(text, publicPrefix, ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, err
	}
	if len(key) != ed25519.PublicKeySize {
		return PublicKey{}, fmt.Errorf("%w: it has %d bytes, not %d", ErrSecret, len(key), ed25519.PublicKeySize)
	}
	return PublicKey{key: string(key)}, nil
}

// String returns the text form, whpk_…, or "" for the zero PublicKey.
func (k PublicKey) String() string {
	if k.IsZero() {
		return ""
	}
	return publicPrefix + base64.StdEncoding.EncodeToString([]byte(k.key))
}

// IsZero reports whether k is the zero PublicKey.
func (k PublicKey) IsZero() bool { return k.key == "" }

// Bytes returns the 32 bytes of the key, as an ed25519.PublicKey has them; nil
// for the zero PublicKey.
func (k PublicKey) Bytes() []byte {
	if k.IsZero() {
		return nil
	}
	return []byte(k.key)
}

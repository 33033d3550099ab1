// Package signing reads what a subscription says about signatures: the
// coordinator when it is made, the worker when it is sent to.
package signing

import (
	"errors"
	"fmt"
	"io"
	"strings"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// The schemes by name, as Signing.scheme has them.
const (
	Standard        = "standard"
	StandardEd25519 = "standard-ed25519"
	GitHub          = "github"
	Stripe          = "stripe"
	HMAC            = "hmac"
)

// FieldError says which field of a Signing is wrong.
type FieldError struct {
	Field string // as in "hmac.header"
	Err   error
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// Name returns the scheme's name; that of the default if s is absent or has
// none.
func Name(s *fanfarev1.Signing) string {
	if s.GetScheme() == "" {
		return Standard
	}
	return s.GetScheme()
}

// IsStandard reports whether the scheme is one of Standard Webhooks.
func IsStandard(s *fanfarev1.Signing) bool {
	return Name(s) == Standard || Name(s) == StandardEd25519
}

// Scheme returns the scheme, or a *FieldError.
func Scheme(s *fanfarev1.Signing) (signature.Scheme, error) {
	name := Name(s)
	if s.GetHmac() != nil && name != HMAC {
		return signature.Scheme{}, &FieldError{"hmac", fmt.Errorf("is given, but the scheme is %q", name)}
	}
	switch name {
	case Standard, StandardEd25519:
		return signature.Standard(), nil
	case GitHub:
		return signature.GitHub(), nil
	case Stripe:
		return signature.Stripe(), nil
	case HMAC:
		return custom(s.GetHmac())
	}
	return signature.Scheme{}, &FieldError{"scheme", fmt.Errorf("is %q; expected %s, %s, %s, %s or %s",
		name, Standard, StandardEd25519, GitHub, Stripe, HMAC)}
}

func custom(h *fanfarev1.HmacSigning) (signature.Scheme, error) {
	scheme, err := signature.Custom(signature.HMAC{
		Header:          h.GetHeader(),
		Algorithm:       h.GetAlgorithm(),
		Encoding:        h.GetEncoding(),
		Prefix:          h.GetPrefix(),
		TimestampHeader: h.GetTimestampHeader(),
		Content:         h.GetContent(),
	})
	if err == nil {
		return scheme, nil
	}
	field, problem, _ := strings.Cut(err.Error(), ": ")
	return signature.Scheme{}, &FieldError{"hmac." + field, errors.New(strings.TrimPrefix(problem, signature.ErrScheme.Error()+": it "))}
}

// ParseSecret reads a secret of a kind that the scheme takes.
func ParseSecret(s *fanfarev1.Signing, text string) (signature.Secret, error) {
	if IsStandard(s) {
		return signature.ParseSecret(text)
	}
	secret, err := signature.TextSecret(text)
	if err == nil && secret.IsPrivateKey() {
		return signature.Secret{}, fmt.Errorf("%w: only Standard Webhooks takes a private key", signature.ErrSecret)
	}
	return secret, err
}

// NewSecret makes a secret for the scheme.
func NewSecret(s *fanfarev1.Signing, random io.Reader) (signature.Secret, error) {
	if Name(s) == StandardEd25519 {
		return signature.NewPrivateKey(random)
	}
	return signature.NewSecret(random)
}

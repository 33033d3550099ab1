package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/fanfare-dev/fanfare/internal/pki"
	"github.com/fanfare-dev/fanfare/internal/reload"
)

const (
	// tokenPrefix begins tokens, so that those who find one know what it is.
	tokenPrefix = "fanfare_"
	// minToken is how long a token of somebody else's making must be.
	minToken = 24
)

// Entry is a token in the file of tokens.
type Entry struct {
	Name    string     `yaml:"name"`
	SHA256  string     `yaml:"sha256,omitempty"` // of the token, in hex
	Token   string     `yaml:"token,omitempty"`  // itself; either it or its hash
	Tenant  string     `yaml:"tenant"`
	Scopes  []Scope    `yaml:"scopes,flow"`
	Expires *time.Time `yaml:"expires,omitempty"`
}

// file is the file of tokens.
type file struct {
	Tokens []Entry `yaml:"tokens"`
}

// NewToken makes a token, and the entry that lets its holder in.
func NewToken(entry Entry) (token string, _ Entry, err error) {
	token = tokenPrefix + rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(token))
	entry.SHA256 = hex.EncodeToString(sum[:])
	return token, entry, entry.Caller().Validate()
}

// EncodeEntries returns entries as they stand in the file.
func EncodeEntries(entries ...Entry) ([]byte, error) {
	text, err := yaml.Marshal(file{entries})
	if err != nil {
		return nil, fmt.Errorf("encoding tokens: %w", err)
	}
	return text, nil
}

// Caller is who has the entry's token.
func (e Entry) Caller() Caller {
	return Caller{Name: e.Name, Role: pki.Client, Tenant: e.Tenant, Scopes: e.Scopes}
}

// sum returns the hash of the entry's token.
func (e Entry) sum() (sum [sha256.Size]byte, err error) {
	switch {
	case (e.SHA256 == "") == (e.Token == ""):
		return sum, fmt.Errorf("token of %s: give either token or sha256", e.Name)
	case e.Token != "" && len(e.Token) < minToken:
		return sum, fmt.Errorf("token of %s is shorter than %d characters", e.Name, minToken)
	case e.Token != "":
		return sha256.Sum256([]byte(e.Token)), nil
	}
	decoded, err := hex.DecodeString(e.SHA256)
	if err != nil || len(decoded) != sha256.Size {
		return sum, fmt.Errorf("sha256 of %s is not the %d hex digits of a SHA-256", e.Name, 2*sha256.Size)
	}
	return [sha256.Size]byte(decoded), nil
}

// bearer is who has a token.
type bearer struct {
	caller  Caller
	expires time.Time // zero: never
}

// known maps the hashes of tokens to those who have them. Who looks a token up
// by its hash learns nothing from how long it takes.
type known map[[sha256.Size]byte]bearer

// parseTokens reads a file of tokens. Errors name the entry, and no token.
func parseTokens(text []byte) (known, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var f file
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, hideValues(err)
	}
	all := make(known, len(f.Tokens))
	for i, entry := range f.Tokens {
		if err := entry.Caller().Validate(); err != nil {
			return nil, fmt.Errorf("tokens[%d]: %w", i, err)
		}
		sum, err := entry.sum()
		if err != nil {
			return nil, fmt.Errorf("tokens[%d]: %w", i, err)
		}
		if other, twice := all[sum]; twice {
			return nil, fmt.Errorf("tokens[%d]: %s and %s have the same token", i, entry.Name, other.caller.Name)
		}
		b := bearer{caller: entry.Caller()}
		if entry.Expires != nil {
			b.expires = *entry.Expires
		}
		all[sum] = b
	}
	return all, nil
}

// hideValues keeps what YAML quotes of a file of secrets to itself: only where
// it stopped is said.
func hideValues(err error) error {
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		lines := make([]error, len(wrong.Errors))
		for i, each := range wrong.Errors {
			if line, _, found := bytes.Cut([]byte(each), []byte(":")); found {
				lines[i] = fmt.Errorf("%s is not what a file of tokens has: tokens, each with name, sha256 or token, tenant, scopes, expires", line)
			}
		}
		return errors.Join(lines...)
	}
	return errors.New("the file of tokens is not YAML")
}

// Tokens is a file of tokens, read again when it changes.
type Tokens struct{ known *reload.Value[known] }

// OpenTokens reads a file of tokens:
//
//	tokens:
//	  - name: shop
//	    sha256: 9f86d0…           # or token: fanfare_…
//	    tenant: acme              # or "*"
//	    scopes: [publish, read]
//	    expires: 2027-01-31T00:00:00Z
func OpenTokens(path string, logger *slog.Logger) (*Tokens, error) {
	value, err := reload.New([]string{path}, func(texts [][]byte) (known, error) { return parseTokens(texts[0]) }, logger)
	if err != nil {
		return nil, err
	}
	return &Tokens{value}, nil
}

// find returns whose token it is.
func (t *Tokens) find(token string, now time.Time) (Caller, bool) {
	if t == nil {
		return Caller{}, false
	}
	b, ok := t.known.Get()[sha256.Sum256([]byte(token))]
	if !ok || !b.expires.IsZero() && !now.Before(b.expires) {
		return Caller{}, false
	}
	return b.caller, true
}

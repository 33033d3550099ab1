package signature

import (
	"crypto/sha1" //nolint:gosec // HMAC-SHA1 is what some receivers know, and as an HMAC it holds
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/textproto"
	"slices"
	"strings"
)

// The headers of the schemes that are not Standard Webhooks.
const (
	HeaderGitHub = "X-Hub-Signature-256"
	HeaderStripe = "Stripe-Signature"
	// PreviousSuffix is what the header with the signatures by older secrets
	// ends in, where a header has room for one signature only.
	PreviousSuffix = "-Previous"
)

// Bounds of an HMAC.
const (
	maxHeaderName = 64
	maxPrefix     = 64
	maxContent    = 256
)

// ErrScheme is wrapped by the errors of Custom and NewSigner.
var ErrScheme = errors.New("impossible signature scheme")

// Scheme is a way to sign: which bytes, and into which headers. The zero
// Scheme is Standard. All of them send webhook-id and webhook-timestamp, too,
// so that a receiver can always tell a repeated message; only some sign them.
type Scheme struct {
	style style
	hmac  customHMAC // where style is styleHMAC
}

type style int

const (
	styleStandard style = iota
	styleStripe
	styleHMAC
)

// Standard is the scheme of Standard Webhooks. Each secret signs in its way:
// whsec_… makes v1 signatures, whsk_… makes v1a ones.
func Standard() Scheme { return Scheme{} }

// IsStandard reports whether it is the scheme of Standard Webhooks: the one that
// always has webhook-id in what it signs.
func (s Scheme) IsStandard() bool { return s.style == styleStandard }

// Stripe is the scheme of Stripe's webhooks: `Stripe-Signature: t=…,v1=…`, the
// HMAC-SHA256 of "{timestamp}.{body}", in hex. The text of a secret is the
// key. Several secrets make several v1 signatures.
func Stripe() Scheme { return Scheme{style: styleStripe} }

// GitHub is the scheme of GitHub's webhooks: `X-Hub-Signature-256: sha256=…`,
// the HMAC-SHA256 of the body, in hex. The text of a secret is the key. It
// signs no time, so that a receiver cannot tell an old request that is played
// back but by its id. While there are several secrets the newest signs there,
// and the older ones in X-Hub-Signature-256-Previous.
func GitHub() Scheme {
	return Scheme{style: styleHMAC, hmac: customHMAC{
		header: HeaderGitHub, newHash: sha256.New, encode: hex.AppendEncode, prefix: "sha256=",
		content: []piece{{kind: pieceBody}},
	}}
}

// HMAC describes a scheme of one's own.
type HMAC struct {
	// Header is the one with the signature. While there are several secrets,
	// the newest signs there, and the older ones in Header + "-Previous".
	Header string
	// Algorithm is sha1, sha256, sha384 or sha512; sha256 if empty.
	Algorithm string
	// Encoding is hex or base64; hex if empty.
	Encoding string
	// Prefix comes before the encoded signature, as `sha256=`.
	Prefix string
	// TimestampHeader gets the time of the attempt, in Unix seconds;
	// webhook-timestamp has it in any case.
	TimestampHeader string
	// Content is what is signed: a text in which {id}, {timestamp} and {body}
	// stand for those of the message. {body} must be in it, once. {body} alone
	// if empty. Without {timestamp} a receiver cannot tell an old request that
	// is played back.
	Content string
}

// customHMAC is an HMAC, read.
type customHMAC struct {
	header          string
	newHash         func() hash.Hash
	encode          func(dst, src []byte) []byte
	prefix          string
	timestampHeader string // empty: only webhook-timestamp
	content         []piece
}

// piece is a part of what is signed.
type piece struct {
	kind pieceKind
	text string // where kind is pieceText
}

type pieceKind int

const (
	pieceText pieceKind = iota
	pieceID
	pieceTimestamp
	pieceBody
)

// Custom returns the scheme that h describes, or an error that wraps ErrScheme
// and begins with the field that is wrong, in lower case.
func Custom(h HMAC) (Scheme, error) {
	custom := customHMAC{header: h.Header, prefix: h.Prefix, timestampHeader: h.TimestampHeader}
	if err := checkHeaderName("header", h.Header); err != nil {
		return Scheme{}, err
	}
	if h.TimestampHeader != "" {
		if err := checkHeaderName("timestamp_header", h.TimestampHeader); err != nil {
			return Scheme{}, err
		}
		if strings.EqualFold(h.TimestampHeader, h.Header) {
			return Scheme{}, schemeError("timestamp_header", "is the header of the signature")
		}
	}
	if len(h.Prefix) > maxPrefix || !isVisible(h.Prefix) {
		return Scheme{}, schemeError("prefix", "is not up to 64 characters of visible ASCII")
	}
	var err error
	if custom.newHash, err = hashOf(h.Algorithm); err != nil {
		return Scheme{}, err
	}
	if custom.encode, err = encoderOf(h.Encoding); err != nil {
		return Scheme{}, err
	}
	if custom.content, err = parseContent(h.Content); err != nil {
		return Scheme{}, err
	}
	return Scheme{style: styleHMAC, hmac: custom}, nil
}

func schemeError(field, problem string) error {
	return fmt.Errorf("%s: %w: it %s", field, ErrScheme, problem)
}

// checkHeaderName wants a name that HTTP can carry and that nothing else uses.
func checkHeaderName(field, name string) error {
	if name == "" {
		return schemeError(field, "is empty")
	}
	if len(name) > maxHeaderName || strings.Trim(name,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return schemeError(field, "is not up to 64 letters, digits, - and _")
	}
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Expect", "Host",
		"Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent",
		keyID, keyTimestamp, keySignature:
		return schemeError(field, "is a header that means something else")
	}
	return nil
}

func isVisible(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

func hashOf(algorithm string) (func() hash.Hash, error) {
	switch algorithm {
	case "sha1":
		return sha1.New, nil
	case "", "sha256":
		return sha256.New, nil
	case "sha384":
		return sha512.New384, nil
	case "sha512":
		return sha512.New, nil
	}
	return nil, schemeError("algorithm", "is none of sha1, sha256, sha384 and sha512")
}

func encoderOf(encoding string) (func(dst, src []byte) []byte, error) {
	switch encoding {
	case "", "hex":
		return hex.AppendEncode, nil
	case "base64":
		return base64.StdEncoding.AppendEncode, nil
	}
	return nil, schemeError("encoding", "is neither hex nor base64")
}

// parseContent reads a template of what is signed.
func parseContent(template string) ([]piece, error) {
	if template == "" {
		template = "{body}"
	}
	if len(template) > maxContent || !isVisible(template) {
		return nil, schemeError("content", "is not up to 256 characters of visible ASCII")
	}
	var pieces []piece
	bodies := 0
	for template != "" {
		text, rest, found := strings.Cut(template, "{")
		if text != "" {
			pieces = append(pieces, piece{kind: pieceText, text: text})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		kind, known := map[string]pieceKind{"id": pieceID, "timestamp": pieceTimestamp, "body": pieceBody}[name]
		if !closed || !known {
			return nil, schemeError("content", "has a { that begins none of {id}, {timestamp} and {body}")
		}
		if kind == pieceBody {
			bodies++
		}
		pieces, template = append(pieces, piece{kind: kind}), after
	}
	if bodies != 1 {
		return nil, schemeError("content", "does not have {body} exactly once")
	}
	return pieces, nil
}

// signs reports whether a part of the message is in what is signed.
func (c *customHMAC) signs(kind pieceKind) bool {
	return slices.ContainsFunc(c.content, func(p piece) bool { return p.kind == kind })
}

// timestampFrom is the header that a receiver reads the time from.
func (c *customHMAC) timestampFrom() string {
	if c.timestampHeader != "" {
		return c.timestampHeader
	}
	return HeaderTimestamp
}

// takes reports whether a secret can sign by the scheme.
func (s Scheme) takes(secret Secret) error {
	switch {
	case s.style == styleStandard && !secret.IsPrivateKey() && !secret.IsSymmetric():
		return fmt.Errorf("%w: Standard Webhooks takes secrets that begin with whsec_ or whsk_", ErrScheme)
	case s.style != styleStandard && secret.IsPrivateKey():
		return fmt.Errorf("%w: only Standard Webhooks takes a private key, whsk_", ErrScheme)
	}
	return nil
}

// Headers returns the names of the headers that the scheme sets.
func (s Scheme) Headers() []string {
	names := []string{HeaderID, HeaderTimestamp}
	switch s.style {
	case styleStandard:
		names = append(names, HeaderSignature)
	case styleStripe:
		names = append(names, HeaderStripe)
	case styleHMAC:
		names = append(names, s.hmac.header, s.hmac.header+PreviousSuffix)
		if s.hmac.timestampHeader != "" {
			names = append(names, s.hmac.timestampHeader)
		}
	}
	return names
}

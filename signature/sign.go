package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// The headers of a signed webhook, as the specification spells them. HTTP
// header names are case-insensitive: http.Header.Get finds them.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// The same names as keys of an http.Header map.
const (
	keyID        = "Webhook-Id"
	keyTimestamp = "Webhook-Timestamp"
	keySignature = "Webhook-Signature"
)

// What a signature of Standard Webhooks begins with.
const (
	v1Prefix  = "v1,"  // HMAC-SHA256
	v1aPrefix = "v1a," // ed25519
)

// maxScratch is how large a buffer a Signer keeps for its next message.
const maxScratch = 64 << 10

// Message is what is signed. ID should contain no full stop, as full stops
// part the three from each other in the bytes signed. Timestamp counts in
// whole seconds; the rest of a second is dropped.
type Message struct {
	ID        string
	Timestamp time.Time
	Body      []byte
}

// Sign returns the value of the webhook-signature header: one signature for
// each secret, in their order, with a space between them. Who signs many
// messages with the same secrets keeps a Signer instead.
func Sign(m Message, secrets ...Secret) string {
	return string(NewSigner(secrets...).Append(nil, m))
}

// Signer signs messages by one scheme with a fixed set of secrets. It is safe
// for concurrent use. Used by one goroutine at a time, it allocates little; it
// then keeps about 1 KiB for each secret.
type Signer struct {
	scheme  Scheme
	secrets []Secret
	idle    atomic.Pointer[scratch] // nil while a call has it
}

// scratch is what a call works with, kept for the next one.
type scratch struct {
	macs  []hash.Hash // one for each secret, keyed; nil for a private key
	bytes []byte      // "{id}.{timestamp}.", and the body where all is needed in one piece
	sum   []byte
}

// NewSigner returns a Signer by Standard Webhooks that makes one signature for
// each secret, in their order. Zero Secrets, and texts that are no secrets of
// Standard Webhooks, are left out.
func NewSigner(secrets ...Secret) *Signer {
	s := &Signer{}
	for _, secret := range secrets {
		if secret.IsSymmetric() || secret.IsPrivateKey() {
			s.secrets = append(s.secrets, secret)
		}
	}
	return s
}

// NewSigner returns a Signer that signs by the scheme with each secret, the
// newest first. Zero Secrets are left out. The error wraps ErrScheme: a secret
// is of a kind that the scheme cannot use.
func (s Scheme) NewSigner(secrets ...Secret) (*Signer, error) {
	signer := &Signer{scheme: s}
	for _, secret := range secrets {
		if secret.IsZero() {
			continue
		}
		if err := s.takes(secret); err != nil {
			return nil, err
		}
		signer.secrets = append(signer.secrets, secret)
	}
	return signer, nil
}

// Append appends the value of the header that the scheme signs in to dst and
// returns the longer slice: for Standard Webhooks, that of webhook-signature.
// It does not keep m.Body.
func (s *Signer) Append(dst []byte, m Message) []byte {
	work := s.take()
	defer s.idle.Store(work)
	switch s.scheme.style {
	case styleStandard:
		return s.appendStandard(dst, work, m)
	case styleStripe:
		return s.appendStripe(dst, work, m)
	case styleHMAC:
		if len(s.secrets) > 0 {
			return s.scheme.hmac.append(dst, work, 0, m)
		}
	}
	return dst
}

// SetHeaders sets the headers of the scheme for m, in place of any that h has.
// The body sent must be m.Body, byte for byte.
func (s *Signer) SetHeaders(h http.Header, m Message) {
	values := [...]string{m.ID, strconv.FormatInt(m.Timestamp.Unix(), 10), string(s.Append(nil, m))}
	h[keyID] = values[0:1:1]
	h[keyTimestamp] = values[1:2:2]
	switch s.scheme.style {
	case styleStandard:
		h[keySignature] = values[2:3:3]
	case styleStripe:
		h[HeaderStripe] = values[2:3:3]
	case styleHMAC:
		custom := s.scheme.hmac
		h.Set(custom.header, values[2])
		if custom.timestampHeader != "" {
			h.Set(custom.timestampHeader, values[1])
		}
		s.setPrevious(h, m)
	}
}

// setPrevious sets the signatures by all secrets but the first, where a header
// has room for one.
func (s *Signer) setPrevious(h http.Header, m Message) {
	h.Del(s.scheme.hmac.header + PreviousSuffix)
	if len(s.secrets) < 2 {
		return
	}
	work := s.take()
	defer s.idle.Store(work)
	for i := 1; i < len(s.secrets); i++ {
		h.Add(s.scheme.hmac.header+PreviousSuffix, string(s.scheme.hmac.append(nil, work, i, m)))
	}
}

// take returns something to work with, which goes back into idle.
func (s *Signer) take() *scratch {
	if work := s.idle.Swap(nil); work != nil {
		return work
	}
	work := &scratch{macs: make([]hash.Hash, len(s.secrets)), sum: make([]byte, 0, sha256.Size)}
	for i, secret := range s.secrets {
		switch m := secret.material(); {
		case m.private != nil:
		case s.scheme.style == styleStandard:
			work.macs[i] = hmac.New(sha256.New, m.key)
		case s.scheme.style == styleStripe:
			work.macs[i] = hmac.New(sha256.New, []byte(m.text))
		default:
			work.macs[i] = hmac.New(s.scheme.hmac.newHash, []byte(m.text))
		}
	}
	return work
}

// appendStandard appends what "{id}.{timestamp}.{body}" is signed as.
func (s *Signer) appendStandard(dst []byte, work *scratch, m Message) []byte {
	work.bytes = appendPrefix(work.bytes[:0], m)
	prefix := len(work.bytes)
	for i, secret := range s.secrets {
		if i > 0 {
			dst = append(dst, ' ')
		}
		if mac := work.macs[i]; mac != nil {
			work.sum = sum(work.sum[:0], mac, work.bytes[:prefix], m.Body)
			dst = append(dst, v1Prefix...)
			dst = base64.StdEncoding.AppendEncode(dst, work.sum)
			continue
		}
		if len(work.bytes) == prefix { // ed25519 reads its message twice, so it needs all of it
			work.bytes = append(work.bytes, m.Body...)
		}
		dst = append(dst, v1aPrefix...)
		dst = base64.StdEncoding.AppendEncode(dst, ed25519.Sign(secret.material().private, work.bytes))
	}
	if cap(work.bytes) > maxScratch {
		work.bytes = nil
	}
	return dst
}

// appendStripe appends t=…,v1=…,v1=….
func (s *Signer) appendStripe(dst []byte, work *scratch, m Message) []byte {
	dst = append(dst, "t="...)
	dst = strconv.AppendInt(dst, m.Timestamp.Unix(), 10)
	work.bytes = append(strconv.AppendInt(work.bytes[:0], m.Timestamp.Unix(), 10), '.')
	for _, mac := range work.macs {
		work.sum = sum(work.sum[:0], mac, work.bytes, m.Body)
		dst = append(dst, ",v1="...)
		dst = hex.AppendEncode(dst, work.sum)
	}
	return dst
}

// append appends the signature by one of the secrets.
func (c *customHMAC) append(dst []byte, work *scratch, secret int, m Message) []byte {
	mac := work.macs[secret]
	mac.Reset()
	for _, p := range c.content { // a hash.Hash never returns an error
		switch p.kind {
		case pieceText:
			mac.Write([]byte(p.text))
		case pieceID:
			mac.Write([]byte(m.ID))
		case pieceTimestamp:
			work.bytes = strconv.AppendInt(work.bytes[:0], m.Timestamp.Unix(), 10)
			mac.Write(work.bytes)
		case pieceBody:
			mac.Write(m.Body)
		}
	}
	work.sum = mac.Sum(work.sum[:0])
	return c.encode(append(dst, c.prefix...), work.sum)
}

// appendPrefix appends the part of the signed bytes that comes before the
// body.
func appendPrefix(dst []byte, m Message) []byte {
	dst = append(dst, m.ID...)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, m.Timestamp.Unix(), 10)
	return append(dst, '.')
}

// sum appends the MAC of prefix and body to dst. mac must be keyed; what was
// written to it before does not count.
func sum(dst []byte, mac hash.Hash, prefix, body []byte) []byte {
	mac.Reset()
	mac.Write(prefix) // a hash.Hash never returns an error
	mac.Write(body)
	return mac.Sum(dst)
}

package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
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

// v1Prefix begins a signature by HMAC-SHA256.
const v1Prefix = "v1,"

// v1Length is the length of such a signature, prefix included.
const v1Length = len(v1Prefix) + (sha256.Size+2)/3*4

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

// Signer signs messages with a fixed set of secrets. It is safe for concurrent
// use. Used by one goroutine at a time, it allocates only while it grows; it
// then keeps about 1 KiB for each secret.
type Signer struct {
	secrets []Secret
	idle    atomic.Pointer[scratch] // nil while a call has it
}

// scratch is what a call of Append works with, kept for the next one.
type scratch struct {
	macs   []hash.Hash // one for each secret, keyed
	prefix []byte      // "{id}.{timestamp}."
	sum    []byte
}

// NewSigner returns a Signer that makes one signature for each secret, in
// their order. Zero Secrets are left out.
func NewSigner(secrets ...Secret) *Signer {
	s := &Signer{}
	for _, secret := range secrets {
		if !secret.IsZero() {
			s.secrets = append(s.secrets, secret)
		}
	}
	return s
}

// Append appends the value of the webhook-signature header for m to dst and
// returns the longer slice. It does not keep m.Body.
func (s *Signer) Append(dst []byte, m Message) []byte {
	work := s.idle.Swap(nil)
	if work == nil {
		work = s.newScratch()
	}
	work.prefix = appendPrefix(work.prefix[:0], m)
	for i, mac := range work.macs {
		if i > 0 {
			dst = append(dst, ' ')
		}
		work.sum = sum(work.sum[:0], mac, work.prefix, m.Body)
		dst = append(dst, v1Prefix...)
		dst = base64.StdEncoding.AppendEncode(dst, work.sum)
	}
	s.idle.Store(work)
	return dst
}

// SetHeaders sets the three headers of m, in place of any that h has. The body
// sent must be m.Body, byte for byte.
func (s *Signer) SetHeaders(h http.Header, m Message) {
	value := s.Append(make([]byte, 0, len(s.secrets)*(v1Length+1)), m)
	values := [...]string{m.ID, strconv.FormatInt(m.Timestamp.Unix(), 10), string(value)}
	h[keyID] = values[0:1:1]
	h[keyTimestamp] = values[1:2:2]
	h[keySignature] = values[2:3:3]
}

func (s *Signer) newScratch() *scratch {
	work := &scratch{
		macs: make([]hash.Hash, len(s.secrets)),
		sum:  make([]byte, 0, sha256.Size),
	}
	for i, secret := range s.secrets {
		work.macs[i] = hmac.New(sha256.New, secret.key())
	}
	return work
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

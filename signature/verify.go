package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// DefaultTolerance is how far the timestamp of a webhook may be from the
// receiver's clock, either way, unless it says otherwise.
const DefaultTolerance = 5 * time.Minute

const (
	// maxTimestampDigits bounds a timestamp to the year 33658.
	maxTimestampDigits = 12
	// maxSignatures bounds what one request can make a receiver compute.
	maxSignatures = 64
)

// Why a webhook is not to be believed. Verify returns one of these, with more
// detail around it, or a *MissingHeaderError.
var (
	// ErrTimestamp: the timestamp is not a count of seconds in decimal.
	ErrTimestamp = errors.New("malformed timestamp")
	// ErrTooOld: the timestamp is further in the past than is tolerated. The
	// request may be a replay, or one of the two clocks is wrong.
	ErrTooOld = errors.New("timestamp is too old")
	// ErrTooNew: the timestamp is further in the future than is tolerated.
	ErrTooNew = errors.New("timestamp is too new")
	// ErrMalformed: the header with the signatures is not as the scheme has
	// it. So the request was not signed by this scheme.
	ErrMalformed = errors.New("malformed signature header")
	// ErrNoMatch: no signature in the header is that of the message by any of
	// the secrets. Something was altered, or another secret was used: which of
	// the two, nobody can tell.
	ErrNoMatch = errors.New("no matching signature")
)

// MissingHeaderError says that a header without which nothing can be verified
// is absent or empty.
type MissingHeaderError struct {
	Header string // as HeaderID
}

// Error implements error.
func (e *MissingHeaderError) Error() string {
	return "header " + e.Header + " is missing"
}

// Verifier is what a receiver knows of a sender. It is safe for concurrent use
// as long as nobody changes it.
type Verifier struct {
	// Scheme is how the sender signs; the zero value is Standard Webhooks.
	Scheme Scheme
	// Secrets are those that the two ends share: one match is enough. Private
	// keys among them stand for their public halves.
	Secrets []Secret
	// PublicKeys are the sender's, for v1a signatures of Standard Webhooks.
	PublicKeys []PublicKey
	// Tolerance is how old or new a message may be; 0 means DefaultTolerance.
	// Where the scheme signs no time, there is none to check.
	Tolerance time.Duration
}

// Verify checks that the holder of one of the secrets signed body with the
// three headers in header, within tolerance of now: Verifier.Verify by
// Standard Webhooks. A tolerance of 0 means DefaultTolerance.
func Verify(secrets []Secret, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	return Verifier{Secrets: secrets, Tolerance: tolerance}.Verify(header, body, now)
}

// Verify checks that body was signed, with what header says of it, by the
// holder of one of the secrets or keys, within the tolerance of now. The body
// must be as it was received, byte for byte; one with a content-encoding must
// still have it.
//
// It returns nil if so; otherwise a *MissingHeaderError, or an error that
// wraps ErrTimestamp, ErrTooOld, ErrTooNew, ErrMalformed or ErrNoMatch.
// Comparing takes the same time however much of a signature is right. What
// Verify does not do is remember: within the tolerance a request can be played
// back, and the receiver recognises it by its webhook-id.
func (v Verifier) Verify(header http.Header, body []byte, now time.Time) error {
	switch v.Scheme.style {
	case styleStripe:
		return v.verifyStripe(header, body, now)
	case styleHMAC:
		return v.verifyHMAC(header, body, now)
	case styleStandard:
	}
	return v.verifyStandard(header, body, now)
}

// required returns the value of a header that must be there.
func required(header http.Header, name string) (string, error) {
	if value := header.Get(name); value != "" {
		return value, nil
	}
	return "", &MissingHeaderError{Header: name}
}

func (v Verifier) verifyStandard(header http.Header, body []byte, now time.Time) error {
	id, err := required(header, HeaderID)
	if err != nil {
		return err
	}
	sent, err := required(header, HeaderTimestamp)
	if err != nil {
		return err
	}
	value, err := required(header, HeaderSignature)
	if err != nil {
		return err
	}
	timestamp, err := v.timeOf(sent, now)
	if err != nil {
		return err
	}
	given := strings.Fields(value)
	if len(given) > maxSignatures {
		return fmt.Errorf("%w: it has more than %d signatures", ErrMalformed, maxSignatures)
	}
	m := Message{ID: id, Timestamp: timestamp, Body: body}
	if !v.matchesMAC(m, given) && !v.matchesKey(m, given) {
		return ErrNoMatch
	}
	return nil
}

// matchesMAC reports whether one of the signatures is that of m by one of the
// symmetric secrets. Each secret costs one MAC, however many signatures there
// are.
func (v Verifier) matchesMAC(m Message, given []string) bool {
	var symmetric []Secret
	for _, secret := range v.Secrets {
		if secret.IsSymmetric() {
			symmetric = append(symmetric, secret)
		}
	}
	return anyEqual(given, strings.Fields(Sign(m, symmetric...)))
}

// matchesKey reports whether one of the v1a signatures was made by the holder
// of one of the keys.
func (v Verifier) matchesKey(m Message, given []string) bool {
	keys := v.keys()
	if len(keys) == 0 {
		return false
	}
	signed := append(appendPrefix(nil, m), m.Body...)
	for _, text := range given {
		encoded, ok := strings.CutPrefix(text, v1aPrefix)
		if !ok {
			continue
		}
		mark, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || len(mark) != ed25519.SignatureSize {
			continue
		}
		for _, key := range keys {
			if ed25519.Verify(key.Bytes(), signed, mark) {
				return true
			}
		}
	}
	return false
}

// keys returns the public keys that are not zero, those of Secrets included.
func (v Verifier) keys() []PublicKey {
	var keys []PublicKey
	for _, key := range v.PublicKeys {
		if !key.IsZero() {
			keys = append(keys, key)
		}
	}
	for _, secret := range v.Secrets {
		if secret.IsPrivateKey() {
			keys = append(keys, secret.PublicKey())
		}
	}
	return keys
}

func (v Verifier) verifyStripe(header http.Header, body []byte, now time.Time) error {
	value, err := required(header, HeaderStripe)
	if err != nil {
		return err
	}
	sent, given, err := parseStripe(value)
	if err != nil {
		return err
	}
	timestamp, err := v.timeOf(sent, now)
	if err != nil {
		return err
	}
	_, expected, err := parseStripe(string(v.shared().Append(nil, Message{Timestamp: timestamp, Body: body})))
	if err != nil || !anyEqual(given, expected) {
		return ErrNoMatch
	}
	return nil
}

// parseStripe reads t=…,v1=…: what is under other names is passed over.
func parseStripe(value string) (timestamp string, signatures []string, err error) {
	for part := range strings.SplitSeq(value, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "t":
			if timestamp != "" {
				return "", nil, fmt.Errorf("%w: it has t twice", ErrMalformed)
			}
			timestamp = value
		case "v1":
			signatures = append(signatures, value)
		}
		if len(signatures) > maxSignatures {
			return "", nil, fmt.Errorf("%w: it has more than %d signatures", ErrMalformed, maxSignatures)
		}
	}
	if timestamp == "" || len(signatures) == 0 {
		return "", nil, fmt.Errorf("%w: it lacks t or v1", ErrMalformed)
	}
	return timestamp, signatures, nil
}

func (v Verifier) verifyHMAC(header http.Header, body []byte, now time.Time) error {
	custom := v.Scheme.hmac
	value, err := required(header, custom.header)
	if err != nil {
		return err
	}
	m := Message{Body: body}
	if custom.signs(pieceID) {
		if m.ID, err = required(header, HeaderID); err != nil {
			return err
		}
	}
	if custom.signs(pieceTimestamp) {
		sent, err := required(header, custom.timestampFrom())
		if err != nil {
			return err
		}
		if m.Timestamp, err = v.timeOf(sent, now); err != nil {
			return err
		}
	}
	given := append([]string{value}, header.Values(custom.header+PreviousSuffix)...)
	if len(given) > maxSignatures {
		return fmt.Errorf("%w: there are more than %d signatures", ErrMalformed, maxSignatures)
	}
	if !strings.HasPrefix(value, custom.prefix) {
		return fmt.Errorf("%w: it does not begin with %s", ErrMalformed, custom.prefix)
	}
	signer := v.shared()
	work := signer.take()
	var expected []string
	for i := range signer.secrets {
		expected = append(expected, string(custom.append(nil, work, i, m)))
	}
	if !anyEqual(given, expected) {
		return ErrNoMatch
	}
	return nil
}

// shared returns a Signer with those secrets that the scheme can use.
func (v Verifier) shared() *Signer {
	signer := &Signer{scheme: v.Scheme}
	for _, secret := range v.Secrets {
		if !secret.IsZero() && v.Scheme.takes(secret) == nil {
			signer.secrets = append(signer.secrets, secret)
		}
	}
	return signer
}

// anyEqual reports whether a text of one list is in the other. It compares all
// of them whatever it finds.
func anyEqual(given, expected []string) bool {
	found := false
	for _, text := range given {
		for _, want := range expected {
			found = hmac.Equal([]byte(text), []byte(want)) || found
		}
	}
	return found
}

// timeOf reads a timestamp and checks its age.
func (v Verifier) timeOf(text string, now time.Time) (time.Time, error) {
	timestamp, err := parseTimestamp(text)
	if err != nil {
		return time.Time{}, err
	}
	return timestamp, checkAge(timestamp, now, v.Tolerance)
}

// parseTimestamp reads the one way in which a sender writes a timestamp: as
// decimal digits, without sign or leading zero. So what was read is what was
// signed.
func parseTimestamp(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || len(text) > maxTimestampDigits || strconv.FormatInt(seconds, 10) != text {
		return time.Time{}, fmt.Errorf("%w: not a count of seconds since 1970", ErrTimestamp)
	}
	return time.Unix(seconds, 0), nil
}

func checkAge(timestamp, now time.Time, tolerance time.Duration) error {
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	// The sender drops the part of a second; so does this end.
	age := now.Truncate(time.Second).Sub(timestamp)
	switch {
	case age > tolerance:
		return fmt.Errorf("%w: by more than %v", ErrTooOld, tolerance)
	case age < -tolerance: // not -age: Sub stops at the least Duration, which has no opposite
		return fmt.Errorf("%w: by more than %v", ErrTooNew, tolerance)
	}
	return nil
}

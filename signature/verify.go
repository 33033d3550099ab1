package signature

import (
	"crypto/subtle"
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

// maxTimestampDigits bounds a timestamp to the year 33658.
const maxTimestampDigits = 12

// Why a webhook is not to be believed. Verify returns one of these, with more
// detail around it, or a *MissingHeaderError.
var (
	// ErrTimestamp: webhook-timestamp is not a count of seconds in decimal.
	ErrTimestamp = errors.New("malformed webhook-timestamp")
	// ErrTooOld: the timestamp is further in the past than is tolerated. The
	// request may be a replay, or one of the two clocks is wrong.
	ErrTooOld = errors.New("webhook-timestamp is too old")
	// ErrTooNew: the timestamp is further in the future than is tolerated.
	ErrTooNew = errors.New("webhook-timestamp is too new")
	// ErrNoMatch: no signature in the header is that of the message by any of
	// the secrets. Something was altered, or another secret was used.
	ErrNoMatch = errors.New("no matching webhook-signature")
)

// MissingHeaderError says that a header without which nothing can be verified
// is absent or empty.
type MissingHeaderError struct {
	Header string // HeaderID, HeaderTimestamp or HeaderSignature
}

// Error implements error.
func (e *MissingHeaderError) Error() string {
	return "header " + e.Header + " is missing"
}

// Verify checks that the holder of one of the secrets signed body with the
// three headers in header, within tolerance of now. A tolerance of 0 means
// DefaultTolerance. The body must be as it was received, byte for byte.
//
// It returns nil if so; otherwise a *MissingHeaderError, or an error that
// wraps ErrTimestamp, ErrTooOld, ErrTooNew or ErrNoMatch. Comparing takes the
// same time however much of a signature is right. What Verify does not do is
// remember: within the tolerance a request can be played back, and the
// receiver recognises it by its webhook-id.
func Verify(secrets []Secret, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	id, sent, value := header.Get(keyID), header.Get(keyTimestamp), header.Get(keySignature)
	switch {
	case id == "":
		return &MissingHeaderError{Header: HeaderID}
	case sent == "":
		return &MissingHeaderError{Header: HeaderTimestamp}
	case value == "":
		return &MissingHeaderError{Header: HeaderSignature}
	}
	timestamp, err := parseTimestamp(sent)
	if err != nil {
		return err
	}
	if err := checkAge(timestamp, now, tolerance); err != nil {
		return err
	}
	if !matches(secrets, Message{ID: id, Timestamp: timestamp, Body: body}, value) {
		return ErrNoMatch
	}
	return nil
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

// matches reports whether one of the signatures in the header's value is that
// of m by one of the secrets. Each secret costs one MAC, however many
// signatures there are.
func matches(secrets []Secret, m Message, value string) bool {
	expected := strings.Fields(Sign(m, secrets...))
	found := 0
	for given := range strings.SplitSeq(value, " ") {
		for _, want := range expected {
			found |= subtle.ConstantTimeCompare([]byte(given), []byte(want))
		}
	}
	return found == 1
}

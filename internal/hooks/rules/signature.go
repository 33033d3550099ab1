package rules

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what senders sign with is theirs to choose
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
	"github.com/fanfare-dev/fanfare/signature"
)

// DefaultTolerance is how far a timestamp may be from now, either way.
const DefaultTolerance = 5 * time.Minute

// maxSignatures bounds the signatures of a header that are looked at.
const maxSignatures = 32

var errNoSecret = errors.New("signature validation secret can not be empty")

// equal compares in a time that depends on the lengths only.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// hashOf returns the hash function of an algorithm's name.
func hashOf(algorithm string) func() hash.Hash {
	switch algorithm {
	case "sha1":
		return sha1.New
	case "sha224":
		return sha256.New224
	case "sha384":
		return sha512.New384
	case "sha512":
		return sha512.New
	}
	return sha256.New
}

func mac(algorithm, secret string, parts ...[]byte) []byte {
	h := hmac.New(hashOf(algorithm), []byte(secret))
	for _, part := range parts {
		h.Write(part) // never fails
	}
	return h.Sum(nil)
}

// encode writes a MAC as a sender would.
func encode(encoding string, sum []byte) string {
	switch encoding {
	case "base64":
		return base64.StdEncoding.EncodeToString(sum)
	case "base64url":
		return base64.RawURLEncoding.EncodeToString(sum)
	}
	return hex.EncodeToString(sum)
}

// payloadHMAC tells the algorithm of the match types that upstream has.
func payloadHMAC(matchType string) (algorithm string, deprecated, ok bool) {
	switch matchType {
	case spec.MatchSHA1, spec.MatchSHA256, spec.MatchSHA512:
		return strings.TrimPrefix(matchType, "payload-hmac-"), false, true
	case spec.MatchHashSHA1, spec.MatchHashSHA256, spec.MatchHashSHA512:
		return strings.TrimPrefix(matchType, "payload-hash-"), true, true
	}
	return "", false, false
}

// given returns the signatures in a parameter: with a comma in it, those that
// have the prefix; without, the whole, whose prefix may be missing.
func given(value, prefix string) []string {
	if !strings.Contains(value, ",") {
		return []string{strings.TrimPrefix(value, prefix)}
	}
	var found []string
	for part := range strings.SplitSeq(value, ",") {
		if text, ok := strings.CutPrefix(part, prefix); ok && len(found) < maxSignatures {
			found = append(found, text)
		}
	}
	return found
}

// bodyHMAC is payload-hmac-*: an HMAC of the body.
func bodyHMAC(m *spec.Match, algorithm string, deprecated bool) comparer {
	secrets := m.AllSecrets()
	return func(in Input, value string) (bool, error) {
		if deprecated && in.Logf != nil {
			in.Logf("warn: use of deprecated option %s; use payload-hmac-%s instead", m.Type, algorithm)
		}
		if len(secrets) == 0 {
			return false, errNoSecret
		}
		signed := [][]byte{in.Request.Body}
		if !anyEqual(given(value, algorithm+"="), algorithm, m.Encoding, secrets, signed) {
			return false, &SignatureError{Reason: "invalid payload signature"}
		}
		return true, nil
	}
}

// anyEqual reports whether one of the signatures is that of the parts by one
// of the secrets. It looks at all of them.
func anyEqual(signatures []string, algorithm, encoding string, secrets []string, parts [][]byte) bool {
	found := false
	for _, secret := range secrets {
		want := encode(encoding, mac(algorithm, secret, parts...))
		for _, text := range signatures {
			if encoding == "base64url" {
				text = strings.TrimRight(text, "=")
			}
			found = equal(text, want) || found
		}
	}
	return found
}

// configuredHMAC is the hmac rule: what is signed, how it is written and where
// the time is are settings.
func configuredHMAC(m *spec.Match) comparer {
	secrets := m.AllSecrets()
	tolerance, _ := spec.Duration(m.Tolerance) // checked when the file was read
	return func(in Input, value string) (bool, error) {
		if len(secrets) == 0 {
			return false, errNoSecret
		}
		sent, err := optional(in.Request, m.Timestamp)
		if err != nil {
			return false, err
		}
		id, err := optional(in.Request, m.MessageID)
		if err != nil {
			return false, err
		}
		signatures := given(value, m.Prefix)
		parts := signedContent(cmp.Or(m.SignedContent, "{body}"), in.Request.Body, sent, id)
		if !anyEqual(signatures, cmp.Or(m.Algorithm, "sha256"), m.Encoding, secrets, parts) {
			return false, &SignatureError{Reason: "invalid payload signature"}
		}
		if m.Timestamp == nil {
			return true, nil
		}
		return recent(sent, in.Now, tolerance)
	}
}

// optional is the value of arg, or nothing if there is no arg. A list such as
// Stripe's `t=1700000000,v1=…` has the value of t in it, if the name ends so:
// name: stripe-signature#t.
func optional(r *request.Request, arg *spec.Argument) (string, error) {
	if arg == nil {
		return "", nil
	}
	plain := *arg
	name, key, isList := strings.Cut(arg.Name, "#")
	if !isList {
		return r.Value(plain)
	}
	plain.Name = name
	list, err := r.Value(plain)
	if err != nil {
		return "", err
	}
	for part := range strings.SplitSeq(list, ",") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(part), key+"="); ok {
			return value, nil
		}
	}
	return "", &request.NodeError{Name: arg.Name}
}

// signedContent puts the values in the places of the template. What is in a
// value is never a place.
func signedContent(template string, body []byte, timestamp, id string) [][]byte {
	var parts [][]byte
	for template != "" {
		text, rest, found := strings.Cut(template, "{")
		parts = append(parts, []byte(text))
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		switch {
		case closed && name == "body":
			parts = append(parts, body)
		case closed && name == "timestamp":
			parts = append(parts, []byte(timestamp))
		case closed && name == "id":
			parts = append(parts, []byte(id))
		default: // not a place
			parts = append(parts, []byte("{"))
			after = rest
		}
		template = after
	}
	return parts
}

// timestamp is the timestamp rule: the parameter is a time that is not far from
// now.
func timestamp(m *spec.Match) comparer {
	tolerance, _ := spec.Duration(m.Tolerance) // checked when the file was read
	return func(in Input, value string) (bool, error) { return recent(value, in.Now, tolerance) }
}

// recent reports whether sent is a time within tolerance of now. It fails with
// a *SignatureError otherwise.
func recent(sent string, now time.Time, tolerance time.Duration) (bool, error) {
	at, ok := parseTime(sent)
	if !ok {
		return false, &SignatureError{Reason: "timestamp is not a time"}
	}
	return within(at, now, cmp.Or(tolerance, DefaultTolerance))
}

func within(at, now time.Time, tolerance time.Duration) (bool, error) {
	if age := now.Sub(at); age > tolerance || age < -tolerance {
		return false, &SignatureError{Reason: "outdated request: its timestamp is too far from now"}
	}
	return true, nil
}

// parseTime reads seconds or milliseconds since 1970, RFC 3339, or the formats
// of HTTP's Date header.
func parseTime(text string) (time.Time, bool) {
	const firstMillisecond = 100_000_000_000 // as seconds, the year 5138
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n >= firstMillisecond {
			return time.UnixMilli(n), true
		}
		return time.Unix(n, 0), n > 0
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, true
	}
	at, err := http.ParseTime(text)
	return at, err == nil
}

// scalr is scalr-signature: an HMAC-SHA1 of body and Date, and a fresh Date.
func scalr(m *spec.Match) matcher {
	const dateFormat = "Mon 02 Jan 2006 15:04:05 MST"
	const tolerance = 300 * time.Second
	return func(in Input) (bool, error) {
		text, okSignature := in.Request.Header["X-Signature"].(string)
		date, okDate := in.Request.Header["Date"].(string)
		if !okSignature || !okDate {
			return false, nil
		}
		if m.Secret == "" {
			return false, errNoSecret
		}
		if want := mac("sha1", m.Secret, in.Request.Body, []byte(date)); !equal(text, hex.EncodeToString(want)) {
			return false, &SignatureError{Reason: "invalid payload signature"}
		}
		at, err := time.Parse(dateFormat, date)
		if err != nil {
			return false, err
		}
		return within(at, in.Now, tolerance)
	}
}

// standardWebhooks is the standard-webhooks rule. Missing headers are as any
// other parameter that is not there.
func standardWebhooks(m *spec.Match) matcher {
	tolerance, _ := spec.Duration(m.Tolerance) // checked when the file was read
	var secrets []signature.Secret
	var problem error
	for _, text := range m.AllSecrets() {
		secret, err := signature.ParseSecret(text)
		problem = cmp.Or(problem, err)
		secrets = append(secrets, secret)
	}
	return func(in Input) (bool, error) {
		if problem != nil {
			return false, fmt.Errorf("reading secret: %w", problem)
		}
		err := signature.Verify(secrets, in.Request.Raw, in.Request.Body, in.Now, tolerance)
		if missing, ok := errors.AsType[*signature.MissingHeaderError](err); ok {
			return false, &request.NodeError{Name: missing.Header}
		}
		if err != nil {
			return false, &SignatureError{Reason: err.Error()}
		}
		return true, nil
	}
}

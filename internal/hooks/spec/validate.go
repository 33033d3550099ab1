package spec

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// Matches yields all matches below the rule, which may be nil.
func (r *Rule) Matches() iter.Seq[*Match] {
	return func(yield func(*Match) bool) { r.each(yield) }
}

func (r *Rule) each(yield func(*Match) bool) bool {
	if r == nil {
		return true
	}
	for _, rules := range [][]Rule{r.And, r.Or} {
		for i := range rules {
			if !rules[i].each(yield) {
				return false
			}
		}
	}
	if r.Match != nil && !yield(r.Match) {
		return false
	}
	return r.Not.each(yield)
}

// Validate looks at the keys that upstream does not know. Its errors name the
// key.
func (h *Hook) Validate() error {
	var problems []error
	note := func(key string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	_, err := Duration(h.Timeout)
	note("command-timeout", err)
	_, err = Duration(h.DeduplicateWindow)
	note("deduplicate-window", err)
	note("max-concurrency", atLeastZero(int64(h.MaxConcurrency)))
	note("max-body-bytes", atLeastZero(h.MaxBodyBytes))
	if h.MaxQueue != nil {
		note("max-queue", atLeastZero(int64(*h.MaxQueue)))
		if h.MaxConcurrency == 0 {
			note("max-queue", errors.New("nothing ever waits without max-concurrency"))
		}
	}
	for code, status := range h.ExitCodes {
		note("exit-code-http-response-codes", checkExitCode(code, status))
	}
	for match := range h.Rule.Matches() {
		note("trigger-rule: match", match.validate())
	}
	return errors.Join(problems...)
}

func atLeastZero(n int64) error {
	if n < 0 {
		return fmt.Errorf("want 0 or more, got %d", n)
	}
	return nil
}

func checkExitCode(code string, status int) error {
	if n, err := strconv.Atoi(code); err != nil || n < 0 || n > 255 {
		return fmt.Errorf("want exit codes of 0 to 255, got %q", code)
	}
	const first = 200 // a 1xx is not an answer
	if status < first || !KnownStatus(status) {
		return fmt.Errorf("want a known status of 200 or more for exit code %s, got %d", code, status)
	}
	return nil
}

func (m *Match) validate() error {
	if _, err := Duration(m.Tolerance); err != nil {
		return fmt.Errorf("tolerance: %w", err)
	}
	if err := checkEncoding(m.Encoding); err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	switch m.Type {
	case MatchStandardWebhooks:
		return m.validateStandard()
	case MatchHMAC:
		return m.validateHMAC()
	case MatchCIDR:
		if len(strings.Fields(m.IPRange)) == 0 {
			return errors.New("ip-range: a cidr rule needs at least one")
		}
		for text := range strings.FieldsSeq(m.IPRange) {
			if _, err := Prefix(text); err != nil {
				return fmt.Errorf("ip-range: %w", err)
			}
		}
	}
	return nil
}

func (m *Match) validateStandard() error {
	if m.Secret == "" && len(m.Secrets) == 0 && m.SecretFile == "" {
		return errors.New("secret: a standard-webhooks rule needs one, or secrets, or secret-file")
	}
	for _, text := range m.AllSecrets() {
		if _, err := signature.ParseSecret(text); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
	}
	return nil
}

func (m *Match) validateHMAC() error {
	switch m.Algorithm {
	case "", "sha1", "sha224", "sha256", "sha384", "sha512":
	default:
		return fmt.Errorf("algorithm: want sha1, sha224, sha256, sha384 or sha512, got %q", m.Algorithm)
	}
	if m.Secret == "" && len(m.Secrets) == 0 && m.SecretFile == "" {
		return errors.New("secret: an hmac rule needs one, or secrets, or secret-file")
	}
	if m.SignedContent != "" && !strings.Contains(m.SignedContent, "{body}") {
		return errors.New("signed-content: without {body} in it the body is not protected")
	}
	for placeholder, from := range map[string]*Argument{"{timestamp}": m.Timestamp, "{id}": m.MessageID} {
		if strings.Contains(m.SignedContent, placeholder) && from == nil {
			return fmt.Errorf("signed-content: it has %s, but nothing says where that is found", placeholder)
		}
	}
	if m.Timestamp != nil && !strings.Contains(m.SignedContent, "{timestamp}") {
		return errors.New("timestamp: it protects nothing unless {timestamp} is in signed-content")
	}
	return nil
}

func checkEncoding(name string) error {
	switch name {
	case "", "hex", "base64", "base64url":
		return nil
	}
	return fmt.Errorf("want hex, base64 or base64url, got %q", name)
}

// AllSecrets returns every secret the match accepts, none of them empty.
func (m *Match) AllSecrets() []string {
	var all []string
	for _, text := range append([]string{m.Secret}, m.Secrets...) {
		if text != "" {
			all = append(all, text)
		}
	}
	return all
}

// Duration reads 90s, 5m or 1h30m; a bare number is seconds, and nothing is 0.
func Duration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want a duration such as 30s or 5m, got %q", text)
	}
	return d, nil
}

// Prefix reads a CIDR range or a single address, which is a range of one:
// /32 of IPv4, /128 of IPv6.
func Prefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("want an address or a CIDR range, got %q", text)
	}
	return prefix.Masked(), nil
}

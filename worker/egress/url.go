package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// MaxURLBytes bounds the URL of an endpoint.
const MaxURLBytes = 2048

// Bounds of a host name in bytes, as DNS has them (RFC 1035).
const (
	maxNameBytes  = 253
	maxLabelBytes = 63
)

// ErrURL is wrapped by every error of CheckURL.
var ErrURL = errors.New("invalid endpoint URL")

// CheckURL returns nil if raw may be the URL of an endpoint. It looks nothing
// up, so that a name may still turn out to stand for an address that is denied
// when it is dialled. The error wraps ErrURL, and a *DeniedError if the URL is
// well-formed and it is the policy that refuses it. It says what is wrong in
// words for the person who wrote the URL.
//
// It accepts less than the net/url package: an absolute http or https URL
// without user information or fragment, whose host is a plain ASCII name, an
// IPv4 address in four decimal parts, or an IPv6 address in brackets.
func (p Policy) CheckURL(raw string) error {
	if err := p.checkURL(raw); err != nil {
		return fmt.Errorf("%w: %w", ErrURL, err)
	}
	return nil
}

func (p Policy) checkURL(raw string) error {
	if len(raw) > MaxURLBytes {
		return fmt.Errorf("it is longer than %d bytes", MaxURLBytes)
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return errors.New("it contains a space, a backslash or a control character")
	}
	u, err := url.Parse(raw)
	if err != nil {
		// Of url.Error only the cause: the URL itself may hold secrets.
		return fmt.Errorf("it cannot be parsed: %w", parseCause(err))
	}
	if err := p.checkScheme(u.Scheme); err != nil {
		return err
	}
	switch {
	case u.Hostname() == "":
		return errors.New("it has no host")
	case u.User != nil:
		return errors.New("it contains a user name or password; use a header instead")
	case strings.Contains(raw, "#"):
		return errors.New("it has a fragment (#…), which is never sent")
	}
	if err := checkPort(u); err != nil {
		return err
	}
	if err := p.checkHost(u); err != nil {
		return err
	}
	return p.CheckHost(u.Hostname())
}

// parseCause returns what url.Parse complains about, without the URL.
func parseCause(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// checkScheme refuses schemes other than https, and http unless allowed.
func (p Policy) checkScheme(scheme string) error {
	switch scheme {
	case "https":
		return nil
	case "http":
		if p.AllowHTTP {
			return nil
		}
		return &DeniedError{Target: "http://", Reason: "endpoints must use https"}
	case "":
		return errors.New("it does not begin with https://")
	}
	allowed := "https"
	if p.AllowHTTP {
		allowed = "http or https"
	}
	return fmt.Errorf("its scheme is %q, not %s", scheme, allowed)
}

func checkPort(u *url.URL) error {
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return errors.New("its port is empty")
		}
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return errors.New("its port is not between 1 and 65535")
	}
	return nil
}

// checkHost judges addresses by the policy and names by their form.
func (p Policy) checkHost(u *url.URL) error {
	host := u.Hostname()
	if strings.HasPrefix(u.Host, "[") {
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.Is6() {
			return errors.New("what is in [brackets] is not an IPv6 address")
		}
		return p.CheckAddr(addr)
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		return p.CheckAddr(addr)
	}
	if err := checkName(host); err != nil {
		return err
	}
	if host = strings.ToLower(host); host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return p.checkLocalhost(host)
	}
	return nil
}

// checkLocalhost judges the names that never leave this machine (RFC 6761).
func (p Policy) checkLocalhost(name string) error {
	v4 := p.CheckAddr(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	v6 := p.CheckAddr(netip.IPv6Loopback())
	if v4 != nil && v6 != nil {
		return &DeniedError{Target: name, Reason: "it is loopback"}
	}
	return nil
}

// checkName refuses names that DNS cannot hold, and those that some resolver
// takes for an address: the WHATWG rule is that a name whose last label is a
// number is one, as in 127.1, 0x7f.0.0.1, 0177.0.0.1 and 2130706433.
func checkName(name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("its host is longer than %d bytes", maxNameBytes)
	}
	if strings.HasSuffix(name, ".") {
		return errors.New("its host ends with a full stop")
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
		last = label
	}
	if isNumber(last) {
		return errors.New("its host is a number but not an IPv4 address in four decimal parts")
	}
	return nil
}

// checkLabel allows the underscore, which names of containers have.
func checkLabel(label string) error {
	if label == "" {
		return errors.New("its host has an empty part between full stops")
	}
	if len(label) > maxLabelBytes {
		return fmt.Errorf("a part of its host is longer than %d bytes", maxLabelBytes)
	}
	if strings.ContainsFunc(label, func(r rune) bool { return !isNameRune(r) }) {
		return errors.New("its host has characters other than a-z, 0-9, - and _; " +
			"write an internationalised name in its ASCII form, xn--…")
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return errors.New("a part of its host begins or ends with a hyphen")
	}
	return nil
}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
}

// isNumber reports whether some C library reads label as a number: decimal,
// octal or hexadecimal, whatever its size. 0x alone is zero to some.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(strings.ToLower(label), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

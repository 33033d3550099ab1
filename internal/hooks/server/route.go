package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/fanfare-dev/fanfare/internal/hooks/rules"
)

// route finds the id in a path.
type route struct{ pattern *regexp.Regexp }

// newRoute returns the route /prefix/{id}. In the prefix, {name} is any text
// without a slash, and {name:regexp} what the expression says.
func newRoute(prefix string) (route, error) {
	var pattern strings.Builder
	pattern.WriteString("^/")
	for rest := prefix; rest != ""; {
		text, after, found := strings.Cut(rest, "{")
		pattern.WriteString(regexp.QuoteMeta(text))
		if !found {
			break
		}
		name, following, closed := strings.Cut(after, "}")
		if !closed {
			return route{}, fmt.Errorf("a { without a } in %q", prefix)
		}
		_, expression, given := strings.Cut(name, ":")
		if !given {
			expression = "[^/]+"
		}
		pattern.WriteString("(?:" + expression + ")")
		rest = following
	}
	if prefix != "" {
		pattern.WriteString("/")
	}
	compiled, err := regexp.Compile(pattern.String() + "(?P<id>.*)$")
	if err != nil {
		return route{}, err
	}
	return route{compiled}, nil
}

// id returns the id that is in the path.
func (r route) id(path string) (string, bool) {
	match := r.pattern.FindStringSubmatch(path)
	if match == nil {
		return "", false
	}
	return match[r.pattern.SubexpIndex("id")], true
}

// cleanPath returns the canonical form of a path: no empty, . or .. segments.
// A slash at the end stays.
func cleanPath(dirty string) string {
	if dirty == "" {
		return "/"
	}
	clean := path.Clean("/" + dirty)
	if strings.HasSuffix(dirty, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// redirect sends the client to the canonical path, with the same query.
func redirect(w http.ResponseWriter, clean, query string) {
	target := url.URL{Path: clean, RawQuery: query}
	w.Header().Set("Location", target.String())
	w.WriteHeader(http.StatusMovedPermanently)
}

// clientOf returns who sent a request: the peer, or, if that is a trusted
// proxy, the last address in X-Forwarded-For that is none. A peer on a Unix
// socket is trusted as soon as there are trusted proxies: it is on this
// machine.
func clientOf(r *http.Request, trusted []netip.Prefix) netip.Addr {
	var client netip.Addr
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		client = peer.Addr().Unmap()
	}
	if len(trusted) == 0 || client.IsValid() && !rules.Contains(trusted, client) {
		return client
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, entry := range slices.Backward(hops) {
		hop := strings.TrimSpace(entry)
		if hop == "" && len(hops) == 1 {
			return client // there is no such header
		}
		addr, err := netip.ParseAddr(hop)
		if withPort, portErr := netip.ParseAddrPort(hop); portErr == nil {
			addr, err = withPort.Addr(), nil
		}
		if err != nil {
			return netip.Addr{} // nobody knows
		}
		client = addr.Unmap()
		if !rules.Contains(trusted, client) {
			return client
		}
	}
	return client
}

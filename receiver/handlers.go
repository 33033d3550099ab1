package receiver

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Handler handles one event. ctx ends with the request, or with the lease of the
// event's claim: it must not go on after that. On an error the sender is to send
// the event again; an *Answer says how to answer.
type Handler func(ctx context.Context, e *Event) error

// handlers finds the handler for an event.
type handlers struct {
	routes   []route // the most specific first
	fallback Handler
}

// route is the events of a pattern and a version.
type route struct {
	pattern string
	types   *regexp.Regexp
	version string // empty: every one
	handler Handler
}

// add adds a route, or replaces that of the same pattern and version.
func (h *handlers) add(pattern, version string, handler Handler) error {
	types, err := compile(pattern)
	if err != nil {
		return err
	}
	h.routes = slices.DeleteFunc(h.routes, func(r route) bool { return r.pattern == pattern && r.version == version })
	h.routes = append(h.routes, route{pattern, types, version, handler})
	slices.SortStableFunc(h.routes, func(a, b route) int {
		return cmp.Or(cmp.Compare(wildness(a.pattern), wildness(b.pattern)), -cmp.Compare(len(a.pattern), len(b.pattern)),
			-cmp.Compare(len(a.version), len(b.version)))
	})
	return nil
}

// wildness orders patterns: what names a type, what leaves a segment open, what
// leaves any number open.
func wildness(pattern string) int {
	switch {
	case pattern == "*" || pattern == "**":
		return 3
	case strings.HasSuffix(pattern, "**"):
		return 2
	case strings.Contains(pattern, "*"):
		return 1
	}
	return 0
}

// find returns the handler of an event, or nil.
func (h *handlers) find(e *Event) Handler {
	for _, r := range h.routes {
		if r.types.MatchString(e.Type) && (r.version == "" || r.version == e.Version) {
			return r.handler
		}
	}
	return h.fallback
}

// compile reads a pattern as a subscription has it: an exact type; `*` for a
// segment; `**` at the end for one or more; `*` alone for every type.
func compile(pattern string) (*regexp.Regexp, error) {
	if pattern == "*" || pattern == "**" {
		return regexp.Compile(`.`)
	}
	var expression strings.Builder
	expression.WriteString("^")
	segments := strings.Split(pattern, ".")
	for i, segment := range segments {
		if i > 0 {
			expression.WriteString(`\.`)
		}
		switch {
		case segment == "*":
			expression.WriteString(`[^.]+`)
		case segment == "**" && i == len(segments)-1:
			expression.WriteString(`.+`)
		case segment == "" || strings.Contains(segment, "*"):
			return nil, fmt.Errorf("receiver: pattern %q: a segment is a name, *, or ** at the end", pattern)
		default:
			expression.WriteString(regexp.QuoteMeta(segment))
		}
	}
	expression.WriteString("$")
	return regexp.Compile(expression.String())
}

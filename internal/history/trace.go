package history

import (
	"strings"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// traceOf returns the id of the trace in which an event was published, in 32
// hexadecimal digits, or nothing if its producer gave none. It is in the
// extension attribute `traceparent` (CloudEvents, distributed tracing), which
// has the form of the W3C's Trace Context: version-trace-parent-flags.
func traceOf(event *fanfarev1.Event) string {
	version, rest, _ := strings.Cut(event.GetExtensions()["traceparent"], "-")
	trace, rest, _ := strings.Cut(rest, "-")
	parent, _, found := strings.Cut(rest, "-")
	if !found || !isHex(version, 2) || version == "ff" || !isHex(trace, 32) || !isHex(parent, 16) {
		return ""
	}
	return trace
}

// isHex reports whether text is a number of so many lower-case digits, other
// than zero unless it has only two.
func isHex(text string, digits int) bool {
	return len(text) == digits && strings.Trim(text, "0123456789abcdef") == "" &&
		(digits == 2 || strings.Trim(text, "0") != "")
}

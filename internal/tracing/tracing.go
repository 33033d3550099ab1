// Package tracing keeps the trace context of an event: in the extension
// attributes that CloudEvents has for it
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md),
// in the format of W3C Trace Context (https://www.w3.org/TR/trace-context/).
package tracing

import "strings"

// The attributes, which are also the names of the headers.
const (
	Parent = "traceparent"
	State  = "tracestate"
)

// Limits of the specification.
const (
	parentBytes = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	// MaxStateBytes is what one must be able to pass on.
	MaxStateBytes = 512
)

// Of returns the trace context in an event's extension attributes; empty if
// there is none, or what is there is none.
func Of(extensions map[string]string) (parent, state string) {
	parent = extensions[Parent]
	if !IsParent(parent) {
		return "", ""
	}
	if state = extensions[State]; !IsState(state) {
		state = ""
	}
	return parent, state
}

// IsParent reports whether text is a traceparent. Of versions above 00 there
// may be more behind what is known, in so many bytes as State may have.
func IsParent(text string) bool {
	if len(text) < parentBytes || len(text) > MaxStateBytes {
		return false
	}
	if version := text[:2]; version == "ff" || version == "00" && len(text) > parentBytes {
		return false
	}
	if len(text) > parentBytes && (text[parentBytes] != '-' || !visible(text)) {
		return false
	}
	for i, c := range []byte(text[:parentBytes]) {
		switch i {
		case 2, 35, 52:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdef", rune(c)) {
				return false
			}
		}
	}
	return strings.Trim(text[3:35], "0") != "" && strings.Trim(text[36:52], "0") != ""
}

// IsState reports whether text may be passed on as a tracestate.
func IsState(text string) bool {
	return text != "" && len(text) <= MaxStateBytes && visible(text) && strings.Contains(text, "=")
}

func visible(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

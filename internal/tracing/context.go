package tracing

import (
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

// Remote returns the span that a trace context stands for, in whatever process
// it was; an invalid one if it is none.
func Remote(parent, state string) trace.SpanContext {
	if !IsParent(parent) {
		return trace.SpanContext{}
	}
	traceID, traceErr := trace.TraceIDFromHex(parent[3:35])
	spanID, spanErr := trace.SpanIDFromHex(parent[36:52])
	if traceErr != nil || spanErr != nil {
		return trace.SpanContext{}
	}
	config := trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, Remote: true}
	if IsSampled(parent) {
		config.TraceFlags = trace.FlagsSampled
	}
	if parsed, err := trace.ParseTraceState(state); err == nil {
		config.TraceState = parsed
	}
	return trace.NewSpanContext(config)
}

// Parse returns what Remote does, without a state.
func Parse(parent string) trace.SpanContext { return Remote(parent, "") }

// Format returns a span as a traceparent; empty if it is invalid.
func Format(span trace.SpanContext) string {
	if !span.IsValid() {
		return ""
	}
	return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String()
}

// IsSampled reports whether a traceparent says that its trace is recorded.
func IsSampled(parent string) bool {
	if !IsParent(parent) {
		return false
	}
	switch last := parent[parentBytes-1]; last { // the lowest bit of the flags
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	}
	return false
}

// extensionsField is the number of fanfare.v1.Event.extensions.
const extensionsField = 11

// InEvent returns the trace context in the extension attributes of a
// fanfare.v1.Event in its encoding, as Of does, and decodes nothing else of it:
// who passes events on may look into each.
func InEvent(event []byte) (parent, state string) {
	for len(event) > 0 {
		number, kind, n := protowire.ConsumeTag(event)
		if n < 0 {
			return "", ""
		}
		event = event[n:]
		if number != extensionsField || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, event); n < 0 {
				return "", ""
			}
			event = event[n:]
			continue
		}
		entry, n := protowire.ConsumeBytes(event)
		if n < 0 {
			return "", ""
		}
		event = event[n:]
		key, value, ok := mapEntry(entry)
		switch {
		case !ok:
			return "", ""
		case string(key) == Parent:
			parent = string(value)
		case string(key) == State:
			state = string(value)
		}
	}
	if !IsParent(parent) {
		return "", ""
	}
	if !IsState(state) {
		state = ""
	}
	return parent, state
}

// mapEntry reads an entry of a map from strings to strings.
func mapEntry(entry []byte) (key, value []byte, ok bool) {
	const last = 2              // of the fields: 1 is the key, 2 the value
	var fields [last + 1][]byte // by number
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 {
			return nil, nil, false
		}
		entry = entry[n:]
		if n = protowire.ConsumeFieldValue(number, kind, entry); n < 0 {
			return nil, nil, false
		}
		if kind == protowire.BytesType && number <= last {
			fields[number], _ = protowire.ConsumeBytes(entry)
		}
		entry = entry[n:]
	}
	return fields[1], fields[2], true
}

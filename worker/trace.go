package worker

import (
	"net/http"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// traceOf returns the headers of the trace context that an event was published
// with; nil if there is none. The receiver's work then belongs to the
// producer's trace.
func traceOf(e *fanfarev1.Event) http.Header {
	parent, state := tracing.Of(e.GetExtensions())
	if parent == "" {
		return nil
	}
	header := http.Header{"Traceparent": {parent}}
	if state != "" {
		header["Tracestate"] = []string{state}
	}
	return header
}

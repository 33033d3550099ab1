package worker

import (
	"net/http"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// setTrace passes on the trace context that an event was published with, if it
// is one: the receiver's work then belongs to the producer's trace.
func setTrace(header http.Header, e *fanfarev1.Event) {
	parent, state := tracing.Of(e.GetExtensions())
	if parent == "" {
		return
	}
	header["Traceparent"] = []string{parent}
	if state != "" {
		header["Tracestate"] = []string{state}
	}
}

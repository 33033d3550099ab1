package serve

import (
	"context"
	"maps"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// withTrace gives events the trace context of the call that publishes them,
// but for those that bring their own. It changes none in place.
func withTrace(ctx context.Context, events []*fanfarev1.Event) []*fanfarev1.Event {
	called := make(map[string]string)
	for _, name := range []string{tracing.Parent, tracing.State} {
		if values := metadata.ValueFromIncomingContext(ctx, name); len(values) == 1 {
			called[name] = values[0]
		}
	}
	parent, state := tracing.Of(called)
	if parent == "" {
		return events
	}
	traced := make([]*fanfarev1.Event, len(events))
	for i, event := range events {
		if _, own := event.GetExtensions()[tracing.Parent]; own || event == nil {
			traced[i] = event
			continue
		}
		extensions := maps.Clone(event.GetExtensions())
		if extensions == nil {
			extensions = make(map[string]string)
		}
		extensions[tracing.Parent] = parent
		delete(extensions, tracing.State)
		if state != "" {
			extensions[tracing.State] = state
		}
		traced[i] = proto.CloneOf(event)
		traced[i].Extensions = extensions
	}
	return traced
}

package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/trace"
)

// makeLoggers makes the process's loggers: repeats are counted before anything
// is written or sent.
func (t *Telemetry) makeLoggers(to slog.Handler) {
	if to == nil {
		to = slog.DiscardHandler
	}
	written := slog.Handler(tracedHandler{to})
	t.own = slog.New(limitRepeats(written, to.Enabled))
	all := written
	if t.logs != nil {
		all = slog.NewMultiHandler(written, plainHandler{otelslog.NewHandler(scope, otelslog.WithLoggerProvider(t.logs))})
	}
	t.logger = slog.New(limitRepeats(all, to.Enabled))
}

// tracedHandler writes along in which span something was logged. What is sent
// has it anyway.
type tracedHandler struct{ slog.Handler }

func (h tracedHandler) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record = record.Clone()
		record.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h tracedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return tracedHandler{h.Handler.WithAttrs(attrs)}
}

func (h tracedHandler) WithGroup(name string) slog.Handler {
	return tracedHandler{h.Handler.WithGroup(name)}
}

package embedded

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// harmless reports whether a message says nothing that anybody could use.
func harmless(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.":
		return true // there is no port
	case "Failed to detect schema version", "failed to update storage version":
		return true // a new member, before its first commit; etcd tries again
	case "failed to update cluster version":
		return true // stopped while doing so; etcd does it at the next start
	case "failed to apply request":
		return true // whoever made it is told, and knows whether that matters
	}
	// A new member campaigns before it has taken note of itself, and then again.
	return strings.Contains(message, "cannot campaign at term")
}

// zapLogger returns the logger that etcd wants, writing to ours. Where etcd
// would exit it panics instead, so that it can be told where and why.
func zapLogger(logger *slog.Logger) *zap.Logger {
	return zap.New(&slogCore{handler: logger.Handler()}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// slogCore passes what zap logs on to slog, from warnings upwards.
type slogCore struct {
	handler slog.Handler
}

// Enabled implements zapcore.Core.
func (c *slogCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{handler: c.handler.WithAttrs(attrs(fields))}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(entry.Level) || harmless(entry.Message) {
		return checked
	}
	return checked.AddCore(entry, c)
}

// Write implements zapcore.Core.
func (c *slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if entry.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	ctx := context.Background() // zap has none
	if !c.handler.Enabled(ctx, level) {
		return nil
	}
	record := slog.NewRecord(entry.Time, level, "etcd: "+entry.Message, 0)
	record.AddAttrs(attrs(fields)...)
	return c.handler.Handle(ctx, record)
}

// Sync implements zapcore.Core.
func (c *slogCore) Sync() error {
	return nil
}

func attrs(fields []zapcore.Field) []slog.Attr {
	values := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(values)
	}
	converted := make([]slog.Attr, 0, len(values.Fields))
	for _, key := range slices.Sorted(maps.Keys(values.Fields)) {
		converted = append(converted, slog.Any(key, values.Fields[key]))
	}
	return converted
}

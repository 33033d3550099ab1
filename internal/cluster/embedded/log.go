package embedded

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// oddWarning is logged at each start about a port that does not exist here.
const oddWarning = "Running http and grpc server on single port. This is not recommended for production."

// zapLogger returns the logger that etcd wants, writing to ours. Where etcd
// would exit it panics instead, so that it can be told where and why.
func zapLogger(logger *slog.Logger) *zap.Logger {
	return zap.New(&slogCore{logger: logger}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// slogCore passes what zap logs on to slog, from warnings upwards.
type slogCore struct {
	logger *slog.Logger
}

// Enabled implements zapcore.Core.
func (c *slogCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{logger: slog.New(c.logger.Handler().WithAttrs(attrs(fields)))}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(entry.Level) || entry.Message == oddWarning {
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
	c.logger.LogAttrs(context.Background(), level, "etcd: "+entry.Message, attrs(fields)...)
	return nil
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

package telemetry

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"reflect"
)

// plainHandler passes on records whose attributes have plain values. What is sent
// knows no types of Fanfare's own, and would say of a worker's session number that
// it is `unhandled: (dispatch.SessionID) 7`.
type plainHandler struct{ slog.Handler }

func (h plainHandler) Handle(ctx context.Context, record slog.Record) error {
	made := slog.NewRecord(record.Time, record.Level, record.Message, record.PC)
	record.Attrs(func(attr slog.Attr) bool {
		made.AddAttrs(plain(attr))
		return true
	})
	return h.Handler.Handle(ctx, made)
}

func (h plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return plainHandler{h.Handler.WithAttrs(plainAll(attrs))}
}

func (h plainHandler) WithGroup(name string) slog.Handler {
	return plainHandler{h.Handler.WithGroup(name)}
}

func plainAll(attrs []slog.Attr) []slog.Attr {
	made := make([]slog.Attr, len(attrs))
	for i, attr := range attrs {
		made[i] = plain(attr)
	}
	return made
}

func plain(attr slog.Attr) slog.Attr {
	value := attr.Value.Resolve()
	switch value.Kind() { //nolint:exhaustive // the others are plain
	case slog.KindGroup:
		value = slog.GroupValue(plainAll(value.Group())...)
	case slog.KindAny:
		value = plainValue(value)
	}
	return slog.Attr{Key: attr.Key, Value: value}
}

// plainValue writes what can write itself as text, as a logger of text does, and
// takes numbers and texts out of the types that they have.
func plainValue(value slog.Value) slog.Value {
	v := reflect.ValueOf(value.Any())
	if !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return value
	}
	switch written := value.Any().(type) {
	case error: // which is known, and sent as what went wrong
		return value
	case encoding.TextMarshaler:
		if text, err := written.MarshalText(); err == nil {
			return slog.StringValue(string(text))
		}
	case fmt.Stringer:
		return slog.StringValue(written.String())
	}
	switch v.Kind() {
	case reflect.String:
		return slog.StringValue(v.String())
	case reflect.Bool:
		return slog.BoolValue(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return slog.Int64Value(v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return slog.Uint64Value(v.Uint())
	case reflect.Float32, reflect.Float64:
		return slog.Float64Value(v.Float())
	}
	return value
}

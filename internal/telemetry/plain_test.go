package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

type (
	session uint64
	tenant  string
	open    bool
	share   float64
	shape   int
)

func (s shape) String() string { return [...]string{"round", "square"}[s] }

type holder struct{}

func (h *holder) LogValue() slog.Value { return slog.AnyValue(tenant("held")) }

// kept keeps what it is told, as `key=kind:value`.
type kept struct {
	slog.Handler
	said *[]string
}

func (k kept) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, attr := range attrs {
		k.keep("", attr)
	}
	return k
}

func (k kept) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(attr slog.Attr) bool { k.keep("", attr); return true })
	return nil
}

func (k kept) keep(prefix string, attr slog.Attr) {
	if attr.Value.Kind() == slog.KindGroup {
		for _, inner := range attr.Value.Group() {
			k.keep(prefix+attr.Key+".", inner)
		}
		return
	}
	*k.said = append(*k.said, prefix+attr.Key+"="+attr.Value.Kind().String()+":"+attr.Value.String())
}

// What is sent has no values of types that only Fanfare knows.
func TestPlainValues(t *testing.T) {
	var said []string
	logger := slog.New(plainHandler{kept{slog.DiscardHandler, &said}})
	handler := logger.Handler()
	round := shape(0)
	record := slog.NewRecord(time.Now(), slog.LevelInfo, "worker attached", 0)
	record.AddAttrs(
		slog.Any("session", session(7)), slog.Any("open", open(true)), slog.Any("share", share(0.5)), slog.Any("shape", shape(1)),
		slog.Any("none", (*shape)(nil)), slog.Any("pointed", &round), slog.Any("holder", &holder{}),
		slog.Any("address", netip.MustParseAddr("127.0.0.1")), slog.Any("error", errors.New("it broke")), slog.Any("nothing", nil),
		slog.Group("of", slog.Any("tenant", tenant("acme")), slog.Int("n", 3)),
	)
	if err := handler.WithAttrs([]slog.Attr{slog.Any("tenant", tenant("acme"))}).Handle(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	want := `tenant=String:acme session=Uint64:7 open=Bool:true share=Float64:0.5 shape=String:square ` +
		`none=Any:<nil> pointed=String:round holder=String:held ` +
		`address=String:127.0.0.1 error=Any:it broke nothing=Any:<nil> of.tenant=String:acme of.n=Int64:3`
	if got := strings.Join(said, " "); got != want {
		t.Errorf("passed on was\n%s\nwant\n%s", got, want)
	}
}

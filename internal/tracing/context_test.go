package tracing_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestRemoteAndFormat(t *testing.T) {
	span := tracing.Remote(good, "a=b")
	if got := tracing.Format(span); got != good {
		t.Errorf("got %q back", got)
	}
	if !span.IsRemote() || !span.IsSampled() || span.TraceState().Get("a") != "b" {
		t.Errorf("the span is %v", span)
	}
	// What is not known of the flags and of later versions is not passed on.
	if got, want := tracing.Format(tracing.Parse("cc"+good[2:53]+"ff-more")), good; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, none := range []string{"", "nonsense", strings.ToUpper(good)} {
		if span := tracing.Parse(none); span.IsValid() || tracing.Format(span) != "" {
			t.Errorf("%q stands for %v", none, span)
		}
	}
}

func TestIsSampled(t *testing.T) {
	for flags, want := range map[string]bool{"00": false, "01": true, "02": false, "03": true, "fe": false, "ff": true} {
		if got := tracing.IsSampled(good[:53] + flags); got != want {
			t.Errorf("flags %s: got %v", flags, got)
		}
	}
	if tracing.IsSampled("01") {
		t.Error("what is no traceparent is sampled")
	}
}

func encode(t testing.TB, event *fanfarev1.Event) []byte {
	t.Helper()
	encoded, err := proto.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func TestInEvent(t *testing.T) {
	for name, extensions := range map[string]map[string]string{
		"none":      nil,
		"others":    {"comexample": "1", "traceparents": good},
		"both":      {"traceparent": good, "tracestate": "a=b", "zone": "eu"},
		"bad":       {"traceparent": good[1:], "tracestate": "a=b"},
		"bad state": {"traceparent": good, "tracestate": "nonsense"},
	} {
		event := &fanfarev1.Event{Id: "e", Type: "t", Data: []byte("traceparent"), Extensions: extensions}
		wantParent, wantState := tracing.Of(extensions)
		if parent, state := tracing.InEvent(encode(t, event)); parent != wantParent || state != wantState {
			t.Errorf("%s: got %q, %q; want %q, %q", name, parent, state, wantParent, wantState)
		}
	}
}

// Whatever can be decoded has the trace context that its decoding has; what
// cannot be is no reason to fail.
func FuzzInEvent(f *testing.F) {
	f.Add(encode(f, &fanfarev1.Event{Id: "e", Extensions: map[string]string{"traceparent": good, "tracestate": "a=b"}}))
	f.Add(encode(f, &fanfarev1.Event{Data: []byte{0xff}}))
	f.Add([]byte{0x5a, 0x02, 0x0a})
	f.Fuzz(func(t *testing.T, encoded []byte) {
		parent, state := tracing.InEvent(encoded)
		event := new(fanfarev1.Event)
		if proto.Unmarshal(encoded, event) != nil {
			return
		}
		if wantParent, wantState := tracing.Of(event.GetExtensions()); parent != wantParent || state != wantState {
			t.Errorf("got %q, %q; want %q, %q", parent, state, wantParent, wantState)
		}
	})
}

func BenchmarkInEvent(b *testing.B) {
	encoded := encode(b, &fanfarev1.Event{Id: "e", Type: "order.created", Source: "/shop", Data: make([]byte, 1024)})
	b.ReportAllocs()
	for b.Loop() {
		tracing.InEvent(encoded)
	}
}

package tracing_test

import (
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/internal/tracing"
)

const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestOf(t *testing.T) {
	for _, test := range []struct{ parent, state, wantParent, wantState string }{
		{good, "", good, ""},
		{good, "a=b,c=d", good, "a=b,c=d"},
		{good, "nonsense", good, ""},
		{good, "a=b\r\nx: y", good, ""},
		{good, "a=" + strings.Repeat("b", 511), good, ""},
		{"", "a=b", "", ""},
		{"cc" + good[2:] + "-more", "", "cc" + good[2:] + "-more", ""},
		{good + "-more", "", "", ""},
		{"ff" + good[2:], "", "", ""},
		{"cc" + good[2:] + "more", "", "", ""},
		{"cc" + good[2:] + "-\n", "", "", ""},
		{strings.ToUpper(good), "", "", ""},
		{good[:54], "", "", ""},
		{strings.Replace(good, "0af7651916cd43dd8448eb211c80319c", strings.Repeat("0", 32), 1), "", "", ""},
		{strings.Replace(good, "b7ad6b7169203331", strings.Repeat("0", 16), 1), "", "", ""},
		{strings.Replace(good, "-", "_", 1), "", "", ""},
	} {
		parent, state := tracing.Of(map[string]string{"traceparent": test.parent, "tracestate": test.state})
		if parent != test.wantParent || state != test.wantState {
			t.Errorf("%q, %q: got %q, %q", test.parent, test.state, parent, state)
		}
	}
}

func FuzzIsParent(f *testing.F) {
	f.Add(good)
	f.Add("cc" + good[2:] + "-x")
	f.Fuzz(func(t *testing.T, text string) {
		if tracing.IsParent(text) && (len(text) < len(good) || strings.ContainsAny(text, "\r\n\x00 ")) && !strings.HasPrefix(text, "cc") && text[:2] == "00" {
			t.Errorf("%q is taken", text)
		}
	})
}

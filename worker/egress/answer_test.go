package egress

import (
	"strings"
	"testing"
)

func FuzzConnectAnswer(f *testing.F) {
	for _, seed := range []string{"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 Connection established\r\nA: b\r\n\r\n", "HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK\r\n\r\nmore", "SSH"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := readConnectAnswer(strings.NewReader(text))
		if err == nil && (!strings.HasPrefix(text, "HTTP/") || !strings.Contains(text, " 2")) {
			t.Errorf("%q is taken for a tunnel", text)
		}
	})
}

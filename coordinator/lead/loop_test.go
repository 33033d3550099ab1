package lead

import "testing"

func TestHostOf(t *testing.T) {
	for url, want := range map[string]string{
		"https://example.com/hooks/1":          "example.com",
		"https://EXAMPLE.com:8443?a=b":         "example.com:8443",
		"http://user:pass@example.com#x":       "example.com",
		"http://[::1]:80/":                     "[::1]:80",
		"https://example.com":                  "example.com",
		"https://example.com/?to=http://a@b/c": "example.com",
		"example.com":                          "",
		"":                                     "",
	} {
		if got := hostOf(url); got != want {
			t.Errorf("hostOf(%q) = %q, want %q", url, got, want)
		}
	}
}

package egress_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/worker/egress"
)

// The policies of the tables below.
var (
	strict = egress.Policy{}
	dev    = egress.Policy{AllowHTTP: true, AllowLoopback: true}
	plain  = egress.Policy{AllowHTTP: true}
	lan    = egress.Policy{AllowPrefixes: prefixes("10.20.0.0/16", "fd12::/16")}
)

// longLabel is as long as a part of a host name may be.
var longLabel = strings.Repeat("a", 63)

func TestCheckURLAccepts(t *testing.T) {
	tests := []struct {
		policy egress.Policy
		url    string
	}{
		{strict, "https://example.com"},
		{strict, "https://example.com/"},
		{strict, "HTTPS://EXAMPLE.com/Hooks"},
		{strict, "https://example.com:8443/hooks?token=a%20b&c=d"},
		{strict, "https://example.com:65535/"},
		{strict, "https://xn--bcher-kva.example/"},
		{strict, "https://my_service.example/"},
		{strict, "https://1.example.com/"},
		{strict, "https://1password.com/"},
		{strict, "https://0xcafe.com/"},
		{strict, "https://example.0xcafex/"},
		{strict, "https://8.8.8.8/"},
		{strict, "https://[2606:4700:4700::1111]:8443/"},
		{strict, "https://" + longLabel + "." + longLabel + "/"},
		{strict, "https://example.com/päth?q=ü"},
		{strict, "https://example.com/a@b:c"},
		{plain, "http://example.com/"},
		{dev, "http://localhost:9400/hooks"},
		{dev, "http://sink.localhost/"},
		{dev, "http://127.0.0.1:9400/"},
		{dev, "http://[::1]:9400/"},
		{lan, "https://10.20.30.40/"},
		{lan, "https://[fd12::1]/"},
	}
	for _, test := range tests {
		if err := test.policy.CheckURL(test.url); err != nil {
			t.Errorf("%q: %v", test.url, err)
		}
	}
}

func TestCheckURLRefuses(t *testing.T) {
	tests := []struct {
		policy  egress.Policy
		url     string
		problem string // part of the error
	}{
		// Schemes.
		{strict, "", "does not begin with https://"},
		{strict, "gopher://example.com/", `"gopher", not https`},
		{dev, "gopher://example.com/", `"gopher", not http or https`},
		{strict, "example.com", "does not begin with https://"},
		{strict, "//example.com/", "does not begin with https://"},
		{strict, "/hooks", "does not begin with https://"},
		{strict, "http://example.com/", "must use https"},
		{strict, "HTTP://example.com/", "must use https"},
		{dev, "ftp://example.com/", `"ftp"`},
		{dev, "file:///etc/passwd", `"file"`},
		{dev, "gopher://127.0.0.1:6379/_FLUSHALL", `"gopher"`},
		{dev, "javascript:alert(1)", `"javascript"`},
		{dev, "unix:///var/run/docker.sock", `"unix"`},
		{dev, "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "cannot be parsed"},
		{dev, "ht tp://example.com/", "space"},
		{dev, "1http://example.com/", "cannot be parsed"},
		{dev, "localhost:9400/hooks", `"localhost"`},

		// No host, or what hides one.
		{strict, "https://", "no host"},
		{strict, "https:///hooks", "no host"},
		{strict, "https:example.com", "no host"},
		{strict, "https:/example.com", "no host"},
		{strict, "https://:443/", "no host"},
		{strict, "https://?a=b", "no host"},
		{strict, "https://user@example.com/", "user name"},
		{strict, "https://user:pass@example.com/", "user name"},
		{strict, "https://@example.com/", "user name"},
		{strict, "https://example.com@127.0.0.1/", "user name"},
		{strict, "https://example.com:80@127.0.0.1/", "user name"},
		{strict, "https://example.com%40127.0.0.1/", "cannot be parsed"},
		{strict, "https://example.com\\@127.0.0.1/", "backslash"},
		{strict, "https://127.0.0.1\\.example.com/", "backslash"},
		{strict, "https:\\\\example.com/", "backslash"},
		{strict, "https://example.com/#fragment", "fragment"},
		{strict, "https://example.com/#", "fragment"},
		{strict, "https://127.0.0.1#@example.com/", "fragment"},
		{strict, "https://127.0.0.1?@example.com/", "loopback"},

		// Spaces and control characters.
		{strict, " https://example.com/", "space"},
		{strict, "https://example.com/ ", "space"},
		{strict, "https://exam ple.com/", "space"},
		{strict, "https://example.com/\r\nHost: evil", "control"},
		{strict, "https://example.com/\t", "control"},
		{strict, "https://exam\x00ple.com/", "control"},
		{strict, "https://example.com/\x7f", "control"},

		// Ports.
		{strict, "https://example.com:/", "port is empty"},
		{strict, "https://example.com:0/", "port is not between"},
		{strict, "https://example.com:65536/", "port is not between"},
		{strict, "https://example.com:99999999999999999999/", "port is not between"},
		{strict, "https://example.com:-1/", "cannot be parsed"},
		{strict, "https://example.com:http/", "cannot be parsed"},
		{strict, "https://example.com:80:80/", "cannot be parsed"},

		// Addresses.
		{strict, "https://127.0.0.1/", "loopback"},
		{strict, "https://127.0.0.1:8443/", "loopback"},
		{strict, "https://0.0.0.0/", "unspecified"},
		{strict, "https://10.1.2.3/", "private"},
		{strict, "https://169.254.169.254/latest/meta-data/", "metadata"},
		{dev, "http://169.254.169.254/latest/meta-data/", "metadata"},
		{dev, "http://192.168.0.1/", "private"},
		{lan, "https://10.21.0.1/", "private"},
		{strict, "https://[::1]/", "loopback"},
		{strict, "https://[::]/", "unspecified"},
		{strict, "https://[0:0:0:0:0:0:0:1]/", "loopback"},
		{strict, "https://[::ffff:127.0.0.1]/", "loopback"},
		{strict, "https://[::ffff:7f00:1]/", "loopback"},
		{strict, "https://[::127.0.0.1]/", "IPv4-compatible"},
		{strict, "https://[64:ff9b::a9fe:a9fe]/", "metadata"},
		{strict, "https://[2002:7f00:1::]/", "6to4"},
		{strict, "https://[2001::1]/", "Teredo"},
		{strict, "https://[fd00:ec2::254]/", "metadata"},
		{strict, "https://[fe80::1%25eth0]/", "zone"},
		{strict, "https://[fe80::1%eth0]/", "cannot be parsed"},
		{strict, "https://[::1", "cannot be parsed"},
		{strict, "https://[::1]x/", "cannot be parsed"},
		{strict, "https://[127.0.0.1]/", "cannot be parsed"},
		{strict, "https://[example.com]/", "cannot be parsed"},
		{strict, "https://[]/", "cannot be parsed"},
		{strict, "https://::1/", "cannot be parsed"},
		{strict, "https://2606:4700:4700::1111/", "cannot be parsed"},

		// Numbers that some resolver takes for an address.
		{strict, "https://2130706433/", "number"},
		{strict, "https://0/", "number"},
		{strict, "https://127.1/", "number"},
		{strict, "https://127.0.1/", "number"},
		{strict, "https://0177.0.0.1/", "number"},
		{strict, "https://127.0.0.01/", "number"},
		{strict, "https://0x7f.1/", "number"},
		{strict, "https://0x7f000001/", "number"},
		{strict, "https://0X7F000001/", "number"},
		{strict, "https://0x7f.0x0.0x0.0x1/", "number"},
		{strict, "https://127.0.0.0x1/", "number"},
		{strict, "https://127.0.0.0x/", "number"},
		{strict, "https://017700000001/", "number"},
		{strict, "https://127.0.0.1.1/", "number"},
		{strict, "https://256.256.256.256/", "number"},
		{strict, "https://1.2.3/", "number"},
		{strict, "https://example.123/", "number"},
		{strict, "https://127.0.0.1./", "full stop"},
		{strict, "https://2130706433./", "full stop"},
		{dev, "http://127.1/", "number"},

		// Names.
		{strict, "https://localhost/", "loopback"},
		{strict, "https://LOCALHOST/", "loopback"},
		{strict, "https://a.b.localhost/", "loopback"},
		{plain, "http://localhost:8080/", "loopback"},
		{strict, "https://localhost./", "full stop"},
		{strict, "https://example.com./", "full stop"},
		{strict, "https://./", "full stop"},
		{strict, "https://.example.com/", "empty part"},
		{strict, "https://example..com/", "empty part"},
		{strict, "https://-example.com/", "hyphen"},
		{strict, "https://example-.com/", "hyphen"},
		{strict, "https://exa*mple.com/", "characters"},
		{strict, "https://exa$mple.com/", "characters"},
		{strict, "https://a,b.example/", "characters"},
		{strict, "https://bücher.example/", "xn--"},
		{strict, "https://１２７.0.0.1/", "xn--"},
		{strict, "https://127。0。0。1/", "xn--"},
		{strict, "https://ⓛocalhost/", "xn--"},
		{strict, "https://example.com\u200b/", "xn--"},
		{strict, "https://%31%32%37.0.0.1/", "cannot be parsed"},
		{strict, "https://%6c%6f%63%61%6c%68%6f%73%74/", "cannot be parsed"},
		{strict, "https://%e2%93%9bocalhost/", "xn--"},
		{strict, "https://127.0.0.1%00.example.com/", "cannot be parsed"},
		{strict, "https://" + longLabel + "a.example/", "longer than 63"},
		{strict, "https://" + strings.Repeat(longLabel+".", 4) + "com/", "longer than 253"},
		{strict, "https://example.com/" + strings.Repeat("a", egress.MaxURLBytes), "longer than 2048"},
	}
	for _, test := range tests {
		err := test.policy.CheckURL(test.url)
		if !errors.Is(err, egress.ErrURL) || !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%q: got error %v, want one with %q", test.url, err, test.problem)
		}
	}
}

func TestCheckURLError(t *testing.T) {
	policy := egress.Policy{}
	_, denied := errors.AsType[*egress.DeniedError](policy.CheckURL("https://10.0.0.1/"))
	if !denied {
		t.Error("a private address is not a DeniedError")
	}
	_, denied = errors.AsType[*egress.DeniedError](policy.CheckURL("https://"))
	if denied {
		t.Error("a malformed URL is a DeniedError")
	}
	err := policy.CheckURL("https://example.com:x/?token=topsecret")
	if err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("got %v, which should not quote the URL", err)
	}
	longest := "https://example.com/"
	longest += strings.Repeat("a", egress.MaxURLBytes-len(longest))
	if err := policy.CheckURL(longest); err != nil {
		t.Errorf("%d bytes: %v", len(longest), err)
	}
}

// What is accepted can be requested: net/http finds the same host in it, and a
// host that is an address was judged as one.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/", "http://0x7f.1", "https://[::1]:80/", "https://a@b:1/#x", "https://１２７.0.0.1/",
	} {
		f.Add(seed)
	}
	policy := egress.Policy{}
	f.Fuzz(func(t *testing.T, raw string) {
		if policy.CheckURL(raw) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			t.Fatalf("accepted %q, which is %+v, %v", raw, u, err)
		}
		if strings.ContainsFunc(u.Host, func(r rune) bool { return r > '~' || r <= ' ' }) {
			t.Fatalf("accepted host %q", u.Host)
		}
	})
}

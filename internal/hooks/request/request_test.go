package request_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// made returns a request with a body that was parsed.
func made(t testing.TB, contentType, body string, jsonParameters ...spec.Argument) (*request.Request, error) {
	t.Helper()
	original := httptest.NewRequestWithContext(t.Context(), "POST", "/hooks/x?q=1", strings.NewReader(body))
	original.Header.Set("Content-Type", contentType)
	r := request.New(original, []byte(body), netip.Addr{})
	parser := request.Parser{ContentType: contentType, MultipartMemory: 1 << 10, JSONParameters: jsonParameters, Logf: func(string, ...any) {}}
	return r, parser.Parse(r, original)
}

// What is not there is a NodeError, what can never be found is another.
func TestKindsOfErrors(t *testing.T) {
	t.Parallel()
	r, err := made(t, "application/json", `{"a": null, "b": [], "c": 1, "d": {"e": "x"}}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, isNode := range map[string]bool{"x": true, "b.0": true, "b.-1": true, "b.+0": true, "b.": true, "c.d": true, "d.e.f": true, "d.": true, "a.b": false} {
		_, err := r.Value(spec.Argument{Source: spec.SourcePayload, Name: name})
		if _, is := errors.AsType[*request.NodeError](err); err == nil || is != isNode {
			t.Errorf("%s: %v, want a NodeError: %v", name, err, isNode)
		}
	}
}

// One value more than there may be, and there is no payload.
func TestMaxValues(t *testing.T) {
	t.Parallel()
	for contentType, parts := range map[string][3]string{
		"application/json":                  {"[1", ",1", "]"},
		"application/x-www-form-urlencoded": {"a", "&a", ""},
		"application/xml":                   {"<a>", "<b/>", "</a>"},
	} {
		for n, want := range map[int]bool{100: true, request.MaxValues + 1: false} {
			r, err := made(t, contentType, parts[0]+strings.Repeat(parts[1], n)+parts[2])
			if err != nil || (r.Payload != nil) != want {
				t.Errorf("%s of %d: a payload: %v, %v", contentType, n, r.Payload != nil, err)
			}
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add(`{"a": {"b.c": [1, {"d": null}]}}`, "a.b.c.1.d.e")
	f.Add(`[[], {"": {"": 1}}]`, "root.1..")
	f.Add(`{"a": "{\"b\": 1}"}`, "a.b")
	f.Fuzz(func(t *testing.T, body, path string) {
		r, err := made(t, "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		arg := spec.Argument{Source: spec.SourcePayload, Name: path}
		before, errBefore := r.Value(arg)
		if errBefore == nil && r.ParseAsJSON(arg) == nil {
			// What was replaced is found at the same place, and is an object.
			after, err := r.Value(arg)
			if err != nil || !strings.HasPrefix(after, "{") && after != "null" {
				t.Errorf("%q was %q and is %q, %v", path, before, after, err)
			}
		}
		for _, source := range []string{spec.SourceHeader, spec.SourceURL, spec.SourceRequest, spec.SourceEntirePayload} {
			_, _ = r.Value(spec.Argument{Source: source, Name: path})
		}
	})
}

func FuzzBody(f *testing.F) {
	f.Add("application/json", `{"a": [1, 2.50, "x", null]}`)
	f.Add("application/x-www-form-urlencoded", "a=1&b=%20&c")
	f.Add("text/xml", `<a x="1">t<b/><b>u</b>v</a>`)
	f.Add("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\nContent-Type: application/json\r\n\r\n{}\r\n--b--\r\n")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		r, err := made(t, contentType, body, spec.Argument{Source: spec.SourcePayload, Name: "f"})
		if err != nil && !errors.Is(err, request.ErrMultipart) && !errors.Is(err, request.ErrMultipartFile) {
			t.Fatalf("another error: %v", err)
		}
		if !bytes.Equal(r.Body, []byte(body)) {
			t.Fatal("the body was changed")
		}
		text, err := r.Value(spec.Argument{Source: spec.SourceEntirePayload})
		if err != nil || !json.Valid([]byte(text)) {
			t.Fatalf("the payload is no JSON: %q, %v", text, err)
		}
	})
}

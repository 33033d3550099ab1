package blackbox_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/fanfare-dev/fanfare/signature"
)

// table is a file of testdata/cases.
type table struct {
	// Flags of the server, besides those of address and hooks file. %DIR% is
	// its working directory, here and in Hooks.
	Flags []string `json:"flags"`
	// Files are scripts in its working directory.
	Files map[string]string `json:"files"`
	// Hooks is the hooks file, in YAML.
	Hooks string    `json:"hooks"`
	Cases []oneCase `json:"cases"`
}

// oneCase is a request and its answer.
type oneCase struct {
	Name string `json:"name"`
	// Only is tcp or unix, if the answer depends on it.
	Only string `json:"only"`
	// Send is the request line; Headers and Body are templates, see functions.
	Send    string   `json:"send"`
	Headers []string `json:"headers"`
	Body    string   `json:"body"`
	// JSON, Form and XML are bodies with their content type.
	JSON string `json:"json"`
	Form string `json:"form"`
	XML  string `json:"xml"`

	Status  int     `json:"status"` // 0: 200
	Answer  *string `json:"answer"`
	Matches string  `json:"matches"` // the answer's body, by a regular expression
	// Response are headers of the answer: `Name: value`, or `!Name`.
	Response []string `json:"response"`
	// Log are regular expressions of lines in the log.
	Log []string `json:"log"`
}

func TestCases(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases table
		if err := yaml.UnmarshalStrict(text, &cases); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name+"/tcp+json", func(t *testing.T) {
			t.Parallel()
			cases.run(t, "tcp")
		})
		t.Run(name+"/unix+yaml", func(t *testing.T) {
			t.Parallel()
			cases.run(t, "unix")
		})
	}
}

// run serves the table over one network and plays its cases.
func (c *table) run(t *testing.T, network string) {
	dir := t.TempDir()
	for name, text := range c.Files {
		script(t, dir, name, text)
	}
	inDir := strings.NewReplacer("%DIR%", dir)
	hooks := []byte(inDir.Replace(c.Hooks))
	args := []string{"-hooks", "hooks.yaml"}
	start := overUnix
	if network == "tcp" {
		var err error
		if hooks, err = yaml.YAMLToJSON(hooks); err != nil {
			t.Fatal(err)
		}
		start, args = overTCP, []string{"-hooks", "hooks.json"}
	}
	write(t, filepath.Join(dir, args[1]), string(hooks))
	for _, flag := range c.Flags {
		args = append(args, inDir.Replace(flag))
	}
	server := start(t, dir, args...)
	for _, one := range c.Cases {
		if one.Only != "" && one.Only != network {
			continue
		}
		t.Run(one.Name, func(t *testing.T) { one.play(t, server) })
	}
}

func (c *oneCase) play(t *testing.T, server *running) {
	from := server.log.len()
	line := c.Send
	if line == "" {
		line = "POST /hooks/args"
	}
	body, headers := expand(t, c.Body, ""), []string{}
	for contentType, text := range map[string]string{
		"application/json": c.JSON, "application/x-www-form-urlencoded": c.Form, "application/xml": c.XML,
	} {
		if text != "" {
			body, headers = text, append(headers, "Content-Type: "+contentType)
		}
	}
	for _, header := range c.Headers {
		headers = append(headers, expand(t, header, body))
	}
	method, _, _ := strings.Cut(line, " ")
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := conn.Write([]byte(request(line, headers, body))); err != nil {
		t.Fatal(err)
	}
	got := read(t, conn, method)
	c.check(t, got)
	for _, pattern := range c.Log {
		server.log.await(t, from, pattern)
	}
}

func (c *oneCase) check(t *testing.T, got answer) {
	want := c.Status
	if want == 0 {
		want = http.StatusOK
	}
	if got.status != want {
		t.Errorf("status %d, want %d", got.status, want)
	}
	if c.Answer != nil && got.body != *c.Answer {
		t.Errorf("answer %q, want %q", got.body, *c.Answer)
	}
	if c.Matches != "" && !regexp.MustCompile(c.Matches).MatchString(got.body) {
		t.Errorf("answer %q does not match %s", got.body, c.Matches)
	}
	for _, header := range c.Response {
		if name, ok := strings.CutPrefix(header, "!"); ok {
			if values := got.header.Values(name); len(values) > 0 {
				t.Errorf("header %s is %q, want none", name, values)
			}
			continue
		}
		name, value, _ := strings.Cut(header, ": ")
		if values := got.header.Values(name); len(values) != 1 || values[0] != value {
			t.Errorf("header %s is %q, want %q", name, values, value)
		}
	}
}

// expand runs text through text/template. There are
//
//	{{hmac "sha256" "secret" .}}    the MAC of the body in hex
//	{{b64mac "sha256" "secret" .}}  … in base64
//	{{now -600}}                    a Unix time, seconds from now
//	{{date -600 "layout"}}          … in a layout of package time
//	{{standard "whsec_…" "id" -0 .}} a Standard Webhooks signature
func expand(t *testing.T, text, body string) string {
	t.Helper()
	if !strings.Contains(text, "{{") {
		return text
	}
	at := func(offset int) time.Time { return time.Now().Add(time.Duration(offset) * time.Second) }
	parsed, err := template.New("").Funcs(template.FuncMap{
		"hmac": func(algorithm, secret, text string) string { return hex.EncodeToString(mac(algorithm, secret, text)) },
		"b64mac": func(algorithm, secret, text string) string {
			return base64.StdEncoding.EncodeToString(mac(algorithm, secret, text))
		},
		"now":  func(offset int) int64 { return at(offset).Unix() },
		"date": func(offset int, layout string) string { return at(offset).UTC().Format(layout) },
		"cat": func(parts ...any) string {
			return strings.Trim(fmt.Sprint(append([]any{""}, toStrings(parts)...)...), " ")
		},
		"repeat": strings.Repeat,
		"crlf":   func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") },
		"standard": func(secret, id string, offset int, body string) (string, error) {
			parsed, err := signature.ParseSecret(secret)
			return signature.Sign(signature.Message{ID: id, Timestamp: at(offset), Body: []byte(body)}, parsed), err
		},
	}).Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, body); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func toStrings(parts []any) []any {
	var b strings.Builder
	for _, part := range parts {
		fmt.Fprint(&b, part)
	}
	return []any{b.String()}
}

func mac(algorithm, secret, text string) []byte {
	h := hmac.New(map[string]func() hash.Hash{
		"sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New,
	}[algorithm], []byte(secret))
	h.Write([]byte(text))
	return h.Sum(nil)
}

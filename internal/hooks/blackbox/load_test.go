package blackbox_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"sigs.k8s.io/yaml"
)

// Files are YAML 1.1 whatever their names; what is a mistake refuses the file
// and no other.
func TestLoad(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/load.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name   string `json:"name"`
		Text   string `json:"text"`
		Want   string `json:"want"`
		Status int    `json:"status"`
		Error  string `json:"error"`
	}
	if err := yaml.UnmarshalStrict(text, &cases); err != nil {
		t.Fatal(err)
	}
	for _, extension := range []string{".json", ".yaml"} {
		t.Run(extension, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var args []string
			for _, c := range cases {
				name := c.Name + extension
				write(t, filepath.Join(dir, name), strings.ReplaceAll(c.Text, "%ID%", c.Name))
				args = append(args, "-hooks", name)
			}
			// What has an empty id in one file has it in the others too.
			server := overTCP(t, dir, args...)
			for _, c := range cases {
				got := server.send("POST /hooks/"+c.Name, nil, "")
				if c.Error != "" {
					pattern := regexp.MustCompile(`attempting to load hooks from ` + regexp.QuoteMeta(c.Name+extension) + `\n.*` + c.Error)
					if got.status != 404 || !pattern.MatchString(server.log.text()) {
						t.Errorf("%s: answered %d %q, and the log does not match %s", c.Name, got.status, got.body, pattern)
					}
					continue
				}
				if want := max(c.Status, 200); c.Status == 0 && got.status != 200 || c.Status != 0 && got.status != want || got.body != c.Want {
					t.Errorf("%s: answered %d %q, want %q", c.Name, got.status, got.body, c.Want)
				}
			}
		})
	}
}

// UTF-16 with a byte order mark is read as well.
func TestLoadUTF16(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	encoded := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(`[{"id": "x", "execute-command": "/bin/true", "response-message": "grün"}]`)) {
		encoded = binary.LittleEndian.AppendUint16(encoded, unit)
	}
	write(t, filepath.Join(dir, "hooks.json"), string(encoded))
	if got := overTCP(t, dir).send("POST /hooks/x", nil, ""); got.body != "grün" {
		t.Errorf("answered %d %q", got.status, got.body)
	}
}

// -template runs files through text/template when they are read.
func TestTemplate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), "s\"1\n\n")
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "execute-command": "/bin/true", "response-message":
		"{{ getenv "NOT_SET" | js }}|{{ cat "secret" | js }}|{{ cat "none" }}|{{ .Foo }}|{{ credential "PATH" | len | lt 0 }}"}]`)
	server := overTCP(t, dir, "-template")
	if got := server.send("POST /hooks/x", nil, ""); got.body != "|s\"1\n|"+"|<no value>|true" {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	plain := overTCP(t, dir, "-nopanic") // without -template it is no YAML
	if got := plain.send("POST /hooks/x", nil, ""); got.status != 404 {
		t.Errorf("without -template answered %d %q", got.status, got.body)
	}
}

// credential reads from systemd's directory if there is one.
func TestTemplateCredential(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "key"), "from systemd\n")
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "execute-command": "/bin/true", "response-message": "{{ credential "key" }}"}]`)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if got := overTCP(t, dir, "-template").send("POST /hooks/x", nil, ""); got.body != "from systemd" {
		t.Errorf("answered %q", got.body)
	}
}

// A mistake in a template refuses the file.
func TestTemplateMistake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "response-message": "{{ nothing }}"}]`)
	overTCP(t, dir, "-template").log.await(t, 0, "couldn't load hooks from file! parsing template")
}

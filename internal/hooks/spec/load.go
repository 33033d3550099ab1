package spec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

// MaxFileBytes bounds a hooks file.
const MaxFileBytes = 16 << 20

// File is a hooks file that was read.
type File struct {
	Hooks []Hook
	// SecretFiles were read for it: the file means something else when they
	// change.
	SecretFiles []string
}

// Load reads the hooks file at path, through text/template first if templated.
func Load(path string, templated bool) (*File, error) {
	text, err := ReadText(path, templated)
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// ReadText returns the text of the hooks file at path, after templating.
func ReadText(path string, templated bool) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading hooks file: %w", err)
	}
	if info.Size() > MaxFileBytes {
		return nil, fmt.Errorf("reading hooks file: %s has %d bytes, more than %d", path, info.Size(), MaxFileBytes)
	}
	text, err := os.ReadFile(path) //nolint:gosec // the path is the operator's to choose
	if err != nil {
		return nil, fmt.Errorf("reading hooks file: %w", err)
	}
	if !templated {
		return text, nil
	}
	return expand(path, text)
}

// Parse reads the text of a hooks file, and the secrets it keeps elsewhere.
// One mistake refuses the whole file; the error names hook and key.
func Parse(text []byte) (*File, error) {
	hooks, err := Decode(text)
	if err != nil {
		return nil, err
	}
	file := &File{Hooks: hooks}
	var problems []error
	for i := range file.Hooks {
		hook := &file.Hooks[i]
		read, err := hook.Complete()
		if err != nil {
			problems = append(problems, fmt.Errorf("hook %q: %w", hook.ID, err))
		}
		file.SecretFiles = append(file.SecretFiles, read...)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return file, nil
}

// Decode reads the text of a hooks file and looks no further.
func Decode(text []byte) ([]Hook, error) {
	var hooks []Hook
	if err := yaml.Unmarshal(text, &hooks); err != nil {
		return nil, err
	}
	return hooks, nil
}

// Complete reads the secrets that the hook keeps in files, and validates it. It
// returns the paths of those files. Errors name the key; there may be several,
// one a line.
func (h *Hook) Complete() (files []string, err error) {
	files, err = h.readSecrets()
	return files, cmp.Or(err, h.Validate())
}

// readSecrets adds the lines of each secret-file to its match's secrets.
func (h *Hook) readSecrets() (files []string, err error) {
	for match := range h.Rule.Matches() {
		if match.SecretFile == "" {
			continue
		}
		text, err := os.ReadFile(match.SecretFile)
		if err != nil {
			return files, fmt.Errorf("reading secret-file: %w", err)
		}
		files = append(files, match.SecretFile)
		before := len(match.Secrets)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				match.Secrets = append(match.Secrets, line)
			}
		}
		if len(match.Secrets) == before {
			return files, fmt.Errorf("reading secret-file: %s has no secret in it", match.SecretFile)
		}
	}
	return files, nil
}

// expand runs text through text/template with the functions upstream has.
func expand(name string, text []byte) ([]byte, error) {
	parsed, err := template.New(name).Funcs(template.FuncMap{
		"getenv":     os.Getenv,
		"cat":        cat,
		"credential": credential,
	}).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("parsing template: %w", err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, nil); err != nil {
		return nil, fmt.Errorf("executing template: %w", err)
	}
	return out.Bytes(), nil
}

// cat returns what the file at path says, without one line break at its end;
// nothing if it cannot be read.
func cat(path string) string {
	text, err := os.ReadFile(path) //nolint:gosec // the path is the operator's to choose
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// credential returns a credential that systemd passed, or else the variable of
// that name.
func credential(name string) string {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		return cat(filepath.Join(dir, name))
	}
	return os.Getenv(name)
}

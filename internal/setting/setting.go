// Package setting fills the flags of a command from the environment and from
// a file, so that a setting has one name and one meaning wherever it is given:
//
//	--lease-ttl=5s            on the command line
//	FANFARE_LEASE_TTL=5s      in the environment
//	lease-ttl: 5s             in the file
//
// The first of these that is given counts. The flags are the only list of what
// there is to set: their types read the values, whatever they come from.
package setting

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

const (
	// FileFlag names the flag that names the file.
	FileFlag = "config"
	// FromDefault is where the value of a setting comes from that nobody gave.
	FromDefault = "default"
	// envPrefix begins the names of variables.
	envPrefix = "FANFARE_"
	// maxFileBytes bounds the file; a larger one is not a config.
	maxFileBytes = 1 << 20

	secretAnnotation = "fanfare_secret"
	urlAnnotation    = "fanfare_url"
)

// Variable returns the name of a setting in the environment.
func Variable(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Origin says where a value comes from. The zero Origin is the default.
type Origin struct {
	kind  kind
	where string // of a file: path:line
}

type kind int

const (
	fromDefault kind = iota
	fromFlag
	fromEnvironment
	fromFile
)

// spell names a setting as it was written there.
func (o Origin) spell(name string) string {
	switch o.kind {
	case fromEnvironment:
		return Variable(name)
	case fromFile:
		return o.where + ": " + name
	case fromDefault, fromFlag:
	}
	return "--" + name
}

// describe says where the value of a setting comes from.
func (o Origin) describe(name string) string {
	switch o.kind {
	case fromFlag:
		return "--" + name
	case fromEnvironment:
		return Variable(name)
	case fromFile:
		return o.where
	case fromDefault:
	}
	return FromDefault
}

// Error says what is wrong with a setting.
type Error struct {
	Name    string
	Problem string // completes "--name ", as in "is 0; 1 to 64 are allowed"
}

// Error names the setting as a flag.
func (e *Error) Error() string { return "--" + e.Name + " " + e.Problem }

// Wrong returns an *Error.
func Wrong(name, format string, args ...any) error {
	return &Error{Name: name, Problem: fmt.Sprintf(format, args...)}
}

// Loaded knows where the values of a command's flags come from.
type Loaded struct {
	flags   *pflag.FlagSet
	origins map[string]Origin
}

// Load sets the flags that the command line has not set: from the environment
// as lookup knows it, and else from the file that --config or FANFARE_CONFIG
// names. An error names the setting and where the value came from. foreign
// says of a key that is not a flag whose it is, or "".
func Load(flags *pflag.FlagSet, lookup func(string) (string, bool), foreign func(key string) string) (*Loaded, error) {
	l := &Loaded{flags: flags, origins: make(map[string]Origin)}
	var errs []error
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed {
			l.origins[flag.Name] = Origin{kind: fromFlag}
			return
		}
		if value, ok := lookup(Variable(flag.Name)); ok && flag.Name != "help" {
			errs = append(errs, l.set(flag, value, Origin{kind: fromEnvironment}))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if file := flags.Lookup(FileFlag); file != nil && file.Value.String() != "" {
		return l, l.loadFile(file.Value.String(), foreign)
	}
	return l, nil
}

func (l *Loaded) set(flag *pflag.Flag, value string, origin Origin) error {
	if err := l.flags.Set(flag.Name, value); err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the words about flags
		}
		switch {
		case isSecret(flag):
			return fmt.Errorf("%s has a value that cannot be read", origin.spell(flag.Name))
		case isURL(flag): // where in it a password is nobody knows
			return fmt.Errorf("%s cannot be read: %w", origin.spell(flag.Name), err)
		}
		return fmt.Errorf("%s is %q: %w", origin.spell(flag.Name), value, err)
	}
	l.origins[flag.Name] = origin
	return nil
}

func (l *Loaded) loadFile(path string, foreign func(string) string) error {
	named := l.origins[FileFlag].spell(FileFlag)
	text, err := readFile(path)
	if err != nil {
		return fmt.Errorf("%s: %w", named, err)
	}
	pairs, err := parse(path, text)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		flag := l.flags.Lookup(p.key)
		switch {
		case flag == nil || p.key == FileFlag || p.key == "help":
			return unknown(p, foreign)
		case l.origins[p.key].kind != fromDefault:
			continue // said where it counts more
		}
		if err := l.set(flag, p.value, Origin{kind: fromFile, where: p.where}); err != nil {
			return err
		}
	}
	return nil
}

func unknown(p pair, foreign func(string) string) error {
	if whose := foreign(p.key); whose != "" {
		return fmt.Errorf("%s: %s is a setting of %s, not of this command", p.where, p.key, whose)
	}
	return fmt.Errorf("%s: there is no setting %q", p.where, p.key)
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err == nil && len(text) > maxFileBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFileBytes)
	}
	return text, err
}

// pair is a line of the file.
type pair struct{ key, value, where string }

// parse reads a file: a mapping of names to plain values and lists of them. A
// list becomes what the flag takes, its values with commas between.
func parse(path string, text []byte) ([]pair, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil // empty, or comments only
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if decoder.Decode(new(yaml.Node)) == nil {
		return nil, fmt.Errorf("%s: it holds more than one document", path)
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want a mapping, as in `lease-ttl: 5s`", path, root.Line)
	}
	var pairs []pair
	seen := make(map[string]int) // :: key -> line
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, node := root.Content[i], root.Content[i+1]
		where := fmt.Sprintf("%s:%d", path, key.Line)
		if first, twice := seen[key.Value]; twice {
			return nil, fmt.Errorf("%s: %s is given again, after line %d", where, key.Value, first)
		}
		seen[key.Value] = key.Line
		value, err := valueOf(node)
		if err != nil {
			return nil, fmt.Errorf("%s: %s %w", where, key.Value, err)
		}
		pairs = append(pairs, pair{key: key.Value, value: value, where: where})
	}
	return pairs, nil
}

func valueOf(node *yaml.Node) (string, error) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return "", errors.New("has no value")
	case node.Kind == yaml.ScalarNode:
		return node.Value, nil
	case node.Kind != yaml.SequenceNode:
		return "", errors.New("is neither a plain value nor a list")
	}
	values := make([]string, len(node.Content))
	for i, item := range node.Content {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" || strings.Contains(item.Value, ",") {
			return "", errors.New("has something in its list that is not a plain value, or a comma in one")
		}
		values[i] = item.Value
	}
	return strings.Join(values, ","), nil
}

// Explain gives an *Error, if err is or wraps one, the name by which the
// setting was given.
func (l *Loaded) Explain(err error) error {
	wrong, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	return fmt.Errorf("%s %s", l.origins[wrong.Name].spell(wrong.Name), wrong.Problem)
}

// Hide marks the flags whose values nobody should see.
func Hide(flags *pflag.FlagSet, names ...string) { annotate(flags, secretAnnotation, names) }

// HideUser marks the flags whose values are URLs, in which there may be a name
// and a password that nobody should see.
func HideUser(flags *pflag.FlagSet, names ...string) { annotate(flags, urlAnnotation, names) }

func annotate(flags *pflag.FlagSet, annotation string, names []string) {
	for _, name := range names {
		flag := flags.Lookup(name)
		if flag.Annotations == nil {
			flag.Annotations = make(map[string][]string)
		}
		flag.Annotations[annotation] = nil
	}
}

func isSecret(flag *pflag.Flag) bool {
	_, secret := flag.Annotations[secretAnnotation]
	return secret
}

func isURL(flag *pflag.Flag) bool {
	_, is := flag.Annotations[urlAnnotation]
	return is
}

// Redact returns an error of parsing a command line without the value, if it is
// of a flag whose value nobody should see.
func Redact(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok || !isSecret(invalid.GetFlag()) && !isURL(invalid.GetFlag()) {
		return err
	}
	name := Origin{kind: fromFlag}.spell(invalid.GetFlag().Name)
	if cause := errors.Unwrap(invalid); cause != nil && isURL(invalid.GetFlag()) {
		return fmt.Errorf("%s cannot be read: %w", name, cause)
	}
	return fmt.Errorf("%s has a value that cannot be read", name)
}

// Setting is a value in force.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"` // secrets masked
	From  string `json:"from"`  // flag, variable, file:line or default
}

// InForce lists the settings by name, without the file itself.
func (l *Loaded) InForce() []Setting {
	var all []Setting
	l.flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "help" && flag.Name != FileFlag {
			all = append(all, Setting{flag.Name, shown(flag), l.origins[flag.Name].describe(flag.Name)})
		}
	})
	slices.SortFunc(all, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func shown(flag *pflag.Flag) string {
	const mask = "********"
	value := flag.Value.String()
	if list, ok := flag.Value.(pflag.SliceValue); ok {
		value = strings.Join(list.GetSlice(), ",")
	}
	if isSecret(flag) && value != "" {
		return mask
	}
	if isURL(flag) {
		return maskUsers(value, mask)
	}
	return value
}

// maskUsers hides what is before the last @ behind each scheme: more than it
// must where a path has one, but never less.
func maskUsers(urls, mask string) string {
	parts := strings.Split(urls, "://")
	for i, part := range parts {
		if at := strings.LastIndexByte(part, '@'); at >= 0 {
			parts[i] = mask + part[at:]
		}
	}
	return strings.Join(parts, "://")
}

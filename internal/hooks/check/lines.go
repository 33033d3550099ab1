package check

import (
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// lines knows where in a file everything is. It reads the file a second time,
// with a parser that tells; what the file means is package spec's to say.
type lines struct {
	at       map[string]int // :: path, as in [0].trigger-rule.and[1] -> line
	problems []Problem
}

// locate reads where everything is. If the parser cannot read the file, there
// are no lines.
func locate(text []byte) *lines {
	l := &lines{at: map[string]int{}}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err == nil && len(document.Content) > 0 {
		l.walk(document.Content[0], reflect.TypeFor[[]spec.Hook](), "", 0)
	}
	return l
}

// of returns the line of what is at path, or of the nearest thing around it.
func (l *lines) of(path string) int {
	for path != "" {
		if line, ok := l.at[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

// maxDepth bounds aliases that contain themselves.
const maxDepth = 100

// walk notes the lines below node, which should be of type want.
func (l *lines) walk(node *yaml.Node, want reflect.Type, path string, depth int) {
	if depth > maxDepth {
		return
	}
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if _, ok := l.at[path]; !ok {
		l.at[path] = node.Line
	}
	for want.Kind() == reflect.Pointer {
		want = want.Elem()
	}
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return
	}
	switch want.Kind() {
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			l.note(node, "%s: want a list", orFile(path))
			return
		}
		for i, child := range node.Content {
			l.walk(child, want.Elem(), path+"["+strconv.Itoa(i)+"]", depth+1)
		}
	case reflect.Struct:
		if node.Kind != yaml.MappingNode {
			l.note(node, "%s: want keys and values", orFile(path))
			return
		}
		l.walkStruct(node, want, path, depth)
	case reflect.Bool:
		if node.Kind != yaml.ScalarNode || node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 || !isBool(node.Value) {
			l.note(node, "%s: want true or false, got %q", path, node.Value)
		}
	case reflect.Int, reflect.Int64:
		if node.Kind != yaml.ScalarNode || node.Tag != "!!int" && node.Tag != "!!float" {
			l.note(node, "%s: want a number, got %q", path, node.Value)
		}
	case reflect.String:
		if node.Kind != yaml.ScalarNode {
			l.note(node, "%s: want a text", path)
		}
	}
}

func (l *lines) walkStruct(node *yaml.Node, want reflect.Type, path string, depth int) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Tag == "!!merge" {
			l.walkMerged(value, want, path, depth)
			continue
		}
		field, name, ok := fieldOf(want, key.Value)
		if !ok {
			l.warn(key, "%s: the key %q is not known, and does not count%s", orFile(path), key.Value, similar(want, key.Value))
			continue
		}
		if seen[name] {
			l.warn(key, "%s: the key %q is there twice; the last one counts", orFile(path), name)
		}
		seen[name] = true
		child := strings.TrimPrefix(path+"."+name, ".")
		l.at[child] = key.Line
		l.walk(value, field, child, depth+1)
	}
}

// walkMerged walks what `<<` refers to.
func (l *lines) walkMerged(value *yaml.Node, want reflect.Type, path string, depth int) {
	for value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	merged := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		merged = value.Content
	}
	for _, node := range merged {
		// Mistakes in it are told where it stands itself.
		quiet := &lines{at: l.at}
		quiet.walk(node, want, path, depth+1)
	}
}

// fieldOf finds the field of a key, as encoding/json does.
func fieldOf(structure reflect.Type, key string) (field reflect.Type, name string, ok bool) {
	for field := range structure.Fields() {
		name := field.Tag.Get("json")
		if strings.EqualFold(name, key) {
			return field.Type, name, true
		}
	}
	return nil, "", false
}

// similar suggests the key that was meant: the same but for hyphens, or one
// that begins alike.
func similar(structure reflect.Type, key string) string {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
	}
	for field := range structure.Fields() {
		name := field.Tag.Get("json")
		if plain(name) == plain(key) || strings.TrimSuffix(plain(name), "s") == strings.TrimSuffix(plain(key), "s") {
			return "; is " + name + " meant?"
		}
	}
	return ""
}

func isBool(text string) bool {
	switch strings.ToLower(text) {
	case "true", "false", "yes", "no", "on", "off", "y", "n":
		return true
	}
	return false
}

func orFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

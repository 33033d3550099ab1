package setting_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

// example is a command's settings.
type example struct {
	flags *pflag.FlagSet
	ttl   time.Duration
	count int
	hosts []string
	open  bool
}

func newExample() *example {
	e := &example{flags: pflag.NewFlagSet("example", pflag.ContinueOnError)}
	e.flags.DurationVar(&e.ttl, "lease-ttl", 10*time.Second, "")
	e.flags.IntVar(&e.count, "count", 3, "")
	e.flags.StringSliceVar(&e.hosts, "hosts", nil, "")
	e.flags.BoolVar(&e.open, "open", false, "")
	e.flags.String("password", "", "")
	e.flags.String("nats-url", "", "")
	e.flags.String(setting.FileFlag, "", "")
	setting.Hide(e.flags, "password")
	setting.HideUser(e.flags, "nats-url")
	return e
}

// load parses a command line, an environment and a file, "" for none.
func (e *example) load(t *testing.T, args []string, env map[string]string, file string) (*setting.Loaded, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fanfare.yaml")
	if file != "" {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := e.flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { value, ok := env[name]; return value, ok }
	foreign := func(key string) string {
		if key == "elsewhere" {
			return "`fanfare other`"
		}
		return ""
	}
	loaded, err := setting.Load(e.flags, lookup, foreign)
	return loaded, path, err
}

// What is nearer to the user counts, and it is known where it came from.
func TestPrecedence(t *testing.T) {
	e := newExample()
	loaded, path, err := e.load(t, []string{"--count", "7"},
		map[string]string{"FANFARE_COUNT": "8", "FANFARE_LEASE_TTL": "5s", "FANFARE_UNKNOWN": "x"},
		"# settings\ncount: 9\nlease-ttl: 6s\nhosts: [a, b]\nopen: true\npassword: \"hunter2\"\nnats-url: nats://me:hunt,er/2@n1:4222,nats://n2,nats://you:x@hunter2@n3\n")
	if err != nil {
		t.Fatal(err)
	}
	if e.count != 7 || e.ttl != 5*time.Second || cmp.Diff([]string{"a", "b"}, e.hosts) != "" || !e.open {
		t.Errorf("got %+v", e)
	}
	want := []setting.Setting{
		{Name: "count", Value: "7", From: "--count"},
		{Name: "hosts", Value: "a,b", From: path + ":4"},
		{Name: "lease-ttl", Value: "5s", From: "FANFARE_LEASE_TTL"},
		{Name: "nats-url", Value: "nats://********@n1:4222,nats://n2,nats://********@n3", From: path + ":7"},
		{Name: "open", Value: "true", From: path + ":5"},
		{Name: "password", Value: "********", From: path + ":6"},
	}
	if diff := cmp.Diff(want, loaded.InForce()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
}

// What is wrong is said with where it was given.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		file string
		says string // PATH stands for the file
	}{
		{"a variable of the wrong kind", map[string]string{"FANFARE_COUNT": "many"}, "", `FANFARE_COUNT is "many"`},
		{"a secret of the wrong kind is not told", nil, "password: [a, {b: hunter2}]", "PATH:1: password has something in its list"},
		{"a line of the wrong kind", nil, "count: 1\nlease-ttl: soon", `PATH:2: lease-ttl is "soon"`},
		{"an unknown key", nil, "count: 1\ncuont: 2", `PATH:2: there is no setting "cuont"`},
		{"another command's key", nil, "elsewhere: 2", "PATH:1: elsewhere is a setting of `fanfare other`"},
		{"the file names a file", nil, "config: x", `PATH:1: there is no setting "config"`},
		{"a key twice", nil, "count: 1\ncount: 2", "PATH:2: count is given again, after line 1"},
		{"no value", nil, "count:", "PATH:1: count has no value"},
		{"a mapping as value", nil, "count: {a: 1}", "PATH:1: count is neither"},
		{"no mapping", nil, "- a", "PATH:1: want a mapping"},
		{"no YAML", nil, "a: [", "PATH: yaml"},
		{"two documents", nil, "count: 1\n---\ncount: 2", "PATH: it holds more than one document"},
	} {
		_, path, err := newExample().load(t, nil, tt.env, tt.file)
		want := strings.ReplaceAll(tt.says, "PATH", path)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want %s", tt.name, err, want)
		}
	}
	_, _, err := newExample().load(t, []string{"--config", "/none/such"}, nil, "")
	if err == nil || !strings.HasPrefix(err.Error(), "--config: ") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// What a command finds wrong later gets the name it was given by.
func TestExplain(t *testing.T) {
	loaded, path, err := newExample().load(t, []string{"--open"}, map[string]string{"FANFARE_COUNT": "8"}, "lease-ttl: 1ms")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"open": "--open is wrong", "count": "FANFARE_COUNT is wrong", "lease-ttl": path + ":1: lease-ttl is wrong", "hosts": "--hosts is wrong",
	} {
		if got := loaded.Explain(errors.Join(setting.Wrong(name, "is wrong"))); got.Error() != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if other := errors.New("other"); !errors.Is(loaded.Explain(other), other) {
		t.Error("another error is not left alone")
	}
}

// FuzzFile: no file makes the reader panic, and what it accepts sets flags only.
func FuzzFile(f *testing.F) {
	f.Add("count: 1\nhosts: [a, b]\n")
	f.Add("&a {count: *a}")
	f.Add("? [x]\n: y")
	f.Add("<<: {count: 2}")
	f.Fuzz(func(t *testing.T, text string) {
		e := newExample()
		if _, _, err := e.load(t, nil, nil, text+"\n"); err != nil {
			return
		}
		if e.ttl == 0 && !strings.Contains(text, "lease-ttl") {
			t.Error("a flag was changed that the file does not name")
		}
	})
}

// picky is a flag that takes nothing.
type picky struct{}

func (picky) String() string   { return "" }
func (picky) Type() string     { return "picky" }
func (picky) Set(string) error { return errors.New("it is not what it should be") }

// A value that cannot be read is quoted, unless it may have a secret in it.
func TestRedact(t *testing.T) {
	const value = "https:/me:hunter2@host"
	for name, want := range map[string]string{
		"plain":    `invalid argument "https:/me:hunter2@host" for "--plain" flag: it is not what it should be`,
		"url":      "--url cannot be read: it is not what it should be",
		"password": "--password has a value that cannot be read",
	} {
		flags := pflag.NewFlagSet("example", pflag.ContinueOnError)
		for _, flag := range []string{"plain", "url", "password"} {
			flags.Var(picky{}, flag, "")
		}
		setting.Hide(flags, "password")
		setting.HideUser(flags, "url")
		if err := setting.Redact(flags.Parse([]string{"--" + name, value})); err == nil || err.Error() != want {
			t.Errorf("on the command line: %v, want %s", err, want)
		}
		lookup := func(variable string) (string, bool) { return value, variable == setting.Variable(name) }
		_, err := setting.Load(flags, lookup, func(string) string { return "" })
		if err == nil || strings.Contains(err.Error(), "hunter2") != (name == "plain") || !strings.Contains(err.Error(), setting.Variable(name)) {
			t.Errorf("in the environment: %v", err)
		}
	}
	if err := errors.New("else"); setting.Redact(err) != err { //nolint:errorlint // it is this very one
		t.Error("another error is not left as it is")
	}
}

package architecture_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestThisModuleKeepsTheRules(t *testing.T) {
	root := os.DirFS(filepath.Join("..", ".."))
	parsed, err := parseTree(root)
	if err != nil {
		t.Fatal(err)
	}
	// The checker looked at the right place.
	if got, want := parsed.module, "github.com/fanfare-dev/fanfare"; got != want {
		t.Fatalf("module is %q, want %q", got, want)
	}
	if dirs := parsed.dirs(); !slices.Contains(dirs, "internal/architecture") {
		t.Fatalf("this package is not among those found: %q", dirs)
	}
	found, err := violations(root, houseRules())
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range found {
		t.Error(violation)
	}
}

// Each case is a module with one or more files; the violations wanted are
// what the checker says without the reason.
func TestViolations(t *testing.T) {
	const module = "example.com/m"
	tests := []struct {
		name  string
		files map[string]string // :: file -> source after its package clause
		want  []string
	}{
		{
			name: "nothing there yet",
		},
		{
			name: "all allowed",
			files: map[string]string{
				"coordinator/c.go":        `import ("net"; "os"; "time"; _ "example.com/m/proto"); func f() { go func() {}(); _ = time.Now(); _ = os.Args; _ = net.IP{} }`,
				"coordinator/ledger/l.go": `import ("math/rand/v2"; "net/url"; "time"; _ "example.com/m/proto"; _ "example.com/m/internal/ids"); func f(now time.Time) (*url.URL, *rand.Rand, time.Duration) { return nil, rand.New(rand.NewPCG(1, 2)), now.Sub(now) }`,
				"internal/ids/i.go":       `import _ "strings"`,
				"proto/p.go":              `import (_ "google.golang.org/grpc"; _ "os")`,
				"worker/w.go":             `import (_ "net/http"; _ "example.com/m/proto"; _ "example.com/m/internal/ids")`,
				"signature/s.go":          `import _ "crypto/hmac"`,
				"client/c.go":             `import (_ "google.golang.org/grpc"; _ "example.com/m/proto")`,
				"cmd/m/main.go":           `import (_ "example.com/m/worker"; _ "example.com/m/coordinator")`,
			},
		},
		{
			name: "coordinator and worker import each other",
			files: map[string]string{
				"coordinator/c.go":       `import _ "example.com/m/worker/egress"`,
				"worker/egress/e.go":     `import _ "example.com/m/coordinator"`,
				"worker/w_test.go":       `import _ "example.com/m/coordinator/ledger"`,
				"workerpool/notmeant.go": `import _ "example.com/m/coordinator"`,
			},
			want: []string{
				"coordinator/c.go:3: imports example.com/m/worker/egress",
				"worker/egress/e.go:3: imports example.com/m/coordinator",
				"worker/w_test.go:3: imports example.com/m/coordinator/ledger",
			},
		},
		{
			name: "public packages import what is not public",
			files: map[string]string{
				"client/c.go":         `import _ "example.com/m/internal/ids"`,
				"receiver/r.go":       `import _ "example.com/m/worker"`,
				"signature/s.go":      `import _ "golang.org/x/crypto/ed25519"`,
				"signature/s_test.go": `import _ "github.com/google/go-cmp/cmp"`,
			},
			want: []string{
				"client/c.go:3: imports example.com/m/internal/ids",
				"receiver/r.go:3: imports example.com/m/worker",
				"signature/s.go:3: imports golang.org/x/crypto/ed25519",
			},
		},
		{
			name: "pure packages do I/O",
			files: map[string]string{
				"coordinator/assign/a.go":      `import _ "google.golang.org/grpc/codes"`,
				"coordinator/dispatch/d.go":    `import (_ "net"; _ "net/http/httptrace")`,
				"coordinator/ledger/l.go":      `import (_ "os"; _ "database/sql")`,
				"coordinator/ledger/l_test.go": `import _ "os"`,
			},
			want: []string{
				"coordinator/assign/a.go:3: imports google.golang.org/grpc/codes",
				"coordinator/dispatch/d.go:3: imports net/http/httptrace",
				"coordinator/dispatch/d.go:3: imports net",
				"coordinator/ledger/l.go:3: imports database/sql",
				"coordinator/ledger/l.go:3: imports os",
			},
		},
		{
			name: "pure packages do I/O through others",
			files: map[string]string{
				"coordinator/ledger/l.go": `import _ "example.com/m/internal/near"`,
				"internal/near/n.go":      `import _ "example.com/m/internal/far"`,
				"internal/far/f.go":       `import _ "os/exec"`,
			},
			want: []string{
				"internal/far/f.go:3: imports os/exec and is imported by coordinator/ledger",
			},
		},
		{
			name: "pure packages have a clock, chance or goroutines",
			files: map[string]string{
				"coordinator/ledger/clock.go":  `import "time"; var started = time.Now()`,
				"coordinator/ledger/alias.go":  `import clock "time"; func f() { _ = clock.Since(clock.Time{}) }`,
				"coordinator/ledger/dot.go":    `import . "time"; var started = Now()`,
				"coordinator/ledger/value.go":  `import "time"; var now = func() func() time.Time { return time.Now }`,
				"coordinator/ledger/chance.go": `import "math/rand/v2"; func f() int { return rand.IntN(2) }`,
				"coordinator/ledger/go.go":     `func f() { go f() }`,
			},
			want: []string{
				"coordinator/ledger/alias.go:3: uses clock.Since",
				"coordinator/ledger/chance.go:3: uses rand.IntN",
				"coordinator/ledger/clock.go:3: uses time.Now",
				"coordinator/ledger/dot.go:3: imports time into its own scope",
				"coordinator/ledger/go.go:3: starts a goroutine",
				"coordinator/ledger/value.go:3: uses time.Now",
			},
		},
		{
			name: "what the go command leaves out is left out",
			files: map[string]string{
				"coordinator/testdata/t.go": `import _ "example.com/m/worker"`,
				"coordinator/_old/o.go":     `import _ "example.com/m/worker"`,
				"coordinator/other/go.mod":  "",
				"coordinator/other/o.go":    `import _ "example.com/m/worker"`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := violations(syntheticModule(module, tt.files), houseRules())
			if err != nil {
				t.Fatal(err)
			}
			for i, violation := range got {
				got[i] = violation[:strings.LastIndex(violation, ": ")]
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestViolationsInWhatDoesNotParse(t *testing.T) {
	broken := syntheticModule("example.com/m", map[string]string{"worker/w.go": "func {"})
	if _, err := violations(broken, houseRules()); err == nil {
		t.Error("no error for a file that does not parse")
	}
	if _, err := violations(fstest.MapFS{}, houseRules()); err == nil {
		t.Error("no error for a folder without a module")
	}
}

// syntheticModule makes a module of these files. Each gets a package clause,
// so that its source begins on line 3.
func syntheticModule(module string, files map[string]string) fstest.MapFS {
	root := fstest.MapFS{"go.mod": {Data: []byte("module " + module + "\n\ngo 1.26\n")}}
	for name, source := range files {
		root[name] = &fstest.MapFile{Data: []byte("package p\n\n" + source + "\n")}
	}
	return root
}

package architecture_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// rule is one sentence about the packages under some folders. A path covers
// itself and everything below it.
type rule struct {
	dirs []string // the folders it is about, relative to the module
	why  string   // said with every violation

	deny    []string // import paths that they may not have; "." + path is in this module
	stdOnly bool     // they import the standard library only
	pure    bool     // they do no I/O, read no clock, start no goroutine
	tests   bool     // their tests are bound by it too
}

// houseRules are the rules of this module.
func houseRules() []rule {
	return []rule{
		{
			dirs: []string{"coordinator"}, deny: []string{"./worker"}, tests: true,
			why: "coordinator and worker meet only in proto/",
		},
		{
			dirs: []string{"worker"}, deny: []string{"./coordinator"}, tests: true,
			why: "coordinator and worker meet only in proto/",
		},
		{
			dirs: []string{"signature", "receiver", "client"},
			deny: []string{"./internal", "./coordinator", "./worker"},
			why:  "public packages stand on their own",
		},
		{
			dirs: []string{"signature"}, stdOnly: true,
			why: "whoever verifies a signature should need nothing else",
		},
		{
			dirs: []string{"coordinator/ledger", "coordinator/dispatch", "coordinator/assign", "coordinator/alert"},
			pure: true,
			why:  "the same input gives the same state",
		},
	}
}

// impureImports are what a package without I/O does not import. Of net only
// the packages that talk: net/url and net/netip just parse.
func impureImports() []string {
	return []string{
		"crypto/rand", "database/sql", "net/http", "net/rpc", "net/smtp", "os", "syscall",
		"github.com/nats-io", "go.etcd.io/etcd", "google.golang.org/grpc",
	}
}

// impureCalls are the functions, by import path, that a pure package may not
// use although it may import their package: clocks, timers, and chance that
// is not seeded.
func impureCalls() map[string][]string {
	chance := []string{
		"ExpFloat64", "Float32", "Float64", "Int", "Int31", "Int31n", "Int32", "Int32N", "Int63",
		"Int63n", "Int64", "Int64N", "IntN", "Intn", "N", "NormFloat64", "Perm", "Read", "Seed",
		"Shuffle", "Uint", "Uint32", "Uint32N", "Uint64", "Uint64N", "UintN",
	}
	return map[string][]string{
		"time": {
			"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until",
		},
		"math/rand":    chance,
		"math/rand/v2": chance,
	}
}

// tree is a module as parsed: its packages by folder, relative to the root.
type tree struct {
	module   string
	packages map[string][]sourceFile
}

type sourceFile struct {
	name   string // path relative to the root
	isTest bool
	fset   *token.FileSet
	syntax *ast.File
}

// violations returns, in order, one line for each place in the module at root
// that breaks one of the rules. A rule about folders that do not exist is kept.
// A file that does not parse is an error.
func violations(root fs.FS, rules []rule) ([]string, error) {
	parsed, err := parseTree(root)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, r := range rules {
		for _, dir := range parsed.dirs() {
			if coveredByAny(dir, r.dirs) {
				found = append(found, parsed.check(dir, r)...)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// dirs returns the folders that have packages, in order.
func (t *tree) dirs() []string {
	var dirs []string
	for dir := range t.packages {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return dirs
}

// check returns where the package in dir breaks r.
func (t *tree) check(dir string, r rule) []string {
	var found []string
	for _, file := range t.packages[dir] {
		if file.isTest && !r.tests {
			continue
		}
		for _, spec := range file.syntax.Imports {
			imported := importPath(spec)
			if t.denied(imported, r) {
				found = append(found, file.at(spec.Pos(), "imports "+imported, r.why))
			}
		}
		if r.pure {
			found = append(found, file.impurities(r.why)...)
		}
	}
	if r.pure {
		found = append(found, t.impureReach(dir, r.why)...)
	}
	return found
}

// denied reports whether r forbids to import this path.
func (t *tree) denied(imported string, r rule) bool {
	switch {
	case r.stdOnly && !isStandard(imported):
		return true
	case r.pure && isImpure(imported):
		return true
	}
	for _, deny := range r.deny {
		if below, ok := strings.CutPrefix(deny, "./"); ok {
			deny = t.module + "/" + below
		}
		if covers(deny, imported) {
			return true
		}
	}
	return false
}

// impureReach follows what dir imports of this module, and of that in turn,
// and returns the packages on the way that do I/O. The generated code in
// proto/ is the exception: it imports gRPC, but messages alone are values.
func (t *tree) impureReach(dir, why string) []string {
	var found []string
	seen := map[string]bool{dir: true}
	next := []string{dir}
	for len(next) > 0 {
		from := next[0]
		next = next[1:]
		for _, file := range t.packages[from] {
			if file.isTest {
				continue
			}
			for _, spec := range file.syntax.Imports {
				imported := importPath(spec)
				below, ours := strings.CutPrefix(imported, t.module+"/")
				switch {
				case ours && !seen[below] && !covers("proto", below):
					seen[below] = true
					next = append(next, below)
				case from != dir && isImpure(imported):
					found = append(found, file.at(spec.Pos(), "imports "+imported+" and is imported by "+dir, why))
				}
			}
		}
	}
	return found
}

// impurities returns the clocks, the unseeded chance and the goroutines in f.
func (f sourceFile) impurities(why string) []string {
	var found []string
	calls := map[string][]string{} // :: the name a package has in this file -> forbidden functions
	for _, spec := range f.syntax.Imports {
		imported := importPath(spec)
		forbidden, ok := impureCalls()[imported]
		switch {
		case !ok:
		case spec.Name == nil:
			calls[packageName(imported)] = forbidden
		case spec.Name.Name == ".":
			found = append(found, f.at(spec.Pos(), "imports "+imported+" into its own scope", why))
		default:
			calls[spec.Name.Name] = forbidden
		}
	}
	for node := range ast.Preorder(f.syntax) {
		switch node := node.(type) {
		case *ast.GoStmt:
			found = append(found, f.at(node.Pos(), "starts a goroutine", why))
		case *ast.SelectorExpr:
			if x, ok := node.X.(*ast.Ident); ok && slices.Contains(calls[x.Name], node.Sel.Name) {
				found = append(found, f.at(node.Pos(), "uses "+x.Name+"."+node.Sel.Name, why))
			}
		}
	}
	return found
}

// at words a violation at one place of f.
func (f sourceFile) at(pos token.Pos, what, why string) string {
	return fmt.Sprintf("%s:%d: %s: %s", f.name, f.fset.Position(pos).Line, what, why)
}

// parseTree parses the packages of the module at root. Folders that the go
// command leaves out are left out, as are modules inside this one.
func parseTree(root fs.FS) (*tree, error) {
	goMod, err := fs.ReadFile(root, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("reading go.mod: %w", err)
	}
	parsed := &tree{module: modulePath(string(goMod)), packages: map[string][]sourceFile{}}
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && isLeftOut(root, name):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		file, err := parseFile(root, name)
		if err != nil {
			return err
		}
		parsed.packages[path.Dir(name)] = append(parsed.packages[path.Dir(name)], file)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walking module: %w", err)
	}
	return parsed, nil
}

func parseFile(root fs.FS, name string) (sourceFile, error) {
	source, err := fs.ReadFile(root, name)
	if err != nil {
		return sourceFile{}, err
	}
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return sourceFile{}, err
	}
	return sourceFile{
		name:   name,
		isTest: strings.HasSuffix(name, "_test.go"),
		fset:   fset,
		syntax: syntax,
	}, nil
}

// isLeftOut reports whether the go command would not look into this folder.
func isLeftOut(root fs.FS, dir string) bool {
	if dir == "." {
		return false
	}
	base := path.Base(dir)
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(root, dir+"/go.mod")
	return err == nil
}

// modulePath returns what the module line of a go.mod names.
func modulePath(goMod string) string {
	for line := range strings.Lines(goMod) {
		if module, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(module)
		}
	}
	return ""
}

// importPath returns the path that spec has in quotes.
func importPath(spec *ast.ImportSpec) string {
	return strings.Trim(spec.Path.Value, "\"`")
}

// packageName returns the name by which a standard package is used.
func packageName(imported string) string {
	if base := path.Base(imported); base != "v2" {
		return base
	}
	return path.Base(path.Dir(imported))
}

// isStandard reports whether an import path is the standard library's: its
// first element has no dot.
func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

func isImpure(imported string) bool {
	return imported == "net" || coveredByAny(imported, impureImports())
}

func coveredByAny(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return covers(prefix, name) })
}

// covers reports whether name is prefix or lies below it.
func covers(prefix, name string) bool {
	return name == prefix || strings.HasPrefix(name, prefix+"/")
}

package server

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/rules"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// DefaultQueue is how many commands wait for a hook with max-concurrency.
const DefaultQueue = 100

// hook is a hook made ready. It never changes.
type hook struct {
	spec    *spec.Hook
	rule    *rules.Rule
	methods []string
	queue   int
	timeout time.Duration
	window  time.Duration
}

func newHook(from *spec.Hook) *hook {
	made := &hook{spec: from, rule: rules.Compile(from.Rule), queue: DefaultQueue}
	for _, method := range from.Methods {
		made.methods = append(made.methods, strings.ToUpper(strings.TrimSpace(method)))
	}
	if from.MaxQueue != nil {
		made.queue = *from.MaxQueue
	}
	made.timeout, _ = spec.Duration(from.Timeout) // checked when the file was read
	window, _ := spec.Duration(from.DeduplicateWindow)
	made.window = cmp.Or(window, DefaultWindow)
	return made
}

// table is what requests see: all hooks by id. It never changes; a reload puts
// another in its place.
type table map[string]*hook

// DuplicateError says that an id is in two hooks files, or twice in one.
type DuplicateError struct{ ID string }

// Error implements error.
func (e *DuplicateError) Error() string {
	return fmt.Sprintf("hook with the id %s has already been loaded! please check your hooks file for duplicate hooks ids!", e.ID)
}

// ErrNoHooks says that there is nothing to serve.
var ErrNoHooks = errors.New("couldn't load any hooks from file")

// Library is the hooks files and what is in them. It is safe for concurrent
// use.
type Library struct {
	paths     []string
	templated bool
	journal   *journal.Journal
	current   atomic.Pointer[table]

	mu      sync.Mutex
	files   []*hooksFile // guarded by mu
	refused []error      // guarded by mu; see Refused
}

// hooksFile is one file. It is guarded by its library's mu.
type hooksFile struct {
	path string
	// folder is the directory it was found in, if that and not the file was
	// named.
	folder string
	hooks  []*hook
	// secrets are the files its secrets are in.
	secrets []string
	// seen is how the file was when it was last read.
	seen stamp
	gone time.Time // when it was first missed; zero if it is there
}

// NewLibrary returns a library without hooks. Paths are files, or directories
// of which all .json, .yaml and .yml files count.
func NewLibrary(paths []string, templated bool, log *journal.Journal) *Library {
	l := &Library{paths: paths, templated: templated, journal: log}
	l.current.Store(&table{})
	return l
}

// find returns the hook with the id.
func (l *Library) find(id string) *hook { return (*l.current.Load())[id] }

// Len returns how many hooks there are.
func (l *Library) Len() int { return len(*l.current.Load()) }

// Load reads all files for the first time. A file that cannot be read is told
// to the log and left out for good. It fails with a *DuplicateError if an id
// is in two files; within a file the first one wins.
func (l *Library) Load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, path := range l.paths {
		for _, file := range l.expand(path) {
			if err := l.read(file, false); err != nil {
				if _, ok := errors.AsType[*DuplicateError](err); ok {
					return err
				}
				l.journal.Printf("couldn't load hooks from file! %v", err)
				l.refused = append(l.refused, fmt.Errorf("couldn't load hooks from %s: %w", file.path, err))
				if file.folder == "" {
					continue
				}
			}
			l.files = append(l.files, file)
		}
	}
	l.publish()
	return nil
}

// Refused returns why files were left out by Load.
func (l *Library) Refused() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.refused)
}

// Reload reads every file again, each for itself: one that is wrong keeps the
// hooks it had.
func (l *Library) Reload() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rescan()
	for _, file := range l.files {
		l.reload(file)
	}
	l.publish()
}

func (l *Library) reload(file *hooksFile) {
	err := l.read(file, true)
	if err == nil {
		file.gone = time.Time{}
		return
	}
	if _, ok := errors.AsType[*DuplicateError](err); ok {
		l.journal.Printf("error: %v", err)
		l.journal.Printf("reverting hooks back to the previous configuration")
		return
	}
	l.journal.Printf("couldn't load hooks from file! %v", err)
}

// FilesIn returns the hooks files that path stands for: itself, or, if it is a
// directory, those in it, sorted by name.
func FilesIn(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, nil //nolint:nilerr // who reads it sees
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		name := entry.Name()
		if slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(name)) && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(path, name))
		}
	}
	return files, nil
}

// expand returns the files that path stands for.
func (l *Library) expand(path string) []*hooksFile {
	paths, err := FilesIn(path)
	if err != nil {
		l.journal.Printf("couldn't load hooks from directory! %v", err)
		return nil
	}
	var files []*hooksFile
	for _, one := range paths {
		file := &hooksFile{path: one}
		if one != path {
			file.folder = path
		}
		files = append(files, file)
	}
	return files
}

// rescan adds the files that are new in the directories, and takes away those
// that are gone from them.
func (l *Library) rescan() {
	for _, path := range l.paths {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			continue
		}
		found := l.expand(path)
		l.files = slices.DeleteFunc(l.files, func(known *hooksFile) bool {
			return known.folder == path && indexOf(found, known.path) < 0
		})
		for _, file := range found {
			if indexOf(l.files, file.path) < 0 {
				l.files = append(l.files, file)
			}
		}
	}
}

func indexOf(files []*hooksFile, path string) int {
	return slices.IndexFunc(files, func(f *hooksFile) bool { return f.path == path })
}

// read fills file from its path, or leaves it as it is. strict refuses ids that
// are twice in the file itself.
func (l *Library) read(file *hooksFile, strict bool) error {
	if strict {
		l.journal.Printf("attempting to reload hooks from %s", file.path)
	} else {
		l.journal.Printf("attempting to load hooks from %s", file.path)
	}
	file.seen = stampOf(append([]string{file.path}, file.secrets...))
	loaded, err := spec.Load(file.path, l.templated)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	hooks := make([]*hook, 0, len(loaded.Hooks))
	for i := range loaded.Hooks {
		id := loaded.Hooks[i].ID
		if l.owned(id, file) || strict && seen[id] {
			return &DuplicateError{ID: id}
		}
		seen[id] = true
		hooks = append(hooks, newHook(&loaded.Hooks[i]))
	}
	file.hooks, file.secrets = hooks, loaded.SecretFiles
	file.seen = stampOf(append([]string{file.path}, file.secrets...)).keep(file.seen)
	l.publish() // before it is said
	l.journal.Printf("found %d hook(s) in file", len(hooks))
	for _, one := range hooks {
		l.journal.Printf("\tloaded: %s", one.spec.ID)
	}
	return nil
}

// owned reports whether another file has a hook with the id.
func (l *Library) owned(id string, except *hooksFile) bool {
	for _, file := range l.files {
		if file == except {
			continue
		}
		if slices.ContainsFunc(file.hooks, func(h *hook) bool { return h.spec.ID == id }) {
			return true
		}
	}
	return false
}

// publish shows requests what the files have, and hides the secrets from the
// log.
func (l *Library) publish() {
	all := table{}
	var secrets []string
	for _, file := range l.files {
		for _, one := range file.hooks {
			if all[one.spec.ID] == nil {
				all[one.spec.ID] = one
			}
			for match := range one.spec.Rule.Matches() {
				secrets = append(secrets, match.AllSecrets()...)
			}
		}
	}
	l.journal.Mask(secrets)
	l.current.Store(&all)
}

// stamp tells whether files are as they were.
type stamp map[string]os.FileInfo // :: path -> nil if it is not there

func stampOf(paths []string) stamp {
	seen := make(stamp, len(paths))
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			info = nil
		}
		seen[path] = info
	}
	return seen
}

// keep returns s with what earlier says of the files in both: they were read
// after earlier was taken.
func (s stamp) keep(earlier stamp) stamp {
	for path, info := range earlier {
		if _, ok := s[path]; ok {
			s[path] = info
		}
	}
	return s
}

// same reports whether nothing has changed.
func (s stamp) same(other stamp) bool {
	for path, info := range s {
		now := other[path]
		if (info == nil) != (now == nil) {
			return false
		}
		if info != nil && (!os.SameFile(info, now) || !info.ModTime().Equal(now.ModTime()) || info.Size() != now.Size()) {
			return false
		}
	}
	return true
}

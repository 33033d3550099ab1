package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long files must have been quiet before they are looked
	// at, so that one that is being written is not read half.
	settle = 50 * time.Millisecond
	// patience is when they are looked at although they are not quiet.
	patience = 500 * time.Millisecond
	// absence is how long a file must be missing to count as removed: editors
	// rename it away before they write the new one.
	absence = 100 * time.Millisecond
	// maxLinks bounds a chain of symbolic links.
	maxLinks = 40
)

// Watcher reloads a library when its files change.
//
// It watches the directories of the files, and of every symbolic link on the
// way to them, not the files: so it sees one renamed over another, a link that
// points elsewhere (a Kubernetes ConfigMap), a file that comes back.
type Watcher struct {
	library *Library
	notify  *fsnotify.Watcher
	watched []string // owned by Run after NewWatcher
}

// NewWatcher begins to watch the library's files, which must be loaded. What
// has changed since then is noticed by Run. It must be closed.
func NewWatcher(l *Library) (*Watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching hooks files: %w", err)
	}
	w := &Watcher{library: l, notify: notify}
	for _, path := range l.watchedPaths() {
		l.journal.Printf("setting up file watcher for %s", path)
	}
	w.arm()
	return w, nil
}

// Close ends watching. It must not be called while Run runs.
func (w *Watcher) Close() error { return w.notify.Close() }

// Run reloads what changes until ctx ends; then it returns nil. It fails with
// ErrNoHooks when the last file has been removed; it may be called again then,
// and goes on.
func (w *Watcher) Run(ctx context.Context) error {
	timer := time.NewTimer(0) // something may have changed since the files were loaded
	defer timer.Stop()
	var since time.Time // of the first event that was not looked at; zero if there is none
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.notify.Errors:
			w.library.journal.Printf("watching hooks files: %v", err)
			timer.Reset(settle)
		case <-w.notify.Events:
			if since.IsZero() {
				since = time.Now()
			}
			timer.Reset(max(0, min(settle, patience-time.Since(since))))
		case <-timer.C:
			since = time.Time{}
			w.arm() // before looking, so that nothing happens in between
			again, err := w.library.refresh(time.Now())
			if err != nil {
				return err
			}
			if again {
				timer.Reset(absence)
			}
		}
	}
}

// arm watches the directories that count now.
func (w *Watcher) arm() {
	var wanted []string
	for _, path := range w.library.watchedPaths() {
		wanted = append(wanted, directoriesOf(path)...)
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	for _, directory := range w.watched {
		if !slices.Contains(wanted, directory) {
			_ = w.notify.Remove(directory) // it may have gone by itself
		}
	}
	w.watched = w.watched[:0]
	for _, directory := range wanted {
		if err := w.notify.Add(directory); err != nil {
			w.library.journal.Printf("watching %s: %v", directory, err)
			continue
		}
		w.watched = append(w.watched, directory)
	}
}

// watchedPaths are the files and directories that the library depends on.
func (l *Library) watchedPaths() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, file := range l.files {
		all = append(append(all, file.path), file.secrets...)
	}
	for _, path := range l.paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			all = append(all, filepath.Join(path, "*")) // in it
		}
	}
	return all
}

// directoriesOf returns the directories in which something may change so that
// path names another file: the one it is in, and that of every symbolic link
// on the way, without symbolic links in their own names.
func directoriesOf(path string) []string {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var all []string
	add := func(directory string) {
		if real, err := filepath.EvalSymlinks(directory); err == nil {
			all = append(all, real)
		}
	}
	add(filepath.Dir(absolute))
	current, rest := string(filepath.Separator), strings.TrimPrefix(absolute, filepath.VolumeName(absolute))
	for links := 0; rest != "" && links < maxLinks; {
		var name string
		name, rest, _ = strings.Cut(strings.TrimLeft(rest, string(filepath.Separator)), string(filepath.Separator))
		next := filepath.Join(current, name)
		target, err := os.Readlink(next)
		if err != nil {
			current = next
			continue
		}
		links++
		add(current)
		if filepath.IsAbs(target) {
			current = string(filepath.Separator)
		}
		rest = filepath.Join(target, rest)
	}
	add(filepath.Dir(current))
	return all
}

// refresh reads again what has changed. again says that something is missing
// and has to be looked at once more. It fails with ErrNoHooks when the last
// file that had hooks was removed.
func (l *Library) refresh(now time.Time) (again bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rescan()
	removed := false
	for _, file := range l.files {
		switch l.look(file, now) {
		case fileSame:
		case fileMissing:
			again = true
		case fileRemoved:
			file.hooks, removed = nil, true
			l.publish()
			l.journal.Printf("hooks file %s removed, and its hooks with it", file.path)
		case fileModified:
			l.journal.Printf("hooks file %s modified", file.path)
			l.reload(file)
		case fileOverwritten:
			l.journal.Printf("hooks file %s overwritten", file.path)
			l.reload(file)
		}
	}
	l.publish()
	if removed && l.Len() == 0 {
		return again, ErrNoHooks
	}
	return again, nil
}

type fileState int

const (
	fileSame fileState = iota
	fileModified
	fileOverwritten
	fileMissing // for a moment, perhaps
	fileRemoved
)

// look compares a file with what was read of it.
func (l *Library) look(file *hooksFile, now time.Time) fileState {
	current := stampOf(append([]string{file.path}, file.secrets...))
	before, is := file.seen[file.path], current[file.path]
	switch {
	case is != nil:
		file.gone = time.Time{}
	case before == nil || len(file.hooks) == 0:
		file.seen = current
		return fileSame
	case file.gone.IsZero():
		file.gone = now
		return fileMissing
	case now.Sub(file.gone) < absence:
		return fileMissing
	default:
		file.seen = current
		return fileRemoved
	}
	switch {
	case before == nil: // it was not there
		return fileOverwritten
	case file.seen.same(current):
		return fileSame
	case os.SameFile(before, is):
		return fileModified
	}
	return fileOverwritten
}

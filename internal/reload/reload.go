// Package reload keeps what was read from files up to date with them.
//
// It looks when it is asked, at most once a second, and compares contents. So
// it notices every way in which files change: written in place, renamed over,
// or reached by a symbolic link that was swapped, as Kubernetes does it.
package reload

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// interval is how long what was read counts as new.
const interval = time.Second

// Value is what some files say. Safe for concurrent use.
type Value[T any] struct {
	paths  []string
	parse  func(texts [][]byte) (T, error)
	logger *slog.Logger

	mu       sync.Mutex
	value    T         // guarded by mu
	sum      []byte    // guarded by mu; of the contents that value was made of
	looked   time.Time // guarded by mu
	complain string    // guarded by mu; what was last said to be wrong
}

// New reads the files, and returns an error if they cannot be used now. parse
// is given their contents in the order of paths.
func New[T any](paths []string, parse func(texts [][]byte) (T, error), logger *slog.Logger) (*Value[T], error) {
	v := &Value[T]{paths: paths, parse: parse, logger: logger}
	if err := v.look(); err != nil {
		return nil, err
	}
	return v, nil
}

// Get returns what the files say. While they cannot be read or used, as in the
// middle of a change, it is what they said before, and the logger is told.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.looked) < interval {
		return v.value
	}
	had := v.sum
	err := v.look()
	switch {
	case err != nil && err.Error() != v.complain:
		v.complain = err.Error()
		v.logger.Error("files that changed cannot be used; what they said before still counts", "files", v.paths, "error", err)
	case err == nil && !bytes.Equal(had, v.sum):
		v.complain = ""
		v.logger.Info("reloaded", "files", v.paths)
	}
	return v.value
}

// look reads the files if they have changed. mu must be held, or v be new.
func (v *Value[T]) look() error {
	v.looked = time.Now()
	texts := make([][]byte, len(v.paths))
	hash := sha256.New()
	for i, path := range v.paths {
		text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
		if err != nil {
			return err
		}
		texts[i] = text
		fmt.Fprintf(hash, "%d:", len(text))
		hash.Write(text)
	}
	sum := hash.Sum(nil)
	if bytes.Equal(sum, v.sum) {
		return nil
	}
	value, err := v.parse(texts)
	if err != nil {
		return err
	}
	v.value, v.sum = value, sum
	return nil
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writePIDFile writes this process's id to path. It fails if the process that
// wrote it before still runs. This process's own id is an old one: in a
// container each run has the same.
func writePIDFile(path string) error {
	text, err := os.ReadFile(path) //nolint:gosec // the path is the operator's to choose
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading pidfile: %w", err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid != os.Getpid() && isRunning(pid) {
		return fmt.Errorf("pidfile %s: process %d is running", path, pid)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // others may read who runs
		return fmt.Errorf("making the pidfile's directory: %w", err)
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return fmt.Errorf("writing pidfile: %w", err)
	}
	return nil
}

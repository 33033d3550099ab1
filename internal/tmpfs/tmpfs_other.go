//go:build !linux

package tmpfs

import "testing"

// Run skips the test: it needs Linux.
func Run(t *testing.T, _ int, _ func(t *testing.T, dir string)) {
	t.Helper()
	t.Skip("needs a small file system, which is mounted on Linux only")
}

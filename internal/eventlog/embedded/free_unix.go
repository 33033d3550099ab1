//go:build linux || darwin

package embedded

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes a process without privileges may still take of
// the file system that dir is on, and how many that has in all. It reads
// counters, and waits for no disk.
func Free(dir string) (free, total uint64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, 0, fmt.Errorf("asking for free space: statfs %s: %w", dir, err)
	}
	block := uint64(stat.Bsize) //nolint:gosec,unconvert,nolintlint // its type differs between platforms
	return stat.Bavail * block, stat.Blocks * block, nil
}

package bench

import (
	"fmt"
	"os"

	"github.com/prometheus/procfs"
)

// Usage is what a process has used so far. Zero where the system does not tell.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	RSSBytes   uint64  `json:"max_rss_bytes"`
}

// usageOf reads what a process has used, from Linux's /proc. Elsewhere nothing
// is known.
func usageOf(pid int) (Usage, error) {
	if _, err := os.Stat(procfs.DefaultMountPoint); err != nil {
		return Usage{}, nil //nolint:nilerr // there is none
	}
	process, err := procfs.NewProc(pid)
	if err != nil {
		return Usage{}, fmt.Errorf("reading usage of process %d: %w", pid, err)
	}
	stat, err := process.Stat()
	if err != nil {
		return Usage{}, fmt.Errorf("reading usage of process %d: %w", pid, err)
	}
	status, err := process.NewStatus()
	if err != nil {
		return Usage{}, fmt.Errorf("reading usage of process %d: %w", pid, err)
	}
	return Usage{CPUSeconds: stat.CPUTime(), RSSBytes: status.VmHWM}, nil
}

// since returns what was used after an earlier reading; of the memory, the
// most there was at any time.
func (u Usage) since(before Usage) Usage {
	return Usage{CPUSeconds: u.CPUSeconds - before.CPUSeconds, RSSBytes: u.RSSBytes}
}

package tmpfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// variable names, to the process in which a test is run again, the test.
const variable = "FANFARE_TMPFS_TEST"

// Run runs a test with a folder that is a file system of some bytes. It must
// be the first thing that a test does, and all of it: what comes before runs
// twice. A test that may not mount is skipped.
func Run(t *testing.T, bytes int, test func(t *testing.T, dir string)) {
	t.Helper()
	if os.Getenv(variable) == t.Name() {
		dir := t.TempDir()
		if err := mount(dir, bytes); err != nil {
			t.Skipf("needs a small file system: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", dir, err)
			}
		})
		test(t, dir)
		return
	}
	output, err := again(t)
	failed, ran := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil && strings.Contains(output, "--- SKIP"):
		t.Skip(output)
	case err == nil:
		t.Log(output)
	case ran:
		t.Fatalf("%s\nthe test that ran in a file system of its own: %v", output, failed)
	default:
		t.Skipf("needs a process with mounts of its own: %v", err)
	}
}

// again runs the test in a process of its own and returns what it said.
func again(t *testing.T) (output string, err error) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.v"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).String())
	}
	cmd := exec.CommandContext(t.Context(), program, args...) //nolint:gosec // the test itself
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	said, err := cmd.CombinedOutput()
	return string(said), err
}

// mount makes dir a file system of some bytes, for this process.
func mount(dir string, bytes int) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	return nil
}

//go:build unix

package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// isRunning reports whether there is a process with this id.
func isRunning(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// dropPrivileges makes the process run as another user, and gives up all
// groups but one. The order matters: a user may not change groups.
func dropPrivileges(uid, gid int) error {
	if err := syscall.Setgroups([]int{}); err != nil {
		return fmt.Errorf("giving up groups: %w", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("-setgid: %w", err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("-setuid: %w", err)
	}
	return nil
}

// reloadSignals returns the signals that mean: read the hooks files again.
// SIGUSR2 means nothing, and does not end the process.
func reloadSignals() (signals <-chan os.Signal, stop func()) {
	const several = 4 // what comes while files are read; more says nothing new
	c := make(chan os.Signal, several)
	signal.Ignore(syscall.SIGUSR2)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1)
	return c, func() { signal.Stop(c) }
}

// signalName is how upstream's log calls a signal.
func signalName(s os.Signal) string {
	switch s {
	case syscall.SIGHUP:
		return "HUP"
	case syscall.SIGUSR1:
		return "USR1"
	}
	return s.String()
}

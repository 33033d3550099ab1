//go:build !unix

package daemon

import (
	"errors"
	"os"
)

// isRunning reports whether there is a process with this id.
func isRunning(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	_ = process.Release() // it was only looked for
	return true
}

// dropPrivileges: there are no user ids here.
func dropPrivileges(_, _ int) error {
	return errors.New("-setuid and -setgid need a Unix system")
}

// reloadSignals: there are none here.
func reloadSignals() (signals <-chan os.Signal, stop func()) { return nil, func() {} }

// signalName is how the log calls a signal.
func signalName(s os.Signal) string { return s.String() }

//go:build !unix

package command

import (
	"os"
	"syscall"
)

// ownGroup: there are no process groups here.
func ownGroup() *syscall.SysProcAttr { return nil }

// endGroup ends the process; those it has started go on.
func endGroup(p *os.Process) { _ = p.Kill() }

// killGroup ends the process.
func killGroup(p *os.Process) { _ = p.Kill() }

package clusterlab_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// stopTimeout bounds how long a process may take to end when it is told to.
const stopTimeout = 90 * time.Second

// process is a program that can be started again and again. It is for the
// goroutine of the test.
type process struct {
	t    testing.TB
	name string
	path string
	args []string
	env  []string
	log  string // file of all it says

	cmd   *exec.Cmd // nil: not running
	stdin io.Closer // of an engine: closing it ends it
	ended chan error
}

// start runs the program, if it does not run.
func (p *process) start() {
	p.t.Helper()
	if p.cmd != nil {
		return
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(p.path, p.args...) //nolint:noctx // it outlives contexts, and is killed by hand
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	p.stdin, err = cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.t.Fatalf("starting %s: %v", p.name, err)
	}
	p.cmd, p.ended = cmd, make(chan error, 1)
	go func(ended chan<- error) {
		ended <- errors.Join(cmd.Wait(), log.Close())
	}(p.ended)
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("sending %v to %s: %v", s, p.name, err)
	}
}

// kill ends the process without a word.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	p.awaitKilled()
}

func (p *process) awaitKilled() {
	if err := <-p.ended; err == nil {
		p.t.Errorf("%s ended by itself before it was killed; it said:\n%s", p.name, p.tail())
	}
	p.cmd = nil
}

// stop tells the process to end, and waits until it has, without an error.
func (p *process) stop() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	p.signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			p.t.Errorf("%s ended with %v; it said:\n%s", p.name, err, p.tail())
		}
	case <-time.After(stopTimeout):
		p.t.Errorf("%s has not ended %v after SIGTERM; it said:\n%s", p.name, stopTimeout, p.tail())
		p.signal(syscall.SIGKILL)
		p.awaitKilled()
	}
	p.cmd = nil
}

// tail returns the last of what the process has said.
func (p *process) tail() string {
	const most = 4 << 10
	said, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(said[max(0, len(said)-most):])
}

// buildBinary builds fanfare.
func buildBinary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fanfare")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/fanfare-dev/fanfare/cmd/fanfare").CombinedOutput()
	if err != nil {
		t.Fatalf("building fanfare: %v\n%s", err, out)
	}
	return path
}

func run(t testing.TB, path string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("running %s: %v\n%s", fmt.Sprint(args), err, out)
	}
}

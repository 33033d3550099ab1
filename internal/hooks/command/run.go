package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/request"
)

// KillGrace is how long a command that is to end has between SIGTERM and
// SIGKILL.
const KillGrace = 5 * time.Second

// ErrTimeout is why a command that ran too long has ended.
var ErrTimeout = errors.New("the command ran longer than its command-timeout")

// ErrShutdown is why a command was ended with the server.
var ErrShutdown = errors.New("the server ended before the command")

// Result is how a command has ended.
type Result struct {
	// Err is nil if it ran and ended with exit code 0.
	Err error
	// Started reports whether it ran at all.
	Started bool
	// ExitCode is -1 if it did not run to its end.
	ExitCode int
}

// Run runs the command and writes what it prints, on standard output and
// standard error alike, to output. It returns when the command has ended and
// nobody holds its output any more: a process that it left behind delays that,
// unless ctx ends. Then the whole process group gets SIGTERM, and after
// KillGrace SIGKILL, and the result has the cause of ctx.
//
// The files of the invocation are there while the command runs.
func (i *Invocation) Run(ctx context.Context, output io.Writer, logf request.Logf) Result {
	env := append(append([]string{}, i.Inherited...), i.Env...)
	files, names := i.writeFiles(logf)
	defer remove(names, logf)
	logf("%s", i)

	run := execution{invocation: i, env: append(env, files...)}
	started, err := run.start(ctx, output)
	if err != nil {
		return Result{Err: err, Started: started, ExitCode: -1}
	}
	err = run.wait(ctx)
	result := Result{Err: err, Started: true, ExitCode: run.cmd.ProcessState.ExitCode()}
	if err != nil && ctx.Err() != nil {
		result.Err, result.ExitCode = context.Cause(ctx), -1
	}
	return result
}

// writeFiles writes the files and returns the variables that name them, and
// their paths. A file that cannot be written is told to the log, and left out.
func (i *Invocation) writeFiles(logf request.Logf) (env, paths []string) {
	for _, file := range i.Files {
		path, err := writeFile(i.Dir, file)
		if path != "" {
			paths = append(paths, path)
		}
		if err != nil {
			logf("error creating temp file [%v]", err)
			continue
		}
		logf("writing env %s file %s", file.Variable, path)
		env = append(env, file.Variable+"="+path)
	}
	return env, paths
}

// writeFile returns the path of a file with mode 0600, even if it could not be
// filled.
func writeFile(dir string, content File) (string, error) {
	file, err := os.CreateTemp(dir, content.Variable)
	if err != nil {
		return "", err
	}
	_, err = file.Write(content.Content)
	return file.Name(), errors.Join(err, file.Close())
}

func remove(paths []string, logf request.Logf) {
	for _, path := range paths {
		logf("removing file %s", path)
		if err := os.Remove(path); err != nil {
			logf("error removing file %s [%v]", path, err)
		}
	}
}

// execution is a command that runs.
type execution struct {
	invocation *Invocation
	env        []string
	cmd        *exec.Cmd
	output     *os.File      // what the command prints
	copied     chan struct{} // closed when all of it was copied
	stdin      *os.File      // nil if it has none
	fed        chan struct{} // closed when stdin was written
}

// start starts the command. It has streams of its own instead of exec's, whose
// Wait could not be cut short without losing output.
func (e *execution) start(ctx context.Context, output io.Writer) (started bool, err error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("making a pipe: %w", err)
	}
	defer writer.Close()                                                                             //nolint:errcheck // only read from, or already ended
	e.cmd = exec.CommandContext(context.WithoutCancel(ctx), e.invocation.Name, e.invocation.Args...) //nolint:gosec // what a hook is for
	e.cmd.Path, e.cmd.Err = e.invocation.Path, nil
	e.cmd.Dir, e.cmd.Env = e.invocation.Dir, e.env
	e.cmd.Stdout, e.cmd.Stderr = writer, writer
	e.cmd.SysProcAttr = ownGroup()
	stdin, err := e.openStdin()
	if err != nil {
		return false, errors.Join(err, reader.Close())
	}
	if stdin != nil {
		defer stdin.Close() //nolint:errcheck // only read from, or already ended
		e.cmd.Stdin = stdin
	}
	if err := e.cmd.Start(); err != nil {
		if e.stdin != nil {
			err = errors.Join(err, e.stdin.Close())
		}
		return false, errors.Join(err, reader.Close())
	}
	e.output, e.copied = reader, make(chan struct{})
	go func() {
		defer close(e.copied)
		// A reader of the answer that is gone must not stop the command: the
		// rest is read for nobody. A pipe that was closed is meant.
		if _, err := io.Copy(output, reader); err != nil {
			_, _ = io.Copy(io.Discard, reader)
		}
	}()
	e.feed()
	return true, nil
}

// openStdin returns the end of a pipe that the command reads.
func (e *execution) openStdin() (*os.File, error) {
	if e.invocation.Stdin == nil {
		return nil, nil
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	e.stdin = writer
	return reader, nil
}

// feed writes standard input. A command need not read it.
func (e *execution) feed() {
	e.fed = make(chan struct{})
	if e.stdin == nil {
		close(e.fed)
		return
	}
	go func() {
		defer close(e.fed)
		defer e.stdin.Close()                    //nolint:errcheck // only read from, or already ended
		_, _ = e.stdin.Write(e.invocation.Stdin) // EPIPE: it did not want to know
	}()
}

// wait waits until the command has ended and its output is complete.
func (e *execution) wait(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- e.cmd.Wait() }()
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		e.terminate(ctx, done)
	}()
	err := <-ended
	if e.stdin != nil {
		_ = e.stdin.Close() // it may be closed already
	}
	<-e.fed
	<-e.copied
	close(done)
	<-watched
	_ = e.output.Close() // only read from
	return err
}

// terminate ends the process group when ctx ends, unless it is done before.
func (e *execution) terminate(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	endGroup(e.cmd.Process)
	timer := time.NewTimer(KillGrace)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	}
	killGroup(e.cmd.Process)
	// Who left the group may still hold the output: it is not waited for.
	_ = e.output.SetReadDeadline(time.Now())
}

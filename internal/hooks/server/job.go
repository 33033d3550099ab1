package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/command"
	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/request"
)

// exitCodeTrailer tells, behind a streamed answer, how the command ended.
const exitCodeTrailer = "Command-Exit-Code"

// loggedBytes is how much of a command's output the log has.
const loggedBytes = journal.MaxLineBytes

// job is a command that was accepted: it will run, unless the server ends
// before. It is owned by whoever runs it.
type job struct {
	server     *Server
	hook       *hook
	log        journal.Entry
	pass       pass
	body       *share
	id         string // by which duplicates are recognised; empty: they are not
	invocation *command.Invocation
}

// trigger runs the hook's command and answers, or the other way round.
func (c *call) trigger(parsed *request.Request) {
	hook := c.hook.spec
	c.log.Printf("%s hook triggered successfully", hook.ID)
	made, ok := c.accept(parsed)
	if !ok {
		return
	}
	for _, header := range hook.ResponseHeaders {
		c.w.Header().Set(header.Name, header.Value)
	}
	invocation, err := command.Prepare(hook, parsed, c.log.Printf)
	if err == nil {
		made.invocation = invocation
	}
	switch {
	case hook.StreamOutput:
		c.stream(made)
	case hook.CaptureOutput:
		c.capture(made)
	default:
		c.kept = true
		c.server.running.Go(func() {
			output := &head{max: loggedBytes}
			made.run(output)
		})
		c.finish(c.status(hook.SuccessCode), hook.ResponseMessage)
	}
}

// finish sends an answer that ends the request. An informational status is sent
// as such, and 200 behind it.
func (c *call) finish(status int, text string) {
	const final = 200
	if status < final && status != http.StatusSwitchingProtocols {
		c.w.WriteHeader(status)
		status = http.StatusOK
	}
	c.w.answer(status, text)
}

// accept takes everything that a command needs to run, or answers why it will
// not.
func (c *call) accept(parsed *request.Request) (*job, bool) {
	s, h := c.server, c.hook
	made := &job{server: s, hook: h, log: c.log, body: &c.body}
	if !s.admit() {
		c.busy(http.StatusServiceUnavailable, textBusy)
		return nil, false
	}
	if !c.claim(made, parsed) {
		s.dismiss()
		return nil, false
	}
	var ok bool
	made.pass, ok = s.gates.enter(h.spec.ID, h.spec.MaxConcurrency, h.queue)
	if !ok {
		made.release()
		s.dismiss()
		c.log.Printf("%s: %d commands run and %d wait already", h.spec.ID, h.spec.MaxConcurrency, h.queue)
		c.busy(http.StatusTooManyRequests, textBusy)
	}
	return made, ok
}

// busy answers that a later try may succeed.
func (c *call) busy(status int, text string) {
	c.w.Header().Set("Retry-After", retryAfter)
	c.w.answer(status, text)
}

// admit counts a command in, if there is room for one more.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending >= s.config.MaxCommands+s.config.MaxWaiting || s.abort.Err() != nil {
		return false
	}
	s.pending++
	return true
}

// dismiss counts it out.
func (s *Server) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending--
}

// claim takes the id of a request for its command, or answers why not.
func (c *call) claim(made *job, parsed *request.Request) bool {
	if c.hook.spec.DeduplicateBy == nil {
		return true
	}
	id, err := c.hook.idOf(parsed)
	if err != nil {
		c.log.Printf("error finding the id of the request: %v", err)
		c.w.answer(http.StatusBadRequest, textNoID)
		return false
	}
	switch c.server.delivered.claim(c.hook.spec.ID, id, time.Now()) {
	case claimRunning:
		c.log.Printf("duplicate of a request that is being handled: %s", id)
		c.busy(http.StatusConflict, textRunning)
		return false
	case claimDone:
		c.log.Printf("duplicate of a request that was handled: %s", id)
		c.w.answer(c.status(c.hook.spec.SuccessCode), textDuplicate)
		return false
	case claimNew:
	}
	made.id = id
	return true
}

// capture answers with what the command prints, when it has ended.
func (c *call) capture(made *job) {
	output := &head{max: c.server.config.MaxOutput}
	result := made.run(output)
	hook := c.hook.spec
	status, mapped := hook.ExitCodes[strconv.Itoa(result.ExitCode)]
	switch {
	case mapped:
		c.finish(status, string(output.kept))
	case result.Err == nil:
		c.finish(c.status(hook.SuccessCode), string(output.kept))
	case hook.CaptureOnError:
		c.w.answer(failureStatus(result.Err), string(output.kept))
	default:
		c.w.answer(failureStatus(result.Err), failureText(result.Err))
	}
}

// stream answers with what the command prints, while it prints it. How it ended
// is in a trailer; if it printed nothing, it is the status.
func (c *call) stream(made *job) {
	hook := c.hook.spec
	output := &streamed{response: c.w, status: c.status(hook.SuccessCode)}
	logged := &head{max: loggedBytes}
	result := made.run(io.MultiWriter(logged, output))
	if c.w.started() {
		c.w.Header().Set(exitCodeTrailer, strconv.Itoa(result.ExitCode))
		return
	}
	status, mapped := hook.ExitCodes[strconv.Itoa(result.ExitCode)]
	switch {
	case mapped:
		c.finish(status, "")
	case result.Err == nil:
		c.finish(c.status(hook.SuccessCode), "")
	default:
		c.w.answer(failureStatus(result.Err), failureText(result.Err))
	}
}

func failureStatus(err error) int {
	switch {
	case errors.Is(err, command.ErrTimeout):
		return http.StatusGatewayTimeout
	case errors.Is(err, command.ErrShutdown):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func failureText(err error) string {
	switch {
	case errors.Is(err, command.ErrTimeout):
		return textTimeout
	case errors.Is(err, command.ErrShutdown):
		return textShutdown
	}
	return textCommand
}

// errNotFound: the log has the reason already.
var errNotFound = errors.New("the command was not found")

// run waits for the job's turn, runs it, and gives back what it held.
func (j *job) run(output io.Writer) (result command.Result) {
	result = command.Result{Err: errNotFound, ExitCode: -1}
	defer j.end(&result)
	if j.invocation == nil {
		return result
	}
	if err := j.wait(); err != nil {
		j.log.Printf("error occurred: %v", err)
		return command.Result{Err: err, ExitCode: -1}
	}
	defer func() { <-j.server.slots }()
	ctx, cancel := j.context()
	defer cancel()
	began := time.Now()
	result = j.invocation.Run(ctx, output, j.log.Printf)
	j.server.measured.ran(j.hook, result, time.Since(began))
	j.report(output, result)
	return result
}

// wait waits for the hook's turn, and then for the server's.
func (j *job) wait() error {
	if j.pass.turn != nil {
		select {
		case <-j.pass.turn:
		case <-j.server.abort.Done():
			return context.Cause(j.server.abort)
		}
	}
	select {
	case j.server.slots <- struct{}{}:
		return nil
	case <-j.server.abort.Done():
		return context.Cause(j.server.abort)
	}
}

// context ends with the server, or when the command's time is up.
func (j *job) context() (context.Context, context.CancelFunc) {
	timeout := j.hook.timeout
	if timeout == 0 {
		timeout = j.server.config.CommandTimeout
	}
	if timeout == 0 {
		return context.WithCancel(j.server.abort)
	}
	return context.WithTimeoutCause(j.server.abort, timeout, command.ErrTimeout)
}

// report logs what the command printed and how it ended.
func (j *job) report(output io.Writer, result command.Result) {
	if kept, ok := output.(*head); ok {
		text := kept.kept[:min(len(kept.kept), loggedBytes)]
		j.log.Printf("command output: %s", bytes.TrimRight(text, "\n"))
		if kept.dropped > 0 {
			j.log.Printf("command output: %d more bytes were dropped", kept.dropped)
		}
	}
	if result.Err != nil {
		j.log.Printf("error occurred: %v", result.Err)
	}
	j.log.Printf("finished handling %s", j.hook.spec.ID)
}

// end gives back what the job held. It is also the end of a panic: one in a
// goroutine of its own would be the end of the server.
func (j *job) end(result *command.Result) {
	if problem := recover(); problem != nil {
		j.log.Printf("panic: %v %s", problem, debug.Stack())
		result.Err = errNotFound
	}
	if j.id != "" && result.Err == nil {
		j.server.delivered.done(j.hook.spec.ID, j.id, time.Now(), j.hook.window)
	} else {
		j.release()
	}
	j.pass.leave()
	j.server.dismiss()
	j.body.release()
}

// release gives the claim back, so that a retry of the sender runs.
func (j *job) release() {
	if j.id != "" {
		j.server.delivered.release(j.hook.spec.ID, j.id)
	}
}

package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/command"
	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/rules"
)

// Explain writes to w what a server with this configuration would do with the
// request, step by step. Nothing is run.
func Explain(w io.Writer, config Config, r *http.Request, body []byte) error {
	s, err := New(config)
	if err != nil {
		return err
	}
	e := &explanation{w: w, server: s}
	e.explain(r, body)
	return e.err
}

// explanation is written line by line.
type explanation struct {
	w      io.Writer
	server *Server
	err    error // of the first write that failed
}

func (e *explanation) printf(format string, args ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format+"\n", args...)
	}
}

func (e *explanation) explain(r *http.Request, body []byte) {
	s := e.server
	e.printf("%s %s", r.Method, r.URL.RequestURI())
	if clean := cleanPath(r.URL.Path); clean != r.URL.Path {
		e.printf("  answer   301, Location: %s", clean)
		return
	}
	id, ok := s.route.id(r.URL.Path)
	if !ok {
		e.printf("  answer   404: the path is not below /%s/", s.config.Prefix)
		return
	}
	found := s.config.Library.find(id)
	if found == nil {
		e.printf("  answer   404 %q: there is no hook %q", textNotFound, id)
		return
	}
	e.printf("  hook     %q", id)
	if !s.allows(found, r.Method) {
		methods := found.methods
		if len(methods) == 0 {
			methods = s.config.Methods
		}
		e.printf("  answer   405: the method is not one of %s", strings.Join(methods, ", "))
		return
	}
	if limit := s.bodyLimit(found); int64(len(body)) > limit {
		e.printf("  answer   413 %q: the body has %d bytes, and may have %d", textTooLarge, len(body), limit)
		return
	}
	if parsed := e.parse(found, r, body); parsed != nil && e.evaluate(found, parsed) && e.recognise(found, parsed) {
		e.command(found, parsed)
	}
}

func (e *explanation) parse(found *hook, r *http.Request, body []byte) *request.Request {
	parser := request.Parser{
		ContentType:     found.spec.ContentType,
		MultipartMemory: e.server.config.MultipartMemory,
		JSONParameters:  found.spec.JSONParameters,
		Logf:            func(format string, args ...any) { e.printf("  payload  "+format, args...) },
	}
	if parser.ContentType == "" {
		parser.ContentType = r.Header.Get("Content-Type")
	}
	e.printf("  body     %d bytes of %q", len(body), parser.ContentType)
	parsed := request.New(r, body, clientOf(r, e.server.config.TrustedProxies))
	if err := parser.Parse(parsed, r); err != nil {
		e.printf("  answer   500 %q: %v", textMultipart, err)
		return nil
	}
	return parsed
}

// evaluate tells what each rule says, and returns whether the command is run.
func (e *explanation) evaluate(found *hook, parsed *request.Request) bool {
	ok, err := found.rule.Evaluate(rules.Input{
		Request:      parsed,
		Now:          time.Now(),
		SoftFailures: found.spec.SoftFailures,
		Trace:        e.step,
	})
	if found.rule == nil {
		e.printf("  rule     there is none: every request triggers it")
	}
	_, missing := errors.AsType[*request.NodeError](err)
	_, forged := errors.AsType[*rules.SignatureError](err)
	switch {
	case forged && found.spec.SignatureFailureCode != 0:
		e.printf("  answer   %d %q", found.spec.SignatureFailureCode, textRules)
	case err != nil && !missing:
		e.printf("  answer   500 %q", textRules)
	case !ok:
		e.printf("  answer   %d %q", orOK(found.spec.MismatchCode), textMismatch)
	default:
		return true
	}
	return false
}

func (e *explanation) step(step rules.Step) {
	result := fmt.Sprint(step.Result)
	switch {
	case step.Skipped:
		result = "not asked"
	case step.Err != nil:
		result += ": " + step.Err.Error()
	}
	what := step.Path
	if step.About != "" {
		what += " (" + step.About + ")"
	}
	e.printf("  rule     %s: %s", what, result)
}

// recognise tells by what a second delivery is recognised, and returns whether
// there is such a thing, or need be none.
func (e *explanation) recognise(found *hook, parsed *request.Request) bool {
	id, err := found.idOf(parsed)
	switch {
	case err != nil:
		e.printf("  answer   400 %q: %v", textNoID, err)
	case id != "":
		e.printf("  once     %q: for %v another request with it is not run", id, found.window)
	}
	return err == nil
}

func (e *explanation) command(found *hook, parsed *request.Request) {
	logf := func(format string, args ...any) { e.printf("  warning  "+format, args...) }
	invocation, err := command.Prepare(found.spec, parsed, logf)
	answered := found.spec.CaptureOutput || found.spec.StreamOutput
	switch {
	case err != nil && answered:
		e.printf("  answer   500 %q", textCommand)
		return
	case err == nil:
		e.invocation(invocation)
	}
	if answered {
		e.printf("  answer   %d and what the command prints", orOK(found.spec.SuccessCode))
		return
	}
	e.printf("  answer   %d %q, at once", orOK(found.spec.SuccessCode), found.spec.ResponseMessage)
}

func (e *explanation) invocation(i *command.Invocation) {
	e.printf("  run      %s", i.Path)
	for _, arg := range i.Args {
		e.printf("    arg    %q", arg)
	}
	for _, pair := range i.Env {
		e.printf("    env    %q", pair)
	}
	for _, file := range i.Files {
		e.printf("    file   %s: %d bytes", file.Variable, len(file.Content))
	}
	if i.Stdin != nil {
		e.printf("    stdin  %d bytes", len(i.Stdin))
	}
}

// orOK is how a status of a hook is sent.
func orOK(code int) int {
	if http.StatusText(code) == "" {
		return http.StatusOK
	}
	return code
}

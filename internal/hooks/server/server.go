// Package server answers requests to hooks: it finds the hook, reads the body
// within limits, asks the rules, and runs the command, at once or when it is
// its turn.
//
// The order of the steps is upstream's, and is visible from outside: what
// answers first decides the status.
package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/command"
	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/rules"
)

// Texts of answers.
const (
	textHealthy       = "OK"
	textNotFound      = "Hook not found."
	textMultipart     = "Error occurred while parsing multipart form."
	textMultipartFile = "Error occurred while parsing multipart form file."
	textRules         = "Error occurred while evaluating hook rules."
	textMismatch      = "Hook rules were not satisfied."
	textCommand       = "Error occurred while executing the hook's command. Please check your logs for more details."

	textTooLarge  = "The request body is too large."
	textBodyCut   = "The request body could not be read."
	textBusy      = "Too many requests. Please try again later."
	textNoID      = "The request has no id to recognise it by."
	textRunning   = "The same request is being handled already."
	textDuplicate = "The same request has been handled already."
	textTimeout   = "The hook's command took too long."
	textShutdown  = "The server is shutting down."
)

// retryAfter is what those who come too often are told to wait, in seconds.
const retryAfter = "5"

// debugBytes is how much of a body -debug shows.
const debugBytes = 64 << 10

// Server is the http.Handler of hooks.
type Server struct {
	config    Config
	route     route
	bodies    *memory
	gates     *gates
	slots     chan struct{} // has MaxCommands places; one taken for each that runs
	delivered *delivered
	measured  *measured

	// accepted commands, running or waiting.
	mu      sync.Mutex
	pending int            // guarded by mu
	running sync.WaitGroup // of the commands that nobody waits for

	abort  context.Context //nolint:containedctx // it is the life of the commands, not of a call
	cancel context.CancelCauseFunc
}

// New returns a server. It fails if the prefix is not a pattern.
func New(config Config) (*Server, error) {
	config = config.withDefaults()
	route, err := newRoute(config.Prefix)
	if err != nil {
		return nil, fmt.Errorf("urlprefix: %w", err)
	}
	s := &Server{
		config:    config,
		route:     route,
		bodies:    &memory{free: config.MaxBodies},
		gates:     &gates{all: map[string]*gate{}},
		slots:     make(chan struct{}, config.MaxCommands),
		delivered: newDelivered(),
	}
	if s.measured, err = newMeasured(config.Meter, s); err != nil {
		return nil, err
	}
	s.abort, s.cancel = context.WithCancelCause(context.Background())
	return s, nil
}

// Drain waits for the commands that nobody waits for, until ctx ends; then it
// ends them.
func (s *Server) Drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.Abort()
		<-done
	}
}

// Abort ends all commands that run.
func (s *Server) Abort() { s.cancel(command.ErrShutdown) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if clean := cleanPath(r.URL.Path); clean != r.URL.Path {
		redirect(w, clean, r.URL.RawQuery)
		return
	}
	id, routed := s.route.id(r.URL.Path)
	if r.URL.Path != "/" && !routed {
		http.NotFound(w, r)
		return
	}
	call := &call{server: s, r: r, w: &response{ResponseWriter: w, timeout: s.config.WriteTimeout}, began: time.Now()}
	call.log = s.config.Journal.Request(s.requestID(r))
	if s.config.Debug {
		call.w.dump = &head{max: debugBytes}
	}
	defer call.end() //nolint:contextcheck // metrics and the log do not end with the request
	if r.URL.Path == "/" {
		s.setHeaders(call.w)
		call.dump(nil) //nolint:contextcheck // metrics and the log do not end with the request
		call.w.answer(http.StatusOK, textHealthy)
		return
	}
	call.serve(id) //nolint:contextcheck // metrics and the log do not end with the request
}

func (s *Server) setHeaders(w http.ResponseWriter) {
	for _, header := range s.config.Headers {
		w.Header().Set(header.Name, header.Value)
	}
}

// requestID returns the client's id of the request, if that counts, or else a
// random one.
func (s *Server) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); s.config.UseRequestID && id != "" {
		if limit := s.config.RequestIDLimit; limit > 0 && len(id) > limit {
			id = id[:limit]
		}
		return id
	}
	var random [3]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

// call is one request to a hook. It is owned by the request's goroutine.
type call struct {
	server *Server
	r      *http.Request
	w      *response
	log    journal.Entry
	began  time.Time
	hook   *hook
	body   share // released at the end, or with the command
	kept   bool  // body was given to a command
}

// end answers for a handler that panicked, and writes the access line.
func (c *call) end() {
	if problem := recover(); problem != nil {
		c.log.Printf("panic: %v %s", problem, debug.Stack())
		if !c.w.started() {
			c.w.WriteHeader(http.StatusInternalServerError)
		}
	}
	if c.body.from != nil && !c.kept {
		c.body.release()
	}
	if c.server.config.Debug {
		c.log.Raw("<", c.w.describe())
	}
	status := c.w.status
	if status == 0 {
		status = http.StatusOK
	}
	c.log.Printf("%d | %s | %v | %s | %s %s", status, iecSize(c.w.size), time.Since(c.began), c.r.Host, c.r.Method, journal.URI(c.r.URL.RequestURI()))
	c.server.measured.answered(c.hook, status)
}

// serve handles a request to the hook with the id.
func (c *call) serve(id string) {
	s := c.server
	c.log.Printf("incoming HTTP %s request from %s", c.r.Method, c.r.RemoteAddr)
	c.hook = s.config.Library.find(id)
	if c.hook == nil {
		c.dump(nil)
		c.w.answer(http.StatusNotFound, textNotFound)
		return
	}
	c.log = c.log.Hook(id)
	if !s.allows(c.hook, c.r.Method) {
		c.dump(nil)
		c.w.WriteHeader(http.StatusMethodNotAllowed)
		c.log.Printf("HTTP %s method not allowed for hook %q", c.r.Method, id)
		return
	}
	c.log.Printf("%s got matched", id)
	s.setHeaders(c.w)
	body, ok := c.readBody()
	c.dump(body)
	if !ok {
		return
	}
	parsed, ok := c.parse(body)
	if ok && c.satisfied(parsed) {
		c.trigger(parsed)
	}
}

// allows reports whether the hook takes the method.
func (s *Server) allows(h *hook, method string) bool {
	methods := h.methods
	if len(methods) == 0 {
		methods = s.config.Methods
	}
	return len(methods) == 0 || slices.Contains(methods, method)
}

// bodyLimit returns how many bytes a body for the hook may have.
func (s *Server) bodyLimit(h *hook) int64 {
	if own := h.spec.MaxBodyBytes; own > 0 {
		return min(own, s.config.MaxBody)
	}
	return s.config.MaxBody
}

// readBody reads the body, or answers why it cannot be had.
func (c *call) readBody() (body []byte, ok bool) {
	s := c.server
	c.body = share{from: s.bodies}
	body, err := readBody(c.w.ResponseWriter, c.r, s.bodyLimit(c.hook), s.config.ReadTimeout, &c.body)
	if err == nil && !c.body.take(request.ParsedBytes(body)) {
		err = errNoMemory
	}
	switch {
	case err == nil:
		return body, true
	case errors.Is(err, errBodyTooLarge):
		c.refuse(http.StatusRequestEntityTooLarge, textTooLarge, err)
	case errors.Is(err, errNoMemory):
		c.w.Header().Set("Retry-After", retryAfter)
		c.refuse(http.StatusServiceUnavailable, textBusy, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.refuse(http.StatusRequestTimeout, textBodyCut, err)
	default:
		c.refuse(http.StatusBadRequest, textBodyCut, err)
	}
	return nil, false
}

// refuse answers a request whose body was not read to its end.
func (c *call) refuse(status int, text string, err error) {
	c.log.Printf("error reading the request body: %v", err)
	c.w.Header().Set("Connection", "close")
	c.w.answer(status, text)
}

// parse makes of the request what rules see, or answers why not.
func (c *call) parse(body []byte) (*request.Request, bool) {
	hook := c.hook.spec
	parsed := request.New(c.r, body, clientOf(c.r, c.server.config.TrustedProxies))
	parser := request.Parser{
		ContentType:     hook.ContentType,
		MultipartMemory: c.server.config.MultipartMemory,
		JSONParameters:  hook.JSONParameters,
		Logf:            c.log.Printf,
	}
	if parser.ContentType == "" {
		parser.ContentType = c.r.Header.Get("Content-Type")
	}
	err := parser.Parse(parsed, c.r)
	if err == nil {
		return parsed, true
	}
	c.log.Printf("error %v", err)
	text := textMultipart
	if errors.Is(err, request.ErrMultipartFile) {
		text = textMultipartFile
	}
	c.w.answer(http.StatusInternalServerError, text)
	return nil, false
}

// satisfied asks the rules, and answers if they say no.
func (c *call) satisfied(parsed *request.Request) bool {
	hook := c.hook.spec
	ok, err := c.hook.rule.Evaluate(rules.Input{
		Request:      parsed,
		Now:          time.Now(),
		SoftFailures: hook.SoftFailures,
		Logf:         c.log.Printf,
	})
	if err != nil {
		c.log.Printf("error evaluating hook: %v", err)
		status := http.StatusInternalServerError
		if _, is := errors.AsType[*rules.SignatureError](err); is && hook.SignatureFailureCode != 0 {
			status = c.status(hook.SignatureFailureCode)
		}
		if _, is := errors.AsType[*request.NodeError](err); !is {
			c.w.answer(status, textRules)
			return false
		}
	}
	if ok {
		return true
	}
	c.log.Printf("%s got matched, but didn't get triggered because the trigger rules were not satisfied", hook.ID)
	c.w.answer(c.status(hook.MismatchCode), textMismatch)
	return false
}

// status returns a status of a hook, or 200 if it has none or one that HTTP
// does not know.
func (c *call) status(code int) int {
	switch {
	case code == 0:
		return http.StatusOK
	case http.StatusText(code) == "":
		c.log.Printf("%s got matched, but the configured return code %d is unknown - defaulting to 200", c.hook.spec.ID, code)
		return http.StatusOK
	}
	return code
}

// dump logs the request for -debug, without what authorises it.
func (c *call) dump(body []byte) {
	if !c.server.config.Debug {
		return
	}
	shown := c.r.Clone(c.r.Context())
	for name := range shown.Header {
		shown.Header.Set(name, journal.Value(name, strings.Join(shown.Header[name], ", ")))
	}
	shown.RequestURI = journal.URI(shown.RequestURI)
	text, err := httputil.DumpRequest(shown, false)
	if err != nil {
		c.log.Printf("error dumping the request: %v", err)
		return
	}
	c.log.Raw(">", string(text)+string(body[:min(len(body), debugBytes)]))
}

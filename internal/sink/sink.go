// Package sink is a receiver of webhooks to try things with: it verifies what
// it gets, fails in the ways it is told to, and counts, so that anybody can
// see what arrived, how often, and in which order.
package sink

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// Limits of a Sink, where its Config does not say otherwise.
const (
	// DefaultMaxBodyBytes bounds the body of a request. A larger one is
	// answered 413.
	DefaultMaxBodyBytes = 4 << 20
	// DefaultMaxIDs is how many ids are remembered, to know duplicates. It
	// takes about 100 MB to remember as many of 32 bytes.
	DefaultMaxIDs = 1 << 20
	// DefaultFailStatus is the answer of a failure that was asked for.
	DefaultFailStatus = http.StatusServiceUnavailable
)

// Limits of what is remembered of a request.
const (
	// MaxIDBytes bounds a webhook-id. A longer one is answered 400.
	MaxIDBytes = 256
	// MaxPathBytes bounds the path of a request. A longer one is answered
	// 414.
	MaxPathBytes = 1024
)

// StatsPath is where GET answers the Stats as JSON. Every other request is
// taken for a webhook.
const StatsPath = "/stats"

// Config says how a Sink behaves. The zero value accepts everything at once
// with 200. When several faults are set they apply in the order Hang, Delay,
// FailFirst, FailFor, FailRate.
type Config struct {
	// Secrets, if there are any, are what every request must be signed with,
	// by one of them. Others are answered 401, before any fault applies.
	Secrets []signature.Secret
	// Tolerance is how old a signature may be. 0 means
	// signature.DefaultTolerance.
	Tolerance time.Duration

	// Status is the answer when nothing fails. 0 means 200.
	Status int
	// FailStatus is the answer of FailFirst, FailFor and FailRate. 0 means
	// DefaultFailStatus.
	FailStatus int
	// FailFirst is the number of requests that fail before any succeeds.
	FailFirst int
	// FailFor is how long, from the first request on, every one fails.
	FailFor time.Duration
	// FailRate is the fraction of the requests that fail, from 0 to 1.
	FailRate float64
	// Random decides by FailRate; it returns numbers from 0 to less than 1,
	// and may be called concurrently. nil means math/rand/v2.
	Random func() float64
	// Delay is how long every answer waits.
	Delay time.Duration
	// Hang makes the sink read requests and answer none, until the client
	// goes or the server ends.
	Hang bool

	// MaxBodyBytes and MaxIDs stand for the constants of the same name if
	// they are not positive.
	MaxBodyBytes int64
	MaxIDs       int

	// OnRequest, if set, is called once for each webhook, after it was
	// counted and before it is answered; by several goroutines at a time. A
	// slow one delays the answer.
	OnRequest func(Request)
}

// Validate returns an error that names the field which makes no sense.
func (cfg Config) Validate() error {
	switch {
	case !validStatus(cfg.Status):
		return errors.New("status is not between 200 and 599")
	case !validStatus(cfg.FailStatus):
		return errors.New("fail status is not between 200 and 599")
	case !(cfg.FailRate >= 0 && cfg.FailRate <= 1): // so that NaN is refused too
		return errors.New("fail rate is not between 0 and 1")
	case cfg.FailFirst < 0:
		return errors.New("number of requests to fail first is negative")
	case cfg.FailFor < 0:
		return errors.New("time to fail for is negative")
	case cfg.Delay < 0:
		return errors.New("delay is negative")
	}
	return nil
}

// validStatus accepts what a handler may answer with, and 0.
func validStatus(status int) bool {
	return status == 0 || status >= 200 && status <= 599
}

// Verification says what became of checking a signature.
type Verification string

// The results of checking a signature.
const (
	Unchecked  Verification = "-" // the sink has no secrets, or the request is not whole
	Verified   Verification = "✓"
	Unverified Verification = "✗" // missing, wrong or too old
)

// Request is one webhook, as OnRequest gets it. What it points to is the
// receiver's to keep.
type Request struct {
	Time         time.Time // of arrival
	Method       string
	Path         string
	Header       http.Header
	Body         []byte // as much of it as was read
	ID           string // webhook-id
	Type         string // ce-type, or else "type" of a JSON object, or else ""
	Verification Verification
	Problem      error // why the signature or the request was refused, or nil
	Status       int   // of the answer; 0 if there is none
	Duplicate    bool  // accepted, as its id was before
	OutOfOrder   bool  // accepted after one with a greater id
}

// Sink is a receiver of webhooks. It is an http.Handler, safe for concurrent
// use.
type Sink struct {
	cfg Config

	mu      sync.Mutex
	counts  Stats    // guarded by mu; what Stats returns
	arrived int      // guarded by mu; requests that FailFirst has counted
	ids     *history // guarded by mu
}

// New returns a Sink. cfg must be valid.
func New(cfg Config) *Sink {
	cfg.Status = cmp.Or(cfg.Status, http.StatusOK)
	cfg.FailStatus = cmp.Or(cfg.FailStatus, DefaultFailStatus)
	if cfg.MaxBodyBytes <= 0 {
		cfg.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if cfg.MaxIDs <= 0 {
		cfg.MaxIDs = DefaultMaxIDs
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	return &Sink{cfg: cfg, ids: newHistory(cfg.MaxIDs)}
}

// ServeHTTP takes a webhook, or answers GET StatsPath. It cuts the connection
// when it has no answer to give.
func (s *Sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == StatsPath {
		s.serveStats(w)
		return
	}
	request := s.receive(w, r)
	if request.Problem == nil {
		request.Status = s.answer(r.Context(), request.Time)
	}
	if s.cfg.OnRequest != nil {
		request.Type = eventType(request.Header, request.Body)
	}
	s.count(&request)
	if s.cfg.OnRequest != nil {
		s.cfg.OnRequest(request)
	}
	if request.Status == 0 {
		panic(http.ErrAbortHandler) // what net/http has for hanging up
	}
	w.WriteHeader(request.Status)
}

func (s *Sink) serveStats(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	// An error means that the client has gone.
	_ = s.Stats().Write(w)
}

// receive reads a request and verifies it. What is wrong with it is in
// Problem, and the answer to that in Status.
func (s *Sink) receive(w http.ResponseWriter, r *http.Request) Request {
	request := Request{
		Time:         time.Now(),
		Method:       r.Method,
		Path:         r.URL.Path,
		Header:       r.Header,
		ID:           r.Header.Get(signature.HeaderID),
		Verification: Unchecked,
	}
	s.countArrival(request.Time)
	request.Body, request.Problem = io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxBodyBytes))
	switch {
	case request.Problem != nil:
		request.Status = readStatus(request.Problem)
	case len(request.ID) > MaxIDBytes:
		request.Problem = errors.New("webhook-id is too long")
		request.Status = http.StatusBadRequest
	case len(request.Path) > MaxPathBytes:
		request.Problem = errors.New("path is too long")
		request.Status = http.StatusRequestURITooLong
	case len(s.cfg.Secrets) > 0:
		s.verify(&request)
	}
	return request
}

func (s *Sink) verify(request *Request) {
	err := signature.Verify(s.cfg.Secrets, request.Header, request.Body, request.Time, s.cfg.Tolerance)
	if err == nil {
		request.Verification = Verified
		return
	}
	request.Verification = Unverified
	request.Problem = err
	request.Status = http.StatusUnauthorized
}

// readStatus returns the answer to a body that could not be read.
func readStatus(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

// answer goes through the faults and returns the status, or 0 if the client
// went, or the server is ending, before there was one.
func (s *Sink) answer(ctx context.Context, arrived time.Time) int {
	failing := s.failing(arrived)
	if s.cfg.Hang {
		<-ctx.Done()
		return 0
	}
	if s.cfg.Delay > 0 {
		timer := time.NewTimer(s.cfg.Delay)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return 0
		case <-timer.C:
		}
	}
	if failing {
		return s.cfg.FailStatus
	}
	return s.cfg.Status
}

// failing decides whether a request that arrived at a time is to fail.
func (s *Sink) failing(arrived time.Time) bool {
	s.mu.Lock()
	s.arrived++
	byCount := s.arrived <= s.cfg.FailFirst
	byTime := arrived.Sub(s.counts.FirstTime) < s.cfg.FailFor
	s.mu.Unlock()
	return byCount || byTime || s.cfg.FailRate > 0 && s.cfg.Random() < s.cfg.FailRate
}

// eventType returns the type of an event: of the CloudEvents header, or of a
// JSON object as the body.
func eventType(header http.Header, body []byte) string {
	if fromHeader := header.Get("ce-type"); fromHeader != "" {
		return fromHeader
	}
	var event struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(body, &event) != nil {
		return "" // it need not be JSON
	}
	return event.Type
}

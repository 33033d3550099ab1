package receiver

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind is why a request, or an event of it, was not handled.
type Kind int

// The kinds, each with its answer.
const (
	Forbidden  Kind = iota + 1 // 403: it does not come from where it may
	TooLarge                   // 413: its body is over the limit
	Unverified                 // 401: no signature of it holds; Err is package signature's
	Malformed                  // 400: it cannot be read
	Unhandled                  // 404: there is no handler for its type
	Busy                       // 409: the same event is being handled just now
	Full                       // 503: the queue is full
	Stopping                   // 503: the receiver is ending
	Failed                     // 500, or what the handler's error says: the handler failed
	Broken                     // 503: the Store failed
)

// String names the kind, as logs and metrics have it.
func (k Kind) String() string {
	switch k {
	case Forbidden:
		return "forbidden"
	case TooLarge:
		return "too_large"
	case Unverified:
		return "unverified"
	case Malformed:
		return "malformed"
	case Unhandled:
		return "unhandled"
	case Busy:
		return "busy"
	case Full:
		return "full"
	case Stopping:
		return "stopping"
	case Failed:
		return "failed"
	case Broken:
		return "broken"
	}
	return "unknown"
}

// Error is why a request was not handled. What a sender is told of it is Kind's
// status and text, never Err's: that may say what should stay here.
type Error struct {
	Kind Kind
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Kind, e.Err) }

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

// Status returns the HTTP status of the answer.
func (e *Error) Status() int {
	switch e.Kind {
	case Forbidden:
		return http.StatusForbidden
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case Unverified:
		return http.StatusUnauthorized
	case Malformed:
		return http.StatusBadRequest
	case Unhandled:
		return http.StatusNotFound
	case Busy:
		return http.StatusConflict
	case Full, Stopping, Broken:
		return http.StatusServiceUnavailable
	case Failed:
		if answer, ok := errors.AsType[*Answer](e.Err); ok {
			return answer.Status
		}
	}
	return http.StatusInternalServerError
}

// text is what the sender is told.
func (e *Error) text() string {
	switch e.Kind {
	case Forbidden:
		return "requests from this address are not taken"
	case TooLarge:
		return "the body is too large"
	case Unverified:
		return "the signature does not hold"
	case Malformed:
		return "the body cannot be read"
	case Unhandled:
		return "events of this type are not handled"
	case Busy:
		return "this event is being handled; come again"
	case Full, Stopping, Broken:
		return "no event can be taken just now; come again"
	case Failed:
	}
	return "handling the event failed"
}

// retryAfter is what the sender is asked to wait; 0 if nothing is said.
func (e *Error) retryAfter() time.Duration {
	if answer, ok := errors.AsType[*Answer](e.Err); ok {
		return answer.RetryAfter
	}
	switch e.Kind {
	case Busy, Full, Stopping, Broken:
		return comeAgain
	case Forbidden, TooLarge, Unverified, Malformed, Unhandled, Failed:
	}
	return 0
}

// Answer is an error of a handler that says how to answer: with a status of its
// choice, as 410 to a sender that should stop, or 422 to one that should not
// send this event again.
type Answer struct {
	Status     int
	RetryAfter time.Duration // 0: nothing is said
	Err        error
}

// Error implements error.
func (a *Answer) Error() string { return fmt.Sprintf("answering %d: %v", a.Status, a.Err) }

// Unwrap returns why.
func (a *Answer) Unwrap() error { return a.Err }

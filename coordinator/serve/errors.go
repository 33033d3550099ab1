package serve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/route"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
)

// How long a client should wait before it tries again.
const (
	retryUnavailable = 500 * time.Millisecond
	retryNoAnswer    = 2 * time.Second
	retryNoSpace     = 10 * time.Second
)

// Error is what a handler returns when a request cannot be served: what went
// wrong, in the API's terms. One interceptor makes it a gRPC status.
type Error struct {
	Code    codes.Code
	Field   string // which one is wrong, as in `events[3].type`; may be empty
	Message string
}

// Error returns the field and the message.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + " " + e.Message
}

// invalid says what is wrong with a field.
func invalid(field, format string, args ...any) error {
	return &Error{codes.InvalidArgument, field, fmt.Sprintf(format, args...)}
}

// NotFound says that there is no such thing.
func NotFound(what, name string) error { return notFound(what, name) }

func notFound(what, name string) error {
	return &Error{codes.NotFound, "", fmt.Sprintf("%s %q does not exist", what, name)}
}

// within puts a field's error into the field it is in. An error that names no
// field is that field's.
func within(field string, err error) error {
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		return err
	case e.Field != "":
		field += "." + e.Field
	}
	return &Error{e.Code, field, e.Message}
}

// statusOf is the one table of what errors mean to a client.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return statusOfError(e)
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the deadline passed before the log answered; what was sent may be durable or not")
	case errors.Is(err, lead.ErrInterrupted), errors.Is(err, lead.ErrFenced):
		return route.Unavailable(route.ReasonLeaderMoved,
			"the partition's leader ended while the call was under way: it may have been done or not; try again")
	case errors.Is(err, lead.ErrNotLeading):
		return route.Unavailable(route.ReasonNotLeader, "the partition has no leader here just now; try again")
	case errors.Is(err, lead.ErrNoAnswer):
		return withRetry(codes.Unavailable, "the log does not answer just now: it may have been done or not; try again", retryNoAnswer)
	case errors.Is(err, errBehind):
		return withRetry(codes.Unavailable, "the history has not caught up with what was published; try again", retryUnavailable)
	case errors.Is(err, lead.ErrFull):
		return withRetry(codes.ResourceExhausted, err.Error()+"; nothing was stored", retryNoSpace)
	case errors.Is(err, lead.ErrPartly):
		return withRetry(codes.Unavailable, err.Error()+"; publish them again with the same ids", retryNoSpace)
	case errors.Is(err, eventlog.ErrNoSpace):
		return withRetry(codes.ResourceExhausted, "the log has no space left: nothing was stored", retryNoSpace)
	case errors.Is(err, lead.ErrTooManyAlerts):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, lead.ErrSlowWatcher):
		return status.Error(codes.ResourceExhausted, "the watcher did not keep up; open a new one and list what it missed")
	case errors.Is(err, history.ErrNotFound):
		return status.Error(codes.NotFound, "not found")
	case errors.Is(err, history.ErrPageToken):
		return statusOfError(&Error{codes.InvalidArgument, "page_token", "was not made by a list with these filters"})
	default:
		return status.Error(codes.Internal, err.Error())
	}
}

func statusOfError(e *Error) error {
	if e.Field == "" {
		return status.Error(e.Code, e.Error())
	}
	return withDetails(e.Code, e.Error(), &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.Field, Description: e.Message}},
	})
}

func withRetry(code codes.Code, message string, after time.Duration) error {
	return withDetails(code, message, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

func withDetails(code codes.Code, message string, detail protoadapt.MessageV1) error {
	s, err := status.New(code, message).WithDetails(detail)
	if err != nil {
		return status.Error(code, message)
	}
	return s.Err()
}

// UnaryErrors is the interceptor that gives errors their meaning.
func UnaryErrors(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, request)
	return response, statusOf(err)
}

// StreamErrors is UnaryErrors for streams.
func StreamErrors(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return statusOf(handler(server, stream))
}

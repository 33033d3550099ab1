package serve

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
)

func TestStatusOf(t *testing.T) {
	tests := []struct {
		name    string
		err     error
		code    codes.Code
		message string
		field   string        // of BadRequest
		retry   time.Duration // of RetryInfo
	}{
		{
			"a wrong field", invalid("events[3].type", "is %q", "x"),
			codes.InvalidArgument, `events[3].type is "x"`, "events[3].type", 0,
		},
		{"something missing", notFound("tenant", "acme"), codes.NotFound, `tenant "acme" does not exist`, "", 0},
		{
			"another code with a field", &Error{codes.Aborted, "etag", "does not match"},
			codes.Aborted, "etag does not match", "etag", 0,
		},
		{"a wrapped one", fmt.Errorf("doing: %w", invalid("a", "b")), codes.InvalidArgument, "a b", "a", 0},
		{"a status", status.Error(codes.Unavailable, "led by another"), codes.Unavailable, "led by another", "", 0},
		{"cancelled", fmt.Errorf("doing: %w", context.Canceled), codes.Canceled, "the call was cancelled", "", 0},
		{
			"too late", context.DeadlineExceeded, codes.DeadlineExceeded,
			"the deadline passed before the log answered; what was sent may be durable or not", "", 0,
		},
		{
			"not leading", fmt.Errorf("doing: %w", lead.ErrNotLeading), codes.Unavailable,
			"the partition has no leader here just now; try again", "", 500 * time.Millisecond,
		},
		{
			"fenced", lead.ErrFenced, codes.Unavailable,
			"the partition's leader ended while the call was under way: it may have been done or not; try again", "", 500 * time.Millisecond,
		},
		{
			"interrupted", fmt.Errorf("doing: %w", lead.ErrInterrupted), codes.Unavailable,
			"the partition's leader ended while the call was under way: it may have been done or not; try again", "", 500 * time.Millisecond,
		},
		{
			"no answer", lead.ErrNoAnswer, codes.Unavailable,
			"the log does not answer just now: it may have been done or not; try again", "", 2 * time.Second,
		},
		{
			"the history is behind", errBehind, codes.Unavailable,
			"the history has not caught up with what was published; try again", "", 500 * time.Millisecond,
		},
		{
			"no space", fmt.Errorf("doing: %w", eventlog.ErrNoSpace), codes.ResourceExhausted,
			"the log has no space left: nothing was stored", "", 10 * time.Second,
		},
		{
			"a slow watcher", lead.ErrSlowWatcher, codes.ResourceExhausted,
			"the watcher did not keep up; open a new one and list what it missed", "", 0,
		},
		{"not in the history", history.ErrNotFound, codes.NotFound, "not found", "", 0},
		{
			"a page token", history.ErrPageToken, codes.InvalidArgument,
			"page_token was not made by a list with these filters", "page_token", 0,
		},
		{"anything else", errors.New("disk on fire"), codes.Internal, "disk on fire", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := status.FromError(statusOf(tt.err))
			if !ok || got.Code() != tt.code || got.Message() != tt.message {
				t.Errorf("statusOf = %v, want %s: %s", got, tt.code, tt.message)
			}
			field, retry := detailsOf(t, got)
			if field != tt.field || retry != tt.retry {
				t.Errorf("details are the field %q and a retry after %s, want %q and %s", field, retry, tt.field, tt.retry)
			}
		})
	}
	if err := statusOf(nil); err != nil {
		t.Errorf("statusOf(nil) = %v", err)
	}
}

// detailsOf returns the field of a BadRequest and the delay of a RetryInfo.
func detailsOf(t *testing.T, s *status.Status) (field string, retry time.Duration) {
	t.Helper()
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.BadRequest:
			if len(d.GetFieldViolations()) != 1 || d.GetFieldViolations()[0].GetDescription() == "" {
				t.Fatalf("violations are %v, want one, described", d.GetFieldViolations())
			}
			field = d.GetFieldViolations()[0].GetField()
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration()
		case *errdetails.ErrorInfo: // for coordinators; see package route
		default:
			t.Fatalf("unexpected detail %T", d)
		}
	}
	return field, retry
}

func TestWithin(t *testing.T) {
	other := errors.New("other")
	if got := complaint(t, within("subscription", invalid("url", "is empty"))); got != "subscription.url" {
		t.Errorf("field is %q, want subscription.url", got)
	}
	if got := complaint(t, within("body", invalid("", "is no object"))); got != "body" {
		t.Errorf("field is %q, want body", got)
	}
	if got := within("subscription", other); !errors.Is(got, other) {
		t.Errorf("got %v, want it as it was", got)
	}
	if got := within("subscription", nil); got != nil {
		t.Errorf("got %v, want nil", got)
	}
}

func TestInterceptorsGiveErrorsTheirMeaning(t *testing.T) {
	_, err := UnaryErrors(t.Context(), nil, nil, func(context.Context, any) (any, error) { return nil, lead.ErrNotLeading })
	if status.Code(err) != codes.Unavailable {
		t.Errorf("unary: %v", err)
	}
	response, err := UnaryErrors(t.Context(), 1, nil, func(_ context.Context, request any) (any, error) { return request, nil })
	if response != 1 || err != nil {
		t.Errorf("unary: %v, %v", response, err)
	}
}

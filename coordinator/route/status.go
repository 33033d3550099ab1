package route

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// errorDomain is the domain of the reasons, in google.rpc.ErrorInfo.
const errorDomain = "fanfare"

// Why a call is UNAVAILABLE, as an entry must know. They are in an ErrorInfo
// of the status.
const (
	// ReasonNotLeader: who was asked does not lead the partition, and has not
	// handed the call on: nothing has happened.
	ReasonNotLeader = "NOT_LEADER"
	// ReasonLeaderMoved: the leadership ended while the call was under way. It
	// may have done what it was to do, or not.
	ReasonLeaderMoved = "LEADER_MOVED"
)

// retryDelay is what clients are told to wait.
const retryDelay = 500 * time.Millisecond

// errMoved ends a forwarded call whose leader is no longer the leader.
var errMoved = errors.New("another coordinator leads the partition now")

// Unavailable returns a status that says why, that it is worth trying again,
// and, if it is given, the reason.
func Unavailable(reason, message string) error {
	s := status.New(codes.Unavailable, message)
	details := []any{&errdetails.RetryInfo{RetryDelay: durationpb.New(retryDelay)}}
	if reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: reason, Domain: errorDomain})
	}
	for _, detail := range details {
		var with *status.Status
		var err error
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			with, err = s.WithDetails(d)
		case *errdetails.ErrorInfo:
			with, err = s.WithDetails(d)
		}
		if err != nil {
			return s.Err()
		}
		s = with
	}
	return s.Err()
}

// reasonOf returns the reason in a status; empty if it has none.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason()
		}
	}
	return ""
}

// outcome is how one try of a call ended.
type outcome struct {
	err   error
	sent  bool // it may have reached a leader
	final bool // it cannot be made again: some of it has been said, or heard
}

// again reports whether the call may be made again.
func (o outcome) again(safe bool) bool {
	switch {
	case o.err == nil || o.final || status.Code(o.err) != codes.Unavailable:
		return false
	case !o.sent || reasonOf(o.err) == ReasonNotLeader:
		return true
	case reasonOf(o.err) == ReasonLeaderMoved:
		return safe
	default: // the connection broke; a handler that refuses says more
		return safe && len(status.Convert(o.err).Details()) == 0
	}
}

// explain makes a client's error of what came of forwarding: a connection that
// broke says little, and not that it is worth trying again.
func explain(ctx context.Context, partition int, address string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errMoved):
		return Unavailable(ReasonLeaderMoved, fmt.Sprintf(
			"partition %d has changed its leader while the call was under way: it may have been done or not", partition))
	case status.Code(err) == codes.Unavailable && len(status.Convert(err).Details()) == 0:
		return Unavailable("", fmt.Sprintf("partition %d is led at %s, which does not answer: %s",
			partition, address, status.Convert(err).Message()))
	default:
		return err
	}
}

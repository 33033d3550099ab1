package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const tailLong = `Show deliveries as they happen: one that begins to be owed, each attempt, and
each end. A line is

  time, mark and state, event type, event, subscription, attempt, status, latency, error

where the mark is + for a new delivery, ✓ for one that is delivered, ~ for an
attempt that will be followed by another, ✗ for a delivery given up, and - for
one that expired or was cancelled. With -o json each line is an object.

When the server goes away, tail says so and connects again; what happened
meanwhile is not shown ('fanfare deliveries list' has it). Ctrl-C ends it.`

func tailCommand(s *settings) *cobra.Command {
	var subscription string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Watch deliveries as they happen",
		Long:  tailLong,
		Example: `  fanfare tail
  fanfare tail --subscription sub_1f4
  fanfare tail -o json | jq 'select(.attempt.result == "DEAD")'`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			return tail(ctx, c, &fanfarev1.WatchDeliveriesRequest{Parent: c.tenant, Subscription: subscription})
		}),
	}
	cmd.Flags().StringVar(&subscription, "subscription", "", "only this subscription's")
	s.completeSubscriptionFlag(cmd)
	return cmd
}

// tail prints what happens until ctx ends, which is no error.
func tail(ctx context.Context, c *client, req *fanfarev1.WatchDeliveriesRequest) error {
	return c.keepWatching(ctx, func(ctx context.Context) (bool, error) { return watch(ctx, c, req) })
}

// keepWatching watches until ctx ends, which is no error. It connects again
// when a watch ends, unless the first connection fails or the server says that
// it will never answer. watch reports whether it was opened, and why it ended.
func (c *client) keepWatching(ctx context.Context, watch func(context.Context) (opened bool, err error)) error {
	var waits retryWaits
	watched := false
	for {
		opened, err := watch(ctx)
		if ended(ctx) {
			return nil
		}
		if opened {
			watched = true
			waits = retryWaits{}
		}
		if !watched || !passes(err) {
			return err
		}
		wait := waits.next()
		c.note("fanfare: %s; connecting again in %s", describe(err), wait.Round(retryWaitPrecision))
		if !pause(ctx, wait) {
			return nil
		}
	}
}

// watch prints what one stream brings. It reports whether the stream was
// opened, and why it ended: never nil.
func watch(ctx context.Context, c *client, req *fanfarev1.WatchDeliveriesRequest) (opened bool, err error) {
	stream, err := c.deliveries().WatchDeliveries(ctx, req)
	if err != nil {
		return false, err
	}
	for {
		change, err := stream.Recv()
		if err != nil {
			return true, streamEnd(err)
		}
		if err := c.printLine(change, text(changeLine(change))); err != nil {
			return true, err
		}
	}
}

// errStreamEnded is a watch that the server ended without saying why.
var errStreamEnded = errors.New("the server ended the stream")

// streamEnd is why a watch has ended whose Recv returned err.
func streamEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return errStreamEnded
	}
	return err
}

// passes reports whether a watch that ended with err may go well when it is
// opened again: the server was away, is overloaded, or found us too slow.
func passes(err error) bool {
	if errors.Is(err, errStreamEnded) {
		return true
	}
	switch codeOf(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// changeLine puts one change in one line.
func changeLine(change *fanfarev1.WatchDeliveriesResponse) string {
	delivery, attempt := change.GetDelivery(), change.GetAttempt()
	mark, state := changeMark(change)
	parts := []string{
		changeTime(change).AsTime().Local().Format("15:04:05.000"),
		fmt.Sprintf("%s %-9s", mark, state),
		fmt.Sprintf("%-20s", delivery.GetEventType()),
		lastPart(delivery.GetEvent()),
		lastPart(delivery.GetSubscription()),
	}
	if attempt != nil {
		parts = append(parts,
			fmt.Sprintf("attempt %d", attempt.GetNumber()),
			cmp.Or(unlessZero(attempt.GetStatusCode()), "-"),
			span(attempt.GetLatency()),
			attemptError(attempt),
		)
	}
	return singleLine(strings.Join(parts, "  ")) + "\n"
}

// changeMark says what happened in a sign and a word.
func changeMark(change *fanfarev1.WatchDeliveriesResponse) (mark, state string) {
	switch s := change.GetDelivery().GetState(); s {
	case fanfarev1.Delivery_PENDING:
		if change.GetAttempt() == nil {
			return "+", "new"
		}
		return "~", "retry"
	case fanfarev1.Delivery_DELIVERED:
		return "✓", stateName(s)
	case fanfarev1.Delivery_DEAD:
		return "✗", stateName(s)
	case fanfarev1.Delivery_EXPIRED, fanfarev1.Delivery_CANCELLED:
		return "-", stateName(s)
	case fanfarev1.Delivery_STATE_UNSPECIFIED:
	}
	return "?", "unknown"
}

// changeTime is when it happened: the attempt, else the end, else the
// beginning.
func changeTime(change *fanfarev1.WatchDeliveriesResponse) *timestamppb.Timestamp {
	if t := change.GetAttempt().GetStartTime(); t != nil {
		return t
	}
	if t := change.GetDelivery().GetEndTime(); t != nil {
		return t
	}
	return change.GetDelivery().GetCreateTime()
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const deliveriesLong = `A delivery is one event owed to one subscription. It is pending until it ends,
exactly once: delivered, dead (given up), expired (retention ended), or cancelled
(the subscription was deleted, or resumed from now on). One that ended without
success can be made owed again: by 'fanfare deliveries retry', and many by
'fanfare replay'. An ID is the last part of its name (dlv_…) or the whole name.`

func deliveriesCommand(s *settings) *cobra.Command {
	cmd := newGroup("deliveries", "See what became of every event at every endpoint", deliveriesLong,
		listDeliveriesCommand(s),
		getDeliveryCommand(s),
		listAttemptsCommand(s),
		exportDeliveriesCommand(s),
		retryDeliveriesCommand(s),
	)
	cmd.Aliases = []string{"delivery"}
	return cmd
}

// deliveryFilter holds the flags that choose deliveries.
type deliveryFilter struct {
	subscription, event     string
	eventType, trace        string
	statusClass, errorClass string
	state                   stateFlag
	within                  timeRange
}

func (f *deliveryFilter) register(cmd *cobra.Command, s *settings) {
	flags := cmd.Flags()
	flags.StringVar(&f.subscription, "subscription", "", "only this subscription's")
	flags.StringVar(&f.event, "event", "", "only this event's")
	flags.StringVar(&f.eventType, "event-type", "", "only of events of exactly this type")
	flags.StringVar(&f.trace, "trace", "", "only of events published in this trace")
	flags.StringVar(&f.statusClass, "status", "", "only if last answered so: 1xx, 2xx, 3xx, 4xx, 5xx")
	flags.StringVar(&f.errorClass, "error", "", "only if last failed so: timeout, connect, status, …")
	flags.Var(&f.state, "state", "only in this state: "+strings.Join(stateNames(), ", "))
	f.within.register(cmd, "deliveries that began to be owed")
	complete(cmd, "state", stateNames()...)
	complete(cmd, "status", "1xx", "2xx", "3xx", "4xx", "5xx")
	complete(cmd, "error", "dns", "connect", "tls", "timeout", "reset", "protocol", "egress_denied", "canceled", "status", "payload", "other")
	s.completeSubscriptionFlag(cmd)
}

func listDeliveriesCommand(s *settings) *cobra.Command {
	var (
		pages  paging
		filter deliveryFilter
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries, newest event first",
		Long:  "List deliveries, newest event first. All filters that are given must hold.",
		Example: `  fanfare deliveries list --state pending
  fanfare deliveries list --subscription sub_1f4 --state dead --since 24h
  fanfare deliveries list --state expired --all
  fanfare deliveries list --event-type order.created --status 5xx
  fanfare deliveries list --event evt_01k9zq7h3d8vj1m4w0e5t6y7u8 -o json`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			deliveries := listing[*fanfarev1.ListDeliveriesResponse]{view: deliveryTable}
			deliveries.fetch = func(ctx context.Context, size int32, token string) (*fanfarev1.ListDeliveriesResponse, error) {
				return c.deliveries().ListDeliveries(ctx, &fanfarev1.ListDeliveriesRequest{
					Parent: c.tenant, PageSize: size, PageToken: token,
					Subscription: filter.subscription, Event: filter.event, State: filter.state.value,
					StartTime: filter.within.since.value, EndTime: filter.within.until.value,
					EventType: filter.eventType, TraceId: filter.trace,
					StatusClass: filter.statusClass, ErrorClass: filter.errorClass,
				})
			}
			return deliveries.print(ctx, c, pages)
		}),
	}
	filter.register(cmd, s)
	pages.register(cmd)
	return cmd
}

func exportDeliveriesCommand(s *settings) *cobra.Command {
	var (
		filter   deliveryFilter
		attempts bool
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write deliveries as lines of JSON, newest event first",
		Long: `Write deliveries to standard output, each as one line of JSON, newest event first,
with all their attempts if --attempts is given. All filters that are given must
hold. How far it is is said on standard error.`,
		Example: `  fanfare deliveries export --since 24h > deliveries.jsonl
  fanfare deliveries export --state dead --attempts | jq -r .delivery.lastErrorClass`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			stream, err := c.deliveries().ExportDeliveries(ctx, &fanfarev1.ExportDeliveriesRequest{
				Parent: c.tenant, Subscription: filter.subscription, Event: filter.event, State: filter.state.value,
				StartTime: filter.within.since.value, EndTime: filter.within.until.value,
				EventType: filter.eventType, TraceId: filter.trace,
				StatusClass: filter.statusClass, ErrorClass: filter.errorClass, WithAttempts: attempts,
			})
			if err != nil {
				return err
			}
			return writeExport(c, "deliveries", stream)
		}),
	}
	filter.register(cmd, s)
	cmd.Flags().BoolVar(&attempts, "attempts", false, "with all attempts of each")
	return cmd
}

func getDeliveryCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "get ID",
		Short:   "Show one delivery",
		Long:    "Show one delivery: where it stands, and when the next attempt is due.",
		Example: "  fanfare deliveries get dlv_0-2s-0-1f4",
		Args:    oneArg("delivery"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := c.resourceName("deliveries", args[0])
			if err != nil {
				return err
			}
			got, err := c.deliveries().GetDelivery(ctx, &fanfarev1.GetDeliveryRequest{Name: name})
			if err != nil {
				return err
			}
			return c.print(got, deliveryDetails(got))
		}),
	}
}

func listAttemptsCommand(s *settings) *cobra.Command {
	var pages paging
	cmd := &cobra.Command{
		Use:   "attempts ID",
		Short: "List the attempts of one delivery, first to last",
		Long: `List the attempts of one delivery, first to last: what each did, how long it
took, and what the endpoint answered. With -o json the answer's first 4 KiB are
there in full.`,
		Example: "  fanfare deliveries attempts dlv_0-2s-0-1f4",
		Args:    oneArg("delivery"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := c.resourceName("deliveries", args[0])
			if err != nil {
				return err
			}
			attempts := listing[*fanfarev1.ListAttemptsResponse]{view: attemptTable}
			attempts.fetch = func(ctx context.Context, size int32, token string) (*fanfarev1.ListAttemptsResponse, error) {
				return c.deliveries().ListAttempts(ctx, &fanfarev1.ListAttemptsRequest{
					Parent: name, PageSize: size, PageToken: token,
				})
			}
			return attempts.print(ctx, c, pages)
		}),
	}
	pages.register(cmd)
	return cmd
}

func retryDeliveriesCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "retry ID…",
		Short: "Make deliveries owed again that ended without success",
		Long: `Make deliveries owed again that are dead, expired or cancelled, one after the
other; the first that fails ends it. They are due at once and follow a new
schedule. One that is pending or delivered is refused, and so is one whose event
the log no longer holds. For many at once there is 'fanfare replay'.`,
		Example: "  fanfare deliveries retry dlv_0-2s-0-1f4 dlv_0-2t-0-1f4",
		Args:    someArgs("delivery"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			return c.each("deliveries", args, func(name string) error {
				delivery, err := c.deliveries().RetryDelivery(ctx, &fanfarev1.RetryDeliveryRequest{Name: name})
				if err != nil {
					return fmt.Errorf("retrying %s: %w", lastPart(name), err)
				}
				return c.printLine(delivery, text("retrying "+lastPart(name)+"\n"))
			})
		}),
	}
}

func deliveryTable(page *fanfarev1.ListDeliveriesResponse) table {
	t := table{
		header: []string{"CREATED", "ID", "STATE", "EVENT TYPE", "EVENT", "SUBSCRIPTION", "ATTEMPTS", "LAST", "NEXT ATTEMPT"},
		empty:  "No deliveries.",
	}
	for _, d := range page.GetDeliveries() {
		t.rows = append(t.rows, []string{
			moment(d.GetCreateTime()),
			lastPart(d.GetName()),
			stateName(d.GetState()),
			d.GetEventType(),
			lastPart(d.GetEvent()),
			lastPart(d.GetSubscription()),
			number(d.GetAttemptCount()),
			lastAnswer(d),
			moment(d.GetNextAttemptTime()),
		})
	}
	return t
}

// lastAnswer says how the last attempt ended: the status, or why there is none.
func lastAnswer(d *fanfarev1.Delivery) string {
	return cmp.Or(unlessZero(d.GetLastStatusCode()), d.GetLastErrorClass())
}

func deliveryDetails(d *fanfarev1.Delivery) details {
	return details{
		{"ID", lastPart(d.GetName())},
		{"Name", d.GetName()},
		{"Event", lastPart(d.GetEvent())},
		{"Event type", d.GetEventType()},
		{"Trace", d.GetTraceId()},
		{"Subscription", lastPart(d.GetSubscription())},
		{"State", stateName(d.GetState())},
		{"Attempts", number(d.GetAttemptCount())},
		{"Last status", unlessZero(d.GetLastStatusCode())},
		{"Last error", d.GetLastErrorClass()},
		{"Next attempt", moment(d.GetNextAttemptTime())},
		{"Created", moment(d.GetCreateTime())},
		{"Ended", moment(d.GetEndTime())},
	}
}

func attemptTable(page *fanfarev1.ListAttemptsResponse) table {
	const mostOfAnswer = 60
	t := table{
		header: []string{"ATTEMPT", "STARTED", "RESULT", "STATUS", "LATENCY", "ERROR", "ANSWER", "WORKER", "NEXT ATTEMPT"},
		empty:  "No attempts yet.",
	}
	for _, a := range page.GetAttempts() {
		t.rows = append(t.rows, []string{
			number(a.GetNumber()),
			moment(a.GetStartTime()),
			strings.ToLower(a.GetResult().String()),
			unlessZero(a.GetStatusCode()),
			span(a.GetLatency()),
			attemptError(a),
			shorten(a.GetResponseBody(), mostOfAnswer),
			a.GetWorker(),
			moment(a.GetNextAttemptTime()),
		})
	}
	return t
}

// attemptError says why an attempt failed; empty if it did not.
func attemptError(a *fanfarev1.Attempt) string {
	switch {
	case a.GetError() == "":
		return a.GetErrorClass()
	case a.GetErrorClass() == "":
		return a.GetError()
	default:
		return a.GetErrorClass() + ": " + a.GetError()
	}
}

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const replaysLong = `A replay makes deliveries owed again that have ended; 'fanfare replay' begins
one. The cluster remembers those that run and the last 100 that ended. An ID is
the last part of its name (rpl_…) or the whole name.`

func replaysCommand(s *settings) *cobra.Command {
	return newGroup("replays", "Look at replays and cancel them", replaysLong,
		listReplaysCommand(s),
		getReplayCommand(s),
		cancelReplayCommand(s),
	)
}

func listReplaysCommand(s *settings) *cobra.Command {
	var pages paging
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List replays, newest first",
		Long:    "List the tenant's replays, newest first: those that run, and the last 100 that ended.",
		Example: "  fanfare replays list",
		Args:    noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			return replayListing(c).print(ctx, c, pages)
		}),
	}
	pages.register(cmd)
	return cmd
}

func replayListing(c *client) listing[*fanfarev1.ListReplaysResponse] {
	return listing[*fanfarev1.ListReplaysResponse]{
		fetch: func(ctx context.Context, size int32, token string) (*fanfarev1.ListReplaysResponse, error) {
			return c.deliveries().ListReplays(ctx, &fanfarev1.ListReplaysRequest{
				Parent: c.tenant, PageSize: size, PageToken: token,
			})
		},
		view: replayTable,
	}
}

func getReplayCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "get ID",
		Short: "Show one replay",
		Long:  "Show one replay: what it replays, and how far it is.",
		Example: `  fanfare replays get rpl_01k9zq7h3d8vj1m4w0e5t6y7u8
  fanfare replays get rpl_01k9zq7h3d8vj1m4w0e5t6y7u8 -o json | jq .state`,
		Args:              oneArg("replay"),
		ValidArgsFunction: s.completeReplays,
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := c.resourceName("replays", args[0])
			if err != nil {
				return err
			}
			got, err := c.deliveries().GetReplay(ctx, &fanfarev1.GetReplayRequest{Name: name})
			if err != nil {
				return err
			}
			return c.print(got, replayDetails(got))
		}),
	}
}

func cancelReplayCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID…",
		Short: "Cancel replays",
		Long: `Cancel replays, one after the other; the first that fails ends it. What they
have made owed stays owed. One that is done stays done, which is no error.`,
		Example:           "  fanfare replays cancel rpl_01k9zq7h3d8vj1m4w0e5t6y7u8",
		Args:              someArgs("replay"),
		ValidArgsFunction: s.completeReplays,
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			return c.each("replays", args, func(name string) error {
				replay, err := c.deliveries().CancelReplay(ctx, &fanfarev1.CancelReplayRequest{Name: name})
				if err != nil {
					return fmt.Errorf("cancelling %s: %w", lastPart(name), err)
				}
				line := fmt.Sprintf("%s %s, %s\n", replayState(replay), lastPart(name), howFar(replay))
				return c.printLine(replay, text(line))
			})
		}),
	}
}

func replayTable(page *fanfarev1.ListReplaysResponse) table {
	t := table{
		header: []string{"CREATED", "ID", "STATE", "SUBSCRIPTION", "OF STATES", "EVENT TYPES", "MATCHED", "REPLAYED", "LEFT OUT", "ENDED"},
		empty:  "No replays.",
	}
	for _, r := range page.GetReplays() {
		t.rows = append(t.rows, []string{
			moment(r.GetCreateTime()),
			lastPart(r.GetName()),
			replayState(r),
			lastPart(r.GetSubscription()),
			joinStates(r.GetStates()),
			strings.Join(r.GetEventTypes(), ","),
			number(r.GetMatchedCount()),
			number(r.GetReplayedCount()),
			number(r.GetSkippedCount()),
			moment(r.GetFinishTime()),
		})
	}
	return t
}

func replayDetails(r *fanfarev1.Replay) details {
	return details{
		{"ID", lastPart(r.GetName())},
		{"Name", r.GetName()},
		{"Subscription", lastPart(r.GetSubscription())},
		{"Since", moment(r.GetStartTime())},
		{"Until", moment(r.GetEndTime())},
		{"Of states", joinStates(r.GetStates())},
		{"Event types", strings.Join(r.GetEventTypes(), ",")},
		{"State", replayState(r)},
		{"Matched", number(r.GetMatchedCount())},
		{"Replayed", number(r.GetReplayedCount())},
		{"Left out", number(r.GetSkippedCount())},
		{"Created", moment(r.GetCreateTime())},
		{"Ended", moment(r.GetFinishTime())},
	}
}

// replayState is how far a replay is, in a word.
func replayState(r *fanfarev1.Replay) string {
	return strings.ToLower(r.GetState().String())
}

// completeReplays offers the tenant's replays to the shell.
func (s *settings) completeReplays(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return s.offer(cmd, given, func(ctx context.Context, c *client, size int32) ([]offered, error) {
		page, err := replayListing(c).fetch(ctx, size, "")
		var all []offered
		for _, r := range page.GetReplays() {
			all = append(all, offered{r.GetName(), replayState(r) + ", " + howFar(r)})
		}
		return all, err
	})
}

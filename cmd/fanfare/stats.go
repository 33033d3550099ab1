package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func statsCommand(s *settings) *cobra.Command {
	var (
		within timeRange
		step   spanFlag
	)
	cmd := &cobra.Command{
		Use:   "stats ID",
		Short: "Show how a subscription's deliveries went, step by step",
		Long: `Show how a subscription's deliveries went: in each step of a time the attempts,
how many succeeded, how long they took (half, 95 % and 99 % took no longer), how
they were answered, and the deliveries that ended. Steps in which nothing
happened are left out. Counts are kept by the minute for two days, by the hour
for a year.`,
		Example: `  fanfare subscriptions stats sub_1f4
  fanfare subscriptions stats sub_1f4 --since 1h --step 5m
  fanfare subscriptions stats sub_1f4 --since 30d --step 24h -o json`,
		Args:              oneArg("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := c.resourceName("subscriptions", args[0])
			if err != nil {
				return err
			}
			statistics, err := c.deliveries().GetStatistics(ctx, &fanfarev1.GetStatisticsRequest{
				Name: name + "/statistics", StartTime: within.since.value, EndTime: within.until.value, Step: step.value,
			})
			if err != nil {
				return err
			}
			return c.print(statistics, statisticsTable(statistics))
		}),
	}
	cmd.Flags().Var(&within.since, "since", "from this time on, or this long ago (default 24h before --until)")
	cmd.Flags().Var(&within.until, "until", "up to this time, or this long ago (default now)")
	cmd.Flags().Var(&step, "step", "length of a step (default 1h)")
	return cmd
}

func statisticsTable(statistics *fanfarev1.Statistics) table {
	t := table{
		header: []string{"FROM", "ATTEMPTS", "SUCCEEDED", "P50", "P95", "P99", "DELIVERED", "DEAD", "EXPIRED", "CANCELLED", "ANSWERS"},
		empty:  "Nothing happened in this time.",
	}
	if len(statistics.GetPoints()) == 0 {
		return t
	}
	for _, point := range statistics.GetPoints() {
		t.rows = append(t.rows, append([]string{moment(point.GetStartTime())}, statisticsCells(point)...))
	}
	t.rows = append(t.rows, append([]string{"all"}, statisticsCells(statistics.GetTotal())...))
	return t
}

func statisticsCells(point *fanfarev1.StatisticsPoint) []string {
	succeeded := ""
	if point.GetAttemptCount() > 0 {
		succeeded = fmt.Sprintf("%.1f %%", 100*point.GetSuccessRatio())
	}
	var classes []string
	for _, class := range slices.Sorted(maps.Keys(point.GetAttemptsByClass())) {
		classes = append(classes, fmt.Sprintf("%s:%d", class, point.GetAttemptsByClass()[class]))
	}
	return []string{
		number(point.GetAttemptCount()), succeeded,
		span(point.GetLatencyP50()), span(point.GetLatencyP95()), span(point.GetLatencyP99()),
		number(point.GetDeliveredCount()), number(point.GetDeadCount()), number(point.GetExpiredCount()), number(point.GetCancelledCount()),
		strings.Join(classes, " "),
	}
}

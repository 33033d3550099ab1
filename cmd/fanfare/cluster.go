package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// clusterPeriod is how often `cluster --watch` looks.
const clusterPeriod = 2 * time.Second

const clusterLong = `Show the cluster as the answering coordinator sees it now: its members, the
partitions and who leads them, which worker owns how many shards, what Fanfare
stands on, and what is wrong.`

func clusterCommand(s *settings) *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Show members, partitions and shards, and what is wrong",
		Long:  clusterLong,
		Example: `  fanfare cluster
  fanfare cluster --watch
  fanfare cluster -o json | jq .problems`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			if again {
				return watchCluster(ctx, c)
			}
			cluster, err := c.cluster().DescribeCluster(ctx, &fanfarev1.DescribeClusterRequest{})
			if err != nil {
				return err
			}
			return c.print(cluster, clusterView(cluster))
		}),
	}
	cmd.Flags().BoolVarP(&again, "watch", "w", false, "look again every "+shortSpan(clusterPeriod)+" until Ctrl-C")
	return cmd
}

// watchCluster describes the cluster again and again until ctx ends, which is
// no error. A server that has gone away is waited for; one that never
// answered is an error.
func watchCluster(ctx context.Context, c *client) error {
	ticker := time.NewTicker(clusterPeriod)
	defer ticker.Stop()
	for answered := false; ; {
		cluster, err := c.cluster().DescribeCluster(ctx, &fanfarev1.DescribeClusterRequest{})
		switch {
		case ended(ctx):
			return nil
		case err == nil:
			answered = true
			err = c.printLine(cluster, views{text(clearScreen(c)), clusterView(cluster)})
			if err != nil {
				return err
			}
		case answered && passes(err):
			c.note("fanfare: %s", describe(err))
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// clearScreen returns what makes a terminal empty; to a file it is nothing.
func clearScreen(c *client) string {
	if f, ok := c.out.(interface{ Fd() uintptr }); ok && isatty.IsTerminal(f.Fd()) {
		return "\x1b[H\x1b[2J"
	}
	return ""
}

func clusterView(c *fanfarev1.Cluster) view {
	sections := views{
		titled{"MEMBERS", memberTable(c.GetMembers())},
		titled{"PARTITIONS", partitionTable(c.GetPartitions())},
		titled{"SHARDS", shardTable(c.GetShards())},
		titled{"ENGINES", engineTable(c.GetEngines())},
	}
	return append(sections, titled{"PROBLEMS", problemList(c.GetProblems())})
}

func memberTable(members []*fanfarev1.Member) table {
	t := table{header: []string{"ID", "ROLE", "ADDRESS", "VERSION", "STARTED"}, empty: "No members."}
	for _, m := range members {
		t.rows = append(t.rows, []string{
			m.GetId(), m.GetRole(), m.GetAddress(), m.GetVersion(), moment(m.GetStartTime()),
		})
	}
	return t
}

func partitionTable(partitions []*fanfarev1.Partition) table {
	t := table{
		header: []string{
			"ID", "LEADER", "EPOCH", "LOG", "BYTES", "TENANTS", "SUBSCRIPTIONS",
			"OUTSTANDING", "BEHIND", "IN FLIGHT", "HISTORY LAG", "OLDEST",
		},
		empty: "No partitions.",
	}
	for _, p := range partitions {
		t.rows = append(t.rows, []string{
			number(p.GetId()),
			p.GetLeader(),
			number(p.GetEpoch()),
			fmt.Sprintf("%d…%d", p.GetFirstSequence(), p.GetLastSequence()),
			size(p.GetLogBytes()),
			number(p.GetTenants()),
			number(p.GetSubscriptions()),
			number(p.GetOutstanding()),
			number(p.GetBehind()),
			number(p.GetInFlight()),
			number(p.GetHistoryLag()),
			moment(p.GetOldestOutstandingTime()),
		})
	}
	return t
}

// shardTable sums the shards up by the worker that owns them.
func shardTable(shards []*fanfarev1.Shard) table {
	type sum struct{ shards, attached, subscriptions, inFlight int64 }
	sums := make(map[string]sum)
	for _, shard := range shards {
		s := sums[shard.GetWorker()]
		s.shards++
		if shard.GetAttached() {
			s.attached++
		}
		s.subscriptions += shard.GetSubscriptions()
		s.inFlight += shard.GetInFlight()
		sums[shard.GetWorker()] = s
	}
	t := table{header: []string{"WORKER", "SHARDS", "ATTACHED", "SUBSCRIPTIONS", "IN FLIGHT"}, empty: "No shards."}
	for _, worker := range slices.Sorted(maps.Keys(sums)) {
		s := sums[worker]
		t.rows = append(t.rows, []string{
			cmp.Or(worker, "(nobody)"), number(s.shards), number(s.attached), number(s.subscriptions), number(s.inFlight),
		})
	}
	return t
}

func engineTable(engines []*fanfarev1.Engine) table {
	t := table{header: []string{"NAME", "WHAT", "SYNC"}, empty: "No engines."}
	for _, e := range engines {
		t.rows = append(t.rows, []string{e.GetName(), e.GetDescription(), e.GetSync()})
	}
	return t
}

func problemList(problems []string) text {
	if len(problems) == 0 {
		return "none\n"
	}
	var all strings.Builder
	for _, problem := range problems {
		all.WriteString("! " + singleLine(problem) + "\n")
	}
	return text(all.String())
}

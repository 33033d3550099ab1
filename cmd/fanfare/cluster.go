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
	cmd.AddCommand(drainCommand(s))
	return cmd
}

const drainLong = `Drain asks that a member be given nothing more and that what it has be handed
to others: its partitions if it is a coordinator, its shards if it is a worker.
No delivery is lost, made twice, or held up for more than a moment. The member
goes on running with nothing to do; then stop it, or give it work again with
--undo. A member that starts anew is given work again too.

A process that is told to stop (SIGTERM) does the same by itself.`

func drainCommand(s *settings) *cobra.Command {
	var undo, wait bool
	cmd := &cobra.Command{
		Use:   "drain MEMBER",
		Short: "Hand what a member has to others, or give it work again",
		Long:  drainLong,
		Example: `  fanfare cluster drain worker-3 --wait
  fanfare cluster drain worker-3 --undo`,
		Args: oneArg("MEMBER"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			if undo && wait {
				return usagef("--wait is for what is being drained; leave it or --undo out")
			}
			member, err := c.cluster().DrainMember(ctx, &fanfarev1.DrainMemberRequest{Member: args[0], Undo: undo})
			if err == nil && wait {
				member, err = awaitDrained(ctx, c, args[0])
			}
			if err != nil {
				return err
			}
			return c.print(member, memberTable([]*fanfarev1.Member{member}))
		}),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "give the member work again")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the member has nothing left")
	return cmd
}

// drainPeriod is how often `cluster drain --wait` looks.
const drainPeriod = 250 * time.Millisecond

// awaitDrained returns a member once it has neither partitions nor shards.
func awaitDrained(ctx context.Context, c *client, id string) (*fanfarev1.Member, error) {
	ticker := time.NewTicker(drainPeriod)
	defer ticker.Stop()
	for {
		cluster, err := c.cluster().DescribeCluster(ctx, &fanfarev1.DescribeClusterRequest{})
		if err != nil && !passes(err) {
			return nil, err
		}
		if err == nil {
			at := slices.IndexFunc(cluster.GetMembers(), func(m *fanfarev1.Member) bool { return m.GetId() == id })
			if at < 0 {
				return nil, fmt.Errorf("member %q has left the cluster", id)
			}
			if m := cluster.GetMembers()[at]; m.GetPartitions()+m.GetShards() == 0 {
				return m, nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q to have nothing left: %w", id, ctx.Err())
		}
	}
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
	t := table{
		header: []string{"ID", "ROLE", "STATE", "PARTITIONS", "SHARDS", "ADDRESS", "VERSION", "STARTED"},
		empty:  "No members.",
	}
	for _, m := range members {
		state := "active"
		if m.GetDraining() {
			state = "draining"
		}
		t.rows = append(t.rows, []string{
			m.GetId(), m.GetRole(), state, number(m.GetPartitions()), number(m.GetShards()),
			m.GetAddress(), m.GetVersion(), moment(m.GetStartTime()),
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
			leaderOf(p),
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

// leaderOf says who leads a partition, and who is about to.
func leaderOf(p *fanfarev1.Partition) string {
	leader := cmp.Or(p.GetLeader(), "-")
	if p.GetChosen() != "" && p.GetChosen() != p.GetLeader() {
		return leader + " → " + p.GetChosen()
	}
	return leader
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

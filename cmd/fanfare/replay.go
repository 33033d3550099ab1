package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// replayPeriod is how often `replay` looks how far the server is.
const replayPeriod = 500 * time.Millisecond

const replayLong = `Make many deliveries owed again that have ended: those that all the given
filters select, dead and expired ones if --state says nothing else. They follow
a new schedule from its beginning.

The cluster does the work, at the pace the endpoints take, and goes on through
restarts. This command only watches: a bar on a terminal, else a line for each
change, on standard error; at the end the replay, on standard output. Ctrl-C
leaves it running, as --detach does from the beginning; 'fanfare replays' shows
and cancels it.

An event that the log no longer holds is left out, and so is what belongs to a
subscription that was deleted; both are counted.`

func replayCommand(s *settings) *cobra.Command {
	var (
		filter replayFilter
		detach bool
	)
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Make dead and expired deliveries owed again",
		Long:  replayLong,
		Example: `  fanfare replay --subscription sub_1f4 --since 24h
  fanfare replay --state dead,expired --event-types 'order.*,invoice.paid' --since 7d --until 1d
  fanfare replay --subscription sub_1f4 --state delivered --since 2026-01-02T15:04:05Z --detach
  fanfare replay --since 1h -o json | jq .replayedCount`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			created, err := c.deliveries().CreateReplay(ctx, &fanfarev1.CreateReplayRequest{
				Parent: c.tenant, Replay: filter.replay(),
			})
			if err != nil {
				return err
			}
			if detach {
				return c.print(created, views{replayDetails(created), replayHint(created)})
			}
			return follow(ctx, c, created)
		}),
	}
	filter.register(cmd, s)
	cmd.Flags().BoolVar(&detach, "detach", false, "show the replay as it begins, and do not watch it")
	return cmd
}

// replayFilter holds the flags that choose what is replayed.
type replayFilter struct {
	subscription string
	states       statesFlag
	eventTypes   []string
	within       timeRange
}

func (f *replayFilter) register(cmd *cobra.Command, s *settings) {
	flags := cmd.Flags()
	flags.StringVar(&f.subscription, "subscription", "", "only this subscription's (default every one's)")
	flags.Var(&f.states, "state", "only in these states: "+strings.Join(endedStateNames(), ", ")+" (default dead,expired)")
	flags.StringSliceVar(&f.eventTypes, "event-types", nil,
		"only of events whose type one of these patterns matches, as in order.created,invoice.*")
	f.within.register(cmd, "deliveries that began to be owed")
	complete(cmd, "state", endedStateNames()...)
	s.completeSubscriptionFlag(cmd)
}

func (f *replayFilter) replay() *fanfarev1.Replay {
	return &fanfarev1.Replay{
		Subscription: f.subscription,
		States:       f.states.values,
		EventTypes:   f.eventTypes,
		StartTime:    f.within.since.value,
		EndTime:      f.within.until.value,
	}
}

// replayHint says how to go on with a replay that nobody watches.
func replayHint(r *fanfarev1.Replay) text {
	id := lastPart(r.GetName())
	return text(fmt.Sprintf("It goes on by itself. To look at it, or to cancel it:\n"+
		"  fanfare replays get %s\n  fanfare replays cancel %[1]s\n", id))
}

// follow shows how far a replay is until it has ended, and then the replay.
// One that was cancelled is an error. When ctx ends first it says how to go
// on, and returns ctx's error: what comes next in a script must not take the
// replay for done.
func follow(ctx context.Context, c *client, replay *fanfarev1.Replay) error {
	name := replay.GetName()
	c.note("replaying as %s", lastPart(name))
	shown := newProgress(c.stderr)
	shown.show(replay)
	var waits retryWaits
	for wait := replayPeriod; replay.GetState() == fanfarev1.Replay_RUNNING; {
		if !pause(ctx, wait) {
			shown.leave()
			c.note("%s", strings.TrimSuffix(string(replayHint(replay)), "\n"))
			return ctx.Err()
		}
		now, err := c.deliveries().GetReplay(ctx, &fanfarev1.GetReplayRequest{Name: name})
		switch {
		case err == nil:
			replay, wait, waits = now, replayPeriod, retryWaits{}
			shown.show(replay)
		case ended(ctx): // as pause will find
		case passes(err):
			wait = waits.next()
			shown.leave()
			c.note("fanfare: %s; looking again in %s", describe(err), wait.Round(retryWaitPrecision))
		default:
			shown.leave()
			return fmt.Errorf("watching %s: %w", lastPart(name), err)
		}
	}
	shown.leave()
	if err := c.print(replay, replayDetails(replay)); err != nil {
		return err
	}
	if replay.GetState() == fanfarev1.Replay_CANCELLED {
		return fmt.Errorf("%s was cancelled before it was done", lastPart(name))
	}
	return nil
}

// progress tells people how far something is: on a terminal as a bar that is
// drawn over and over, elsewhere in a line for each change.
type progress struct {
	out      io.Writer
	terminal bool
	said     string // last
	drawn    bool   // the cursor stands behind a bar
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(interface{ Fd() uintptr })
	return &progress{out: out, terminal: ok && isatty.IsTerminal(f.Fd())}
}

// show says how far the replay is, unless it has said just that.
func (p *progress) show(r *fanfarev1.Replay) { p.say(bar(r), howFar(r)) }

// say draws a bar on a terminal, and says in words what it means, unless it has
// said just that.
func (p *progress) say(bar, now string) {
	if p.terminal {
		now = bar + "  " + now
	}
	if now == p.said {
		return
	}
	p.said = now
	if !p.terminal {
		fmt.Fprintln(p.out, now)
		return
	}
	fmt.Fprintf(p.out, "\r%s\x1b[K", now)
	p.drawn = true
}

// leave makes room for others to write.
func (p *progress) leave() {
	if p.drawn {
		fmt.Fprintln(p.out)
		p.drawn, p.said = false, ""
	}
}

// howFar puts a replay's progress in words.
func howFar(r *fanfarev1.Replay) string {
	far := fmt.Sprintf("%d of %d replayed", r.GetReplayedCount(), r.GetMatchedCount())
	if n := r.GetSkippedCount(); n > 0 {
		far += fmt.Sprintf(", %d left out", n)
	}
	return far
}

// bar draws a replay's progress.
func bar(r *fanfarev1.Replay) string {
	part := 1.0
	if matched := r.GetMatchedCount(); matched > 0 && r.GetState() != fanfarev1.Replay_DONE {
		// More can come to match while it runs: what dies meanwhile.
		part = float64(r.GetReplayedCount()+r.GetSkippedCount()) / float64(matched)
	}
	return drawBar(part)
}

// drawBar draws how much of something is done, from 0 to 1.
func drawBar(part float64) string {
	const width = 30
	part = min(part, 1)
	full := int(part * width)
	return fmt.Sprintf("%s%s %3d %%", strings.Repeat("█", full), strings.Repeat("░", width-full), int(part*100))
}

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

const rootLong = `Fanfare fans events out to webhooks.

Producers publish events; Fanfare makes them durable, finds the subscriptions
that want them, and delivers them as signed HTTP requests until they arrive.

Try it on this machine:

  fanfare dev                                        # a whole cluster
  fanfare sink                                       # something that receives
  fanfare subscriptions create --url http://127.0.0.1:9400/
  fanfare publish --type order.created --data '{"order": 1}'
  fanfare deliveries list

Every client command takes --address, --tenant, --timeout and --output.
FANFARE_ADDRESS and FANFARE_TENANT set the first two once and for all.

Exit codes: 0 done, 1 it failed, 2 the command line is wrong, 130 interrupted.`

const (
	clientGroup = "client"
	serverGroup = "server"
	adminGroup  = "admin"
	// receiverGroup is for those at the other end.
	receiverGroup = "receiver"
)

// rootCommand builds the whole command tree. Each call returns a new one that
// shares nothing with those before.
func rootCommand() *cobra.Command {
	root := newGroup("fanfare", "Fan events out to webhooks", rootLong)
	root.SilenceErrors = true // report prints them
	root.SilenceUsage = true
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{err: setting.Redact(err)}
	})
	root.AddGroup(
		&cobra.Group{ID: serverGroup, Title: "Processes:"},
		&cobra.Group{ID: adminGroup, Title: "Setting up a cluster:"},
		&cobra.Group{ID: clientGroup, Title: "Client commands:"},
		&cobra.Group{ID: receiverGroup, Title: "Receiving webhooks:"},
	)

	shared := &settings{}
	for _, cmd := range []*cobra.Command{
		publishCommand(shared),
		subscriptionsCommand(shared),
		eventsCommand(shared),
		deliveriesCommand(shared),
		replayCommand(shared),
		replaysCommand(shared),
		tailCommand(shared),
		alertsCommand(shared),
		tenantsCommand(shared),
		clusterCommand(shared),
		benchCommand(shared),
	} {
		cmd.GroupID = clientGroup
		shared.register(cmd)
		root.AddCommand(cmd)
	}
	listen := listenCommand(shared)
	shared.register(listen)
	for _, cmd := range []*cobra.Command{devCommand(), coordinatorCommand(), workerCommand()} {
		cmd.GroupID = serverGroup
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{certsCommand(), keysCommand(), tokensCommand(), configCommand()} {
		cmd.GroupID = adminGroup
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{hooksCommand(), listen, sinkCommand(), verifyCommand()} {
		cmd.GroupID = receiverGroup
		root.AddCommand(cmd)
	}
	root.AddCommand(versionCommand())
	return root
}

// newGroup returns a command that does nothing but hold others: alone it
// prints its help, and with a name it does not know it says so.
func newGroup(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("unknown command %q%s", args[0], suggestion(cmd, args[0]))
		},
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		DisableFlagsInUseLine: true,
	}
	group.AddCommand(commands...)
	return group
}

// suggestion names the commands that look like the one that was typed.
func suggestion(cmd *cobra.Command, typed string) string {
	const closeEnough = 2
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = closeEnough
	}
	similar := cmd.SuggestionsFor(typed)
	if len(similar) == 0 {
		return ""
	}
	slices.Sort(similar)
	return fmt.Sprintf(" (did you mean %s?)", strings.Join(similar, " or "))
}

// noArgs refuses all arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("takes no arguments, got %q", args[0])
	}
	return nil
}

// oneArg wants exactly one argument; what it stands for is called noun.
func oneArg(noun string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("takes one %s, got %d arguments", noun, len(args))
		}
		return nil
	}
}

// someArgs wants one argument or more; what they stand for is called noun.
func someArgs(noun string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("takes at least one %s", noun)
		}
		return nil
	}
}

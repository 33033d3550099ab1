package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// complete offers fixed values to the shell for a flag of cmd.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// The only error is a flag that does not exist or has a completion, which
	// is a mistake here and not of the user: completion goes without.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// offered is one thing that the shell is offered.
type offered struct{ name, description string }

// offer offers to the shell, by their ids, things that the tenant has and that
// were not given yet, if the server answers quickly.
func (s *settings) offer(cmd *cobra.Command, given []string,
	list func(ctx context.Context, c *client, size int32) ([]offered, error),
) ([]string, cobra.ShellCompDirective) {
	const (
		patience = time.Second
		most     = 100
	)
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	var ids []string
	err := s.run(func(_ context.Context, c *client, _ []string) error {
		all, err := list(ctx, c, most)
		for _, one := range all {
			if id := lastPart(one.name); !slices.Contains(given, id) {
				ids = append(ids, cobra.CompletionWithDesc(id, singleLine(one.description)))
			}
		}
		return err
	})(cmd, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

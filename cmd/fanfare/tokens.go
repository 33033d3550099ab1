package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/access"
)

const tokensLong = `Tokens makes tokens, with which clients that have no certificate prove who they
are. Coordinators read them from the file that --tokens-file names, and read it
again when it changes: an entry that is taken out no longer counts a second
later. The file holds hashes only, so that who reads it cannot call.

  fanfare tokens create --name shop --tenant acme --scopes publish,read > tokens.yaml

writes the token itself to standard error, once.`

// tokensCommand makes tokens.
func tokensCommand() *cobra.Command {
	return newGroup("tokens", "Make tokens for clients", tokensLong, tokensCreateCommand())
}

func tokensCreateCommand() *cobra.Command {
	var name string
	var expires spanFlag
	rights := rightsFlags{}
	cmd := &cobra.Command{
		Use:   "create --name NAME --tenant TENANT --scopes SCOPES",
		Short: "Make a token, and print the entry for the file of tokens",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return usagef("--name is not given")
			}
			if err := rights.validate(name); err != nil {
				return err
			}
			entry := rights.entry(name)
			if expires.value != nil {
				at := time.Now().Add(expires.value.AsDuration()).UTC().Truncate(time.Second)
				entry.Expires = &at
			}
			token, entry, err := access.NewToken(entry)
			if err != nil {
				return err
			}
			text, err := access.EncodeEntries(entry)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "The token, which is not shown again:\n\n%s\n\n"+
				"The entry, without its first line if the file has one already:\n\n", token)
			fmt.Fprint(cmd.OutOrStdout(), string(text))
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the client, as refusals say it")
	rights.register(cmd)
	cmd.Flags().Var(&expires, "expires", "how long it counts, as in 90d (default until its entry is taken out)")
	return cmd
}

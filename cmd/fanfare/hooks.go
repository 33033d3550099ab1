package main

import (
	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/hooks/daemon"
)

// hooksCommand returns the command that runs commands on incoming webhooks.
//
// Its flags are upstream's, which are package flag's: one dash is as good as
// two, and what follows the first argument does not count. So cobra must not
// look at them, and `check` is no subcommand, or `-socket check` would run it.
func hooksCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hooks [flags]",
		Short: "Run commands on incoming webhooks",
		Long: `Run commands on incoming webhooks, as hooks files say.

Hooks files and command lines of adnanh/webhook work unchanged; what is new, and
what is done otherwise because it was not safe, is in docs/hooks.md. Run
'fanfare hooks -help' for the flags.

'fanfare hooks check FILE' says what is wrong in a hooks file, and with
--request FILE what will be done with a request, rule by rule.`,
		Example: `  fanfare hooks -hooks hooks.yaml -hotreload -verbose
  fanfare hooks -hooks hooks.json -ip 127.0.0.1 -port 9000 -admin-address 127.0.0.1:9100
  fanfare hooks check hooks.yaml --request push.http`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] == "check" {
				return daemon.Check(args[1:], cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			options, err := daemon.ParseFlags(args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return daemon.New(options, cmd.OutOrStdout(), cmd.ErrOrStderr()).Run(cmd.Context())
		},
	}
}

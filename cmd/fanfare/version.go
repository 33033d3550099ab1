package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Print which Fanfare this is, and what it was built with and for.",
		Example: "  fanfare version",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
}

// versionLine is what `fanfare version` and `fanfare --version` print.
func versionLine() string {
	return fmt.Sprintf("fanfare %s (%s %s/%s)", version.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

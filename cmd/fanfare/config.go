package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

const configLong = `Config shows the settings with which a process would start here, and where each
comes from: a flag, a variable, a line of the file that --config or
FANFARE_CONFIG names, or the default. It says what is wrong with them, too, and
starts nothing. Secrets are masked.

What it prints for people is a file that --config reads, but for the secrets;
what begins with # has no value.`

// configCommand shows settings.
func configCommand() *cobra.Command {
	group := newGroup("config", "Show the settings in force, and where they come from", configLong)
	for _, name := range []string{"coordinator", "worker", "dev"} {
		r := roles()[name]
		shape := formatTable
		cmd := &cobra.Command{
			Use:   name,
			Short: "Show the settings of `fanfare " + name + "`",
			Args:  noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				loaded, err := loadSettings(cmd, r)
				if err != nil {
					return err
				}
				return showSettings(cmd.OutOrStdout(), loaded.InForce(), shape)
			},
		}
		r.register(cmd.Flags())
		registerFile(cmd.Flags())
		cmd.PersistentFlags().VarP(&shape, "output", "o", "table for people, json for programs")
		group.AddCommand(cmd)
	}
	return group
}

func showSettings(out io.Writer, all []setting.Setting, shape format) error {
	if shape == formatJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(all)
	}
	for _, s := range all {
		if s.Name == "output" {
			continue
		}
		line := s.Name + ": " + quoted(s.Value)
		if s.Value == "" && s.From == setting.FromDefault {
			line = "# " + s.Name + ":"
		}
		fmt.Fprintf(out, "%-50s # %s\n", line, s.From)
	}
	return nil
}

// quoted is a value as YAML has it. All of them are read as text, so that only
// what would end or change the text needs quotes.
func quoted(value string) string {
	if regexp.MustCompile(`^[A-Za-z0-9/.+-][A-Za-z0-9_/.:,@=+-]*$`).MatchString(value) && !strings.HasSuffix(value, ":") {
		return value
	}
	return strconv.Quote(value)
}

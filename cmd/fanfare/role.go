package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/grpclog"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

// role is a process of a cluster, and what it is told.
type role interface {
	// register adds the flags, which are all the settings there are.
	register(flags *pflag.FlagSet)
	// validate returns what is wrong with the settings, as a *setting.Error.
	validate() error
	// run runs the process until it is told to stop, which is success.
	run(cmd *cobra.Command) error
}

// roles returns every role by its command's name, told nothing yet.
func roles() map[string]role {
	return map[string]role{"dev": new(devConfig), "coordinator": new(coordinatorConfig), "worker": new(workerConfig)}
}

// roleCommand completes a command that runs a role.
func roleCommand(cmd *cobra.Command, r role) *cobra.Command {
	cmd.Args = noArgs
	r.register(cmd.Flags())
	registerFile(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		loaded, err := loadSettings(cmd, r)
		if err != nil {
			return err
		}
		if os.Getenv("GOGC") == "" {
			tuneGC()
		}
		err = r.run(cmd)
		if _, wrong := errors.AsType[*setting.Error](err); wrong {
			return usageError{err: loaded.Explain(err)}
		}
		return err
	}
	return cmd
}

func registerFile(flags *pflag.FlagSet) {
	flags.String(setting.FileFlag, "", "YAML file with settings, named as the flags are")
}

// loadSettings fills a role's settings from all there is, and validates them.
func loadSettings(cmd *cobra.Command, r role) (*setting.Loaded, error) {
	loaded, err := setting.Load(cmd.Flags(), os.LookupEnv, whose)
	if err != nil {
		return nil, usageError{err: err}
	}
	if err := r.validate(); err != nil {
		return nil, usageError{err: loaded.Explain(err)}
	}
	return loaded, nil
}

// whose names the commands that have a setting.
func whose(name string) string {
	var all []string
	for _, command := range []string{"coordinator", "worker", "dev"} {
		flags := pflag.NewFlagSet(command, pflag.ContinueOnError)
		roles()[command].register(flags)
		if flags.Lookup(name) != nil {
			all = append(all, "`fanfare "+command+"`")
		}
	}
	return strings.Join(all, " and ")
}

// logConfig says what is logged, and how.
type logConfig struct {
	format string
	level  slog.Level
}

func (c *logConfig) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.format, "log-format", "text", "text or json")
	flags.TextVar(&c.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
}

func (c *logConfig) validate() error {
	if c.format != "text" && c.format != "json" {
		return setting.Wrong("log-format", "is %q; text and json are allowed", c.format)
	}
	return nil
}

// logger returns the process's logger, and has gRPC use it.
func (c *logConfig) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: c.level}
	logger := slog.New(slog.NewTextHandler(os.Stderr, options))
	if c.format == "json" {
		logger = slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	quietGRPC(logger)
	return logger
}

// quietGRPC sends what gRPC itself has to say to the logger: errors only, since
// calls that fail say so where they are made.
func quietGRPC(logger *slog.Logger) {
	errors := slog.NewLogLogger(logger.With("from", "grpc").Handler(), slog.LevelWarn).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, errors))
}

// defaultDataDir is in the user's folder for state (XDG Base Directory).
func defaultDataDir(role string) string {
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "fanfare-" + role + "-data"
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "fanfare", role)
}

// validateAddress wants a port to be named: an empty address would mean any
// port of every interface.
func validateAddress(name, address, example string) error {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return setting.Wrong(name, "is %q; want host:port, as in %s", address, example)
	}
	return nil
}

// within returns an error unless least <= value <= most.
func within(name string, value, least, most int) error {
	if value < least || value > most {
		return setting.Wrong(name, "is %d; %d to %d are allowed", value, least, most)
	}
	return nil
}

// firstOf returns the first error there is.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc/grpclog"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/setting"
	"github.com/fanfare-dev/fanfare/internal/telemetry"
	"github.com/fanfare-dev/fanfare/internal/version"
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

// observed is what a process is observed by: its log, and its telemetry. Who
// makes one shuts it down.
type observed struct {
	*telemetry.Telemetry
	logger *slog.Logger
}

// observe sets up what a process is observed by. id tells it from others.
func (c *logConfig) observe(ctx context.Context, id cluster.MemberID) (*observed, error) {
	made, err := telemetry.New(ctx, telemetry.Config{Version: version.String(), Instance: string(id), Log: c.handler()})
	if err != nil {
		return nil, fmt.Errorf("setting up telemetry: %w", err)
	}
	made.HandleErrors()
	quietGRPC(made.Logger())
	return &observed{made, made.Logger()}, nil
}

// rpc is how calls are observed.
func (o *observed) rpc() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithMeterProvider(o.MeterProvider()), otelgrpc.WithTracerProvider(o.TracerProvider()), otelgrpc.WithPropagators(o.Propagator()),
	}
}

// end sends what there is still to send. That nobody takes it is no failure of
// the process.
func (o *observed) end(ctx context.Context) {
	if err := o.Shutdown(context.WithoutCancel(ctx)); err != nil {
		o.logger.Warn("the last of the telemetry was not sent", "error", err)
	}
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

// handler returns what writes the process's log.
func (c *logConfig) handler() slog.Handler {
	options := &slog.HandlerOptions{Level: c.level}
	if c.format == "json" {
		return slog.NewJSONHandler(os.Stderr, options)
	}
	return slog.NewTextHandler(os.Stderr, options)
}

// observingConfig says what a coordinator is observed by beyond what is there
// anyway.
type observingConfig struct {
	traceDeliveries int
	tenantMetrics   int
}

func (c *observingConfig) register(flags *pflag.FlagSet) {
	flags.IntVar(&c.traceDeliveries, "trace-deliveries", lead.DefaultTraceDeliveries,
		"of how many deliveries of a traced event the attempts are in its trace even if nothing fails; those that fail are anyway")
	flags.IntVar(&c.tenantMetrics, "metrics-tenants", 0,
		"how many tenants are counted by name in /metrics; all beyond are counted together (default none)")
}

func (c *observingConfig) validate() error {
	return firstOf(within("trace-deliveries", c.traceDeliveries, 0, mostTraceDeliveries), within("metrics-tenants", c.tenantMetrics, 0, mostTenantMetrics))
}

// traced is traceDeliveries as coordinator.Config has it.
func (c *observingConfig) traced() int {
	if c.traceDeliveries == 0 {
		return -1
	}
	return c.traceDeliveries
}

// quietGRPC sends what gRPC itself has to say to the logger: errors only, since
// calls that fail say so where they are made.
func quietGRPC(logger *slog.Logger) {
	errors := slog.NewLogLogger(logger.With("from", "grpc").Handler(), slog.LevelWarn).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, errors))
}

// Bounds of what is observed.
const (
	mostTraceDeliveries = 1 << 20
	mostTenantMetrics   = 10_000
)

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

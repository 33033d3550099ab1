package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/fanfare-dev/fanfare/internal/sink"
	"github.com/fanfare-dev/fanfare/signature"
)

// sinkOptions are the flags of fanfare sink.
type sinkOptions struct {
	listen  string
	secrets []string
	quiet   bool
	config  sink.Config
}

// sinkCommand returns the command that receives webhooks, to try things with.
func sinkCommand() *cobra.Command {
	var options sinkOptions
	cmd := &cobra.Command{
		Use:   "sink",
		Short: "Receive webhooks, verify them, fail as told, and count",
		Long: `Receive webhooks to try things with: every request is printed on stderr, and
verified if there is a --secret. The sink can answer with failures, late, or
never.

GET /stats answers what was counted so far as JSON; the same is printed on
stdout at the end, on SIGINT or SIGTERM.`,
		Example: `  fanfare sink --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
  fanfare sink --listen 127.0.0.1:9401 --fail-rate 0.3 --delay 200ms
  fanfare sink --fail-for 30s --quiet >summary.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSink(cmd, options)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.listen, "listen", "127.0.0.1:9400", "`address` to listen on")
	flags.StringArrayVar(&options.secrets, "secret", nil,
		"whsec_… `secret` that requests must be signed with; others are answered 401 (may be repeated)")
	flags.IntVar(&options.config.Status, "status", 200, "`status` to answer with")
	flags.Float64Var(&options.config.FailRate, "fail-rate", 0, "`fraction` of the requests that fail, 0 to 1")
	flags.IntVar(&options.config.FailFirst, "fail-first", 0, "`number` of requests that fail before any succeeds")
	flags.DurationVar(&options.config.FailFor, "fail-for", 0, "how long all fail, from the first request on")
	flags.IntVar(&options.config.FailStatus, "fail-status", sink.DefaultFailStatus, "`status` of those that fail")
	flags.DurationVar(&options.config.Delay, "delay", 0, "wait this long before each answer")
	flags.BoolVar(&options.config.Hang, "hang", false, "read requests and never answer")
	flags.BoolVar(&options.quiet, "quiet", false, "print counts once a second instead of every request")
	return cmd
}

// runSink serves until the command's context ends, then prints the summary.
func runSink(cmd *cobra.Command, options sinkOptions) error {
	ctx, progress := cmd.Context(), cmd.ErrOrStderr()
	config, err := options.resolve()
	if err != nil {
		return usageError{err: err}
	}
	if !options.quiet {
		// One write for each line, so that lines do not mix. If stderr is
		// gone there is nowhere to say so.
		config.OnRequest = func(r sink.Request) { _, _ = fmt.Fprintln(progress, r) }
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", options.listen)
	if err != nil {
		return fmt.Errorf("opening --listen: %w", err)
	}
	_, _ = fmt.Fprintf(progress, "sink: receiving on http://%s, counts on http://%[1]s%s\n",
		listener.Addr(), sink.StatsPath)

	//   Serve ───────── answers webhooks
	//   WriteCounts ─── with --quiet: says each second how many
	receiver := sink.New(config)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return receiver.Serve(ctx, listener, slog.New(slog.NewTextHandler(progress, nil)))
	})
	if options.quiet {
		group.Go(func() error { return receiver.WriteCounts(ctx, progress) })
	}
	return errors.Join(group.Wait(), receiver.Stats().Write(cmd.OutOrStdout()))
}

// resolve returns what the flags ask for, or an error that names the flag.
func (o sinkOptions) resolve() (sink.Config, error) {
	config := o.config
	for _, text := range o.secrets {
		secret, err := signature.ParseSecret(text)
		if err != nil {
			return sink.Config{}, fmt.Errorf("reading --secret: %w", err)
		}
		config.Secrets = append(config.Secrets, secret)
	}
	if err := config.Validate(); err != nil {
		return sink.Config{}, err
	}
	return config, nil
}

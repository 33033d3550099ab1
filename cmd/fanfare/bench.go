package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/bench"
)

const (
	// benchStart is how long a cluster of the benchmark's own may take to be
	// ready, and benchStop how long to end.
	benchStart = time.Minute
	benchStop  = 15 * time.Second
)

const benchLong = `Bench measures what a cluster does on this machine, and says it as a share of
what a plain HTTP client does here: in the same run, a closed loop of signed
POSTs of the same body to the same receivers, by net/http and by fasthttp.

Without --address it starts a cluster of its own, 'fanfare dev' on a new data
folder beside dev's, and takes it away again. With it, the cluster there must
be allowed to reach the receivers, which are in this process: --listen is where
they listen, --receiver-host the name under which the cluster reaches them.

It publishes --events events of --size bytes, spread over --tenants tenants of
its own with --subscriptions subscriptions each, in batches of --batch, at
--rate events a second or as fast as they are taken. Latencies are from when a
publish was due to when the receiver had the whole request.

With --dead-fraction or --slow-fraction the load runs twice, without and with
those endpoints beside the healthy ones, which shows what they cost the others.
Give a --rate with it: at full speed, latency is only the length of the queue.`

const benchExample = `  fanfare bench
  fanfare bench --subscriptions 10
  fanfare bench --events 30000 --rate 1000 --batch 1
  fanfare bench --subscriptions 10 --rate 200 --events 6000 --batch 1 --dead-fraction 0.1 --slow-fraction 0.1
  fanfare bench --address fanfare.internal:7400 --listen 0.0.0.0 --receiver-host 10.1.2.3 -o json`

func benchCommand(s *settings) *cobra.Command {
	var (
		config  bench.Config
		workers int
		noRaw   bool
	)
	cmd := &cobra.Command{
		Use:     "bench",
		Short:   "Measure what this machine does, next to a plain HTTP client",
		Long:    benchLong,
		Example: benchExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := config.Validate(); err != nil {
				return usageError{err: err}
			}
			if noRaw {
				config.RawTime = -1
			}
			var processes []int
			if !cmd.Flags().Changed("address") && os.Getenv(addressVariable) == "" {
				own, err := startOwn(cmd.Context(), cmd.ErrOrStderr(), workers)
				if err != nil {
					return fmt.Errorf("starting a cluster: %w", err)
				}
				defer func() { err = errors.Join(err, own.stop()) }()
				// Nobody is asked for a password there.
				*s = settings{address: own.address, tenant: s.tenant, timeout: s.timeout, format: s.format}
				processes = []int{own.process.Process.Pid}
			}
			return s.run(func(ctx context.Context, c *client, _ []string) error {
				return runBench(ctx, c, config, processes)
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&config.Events, "events", bench.DefaultEvents, "how many events to publish")
	flags.IntVar(&config.Subscriptions, "subscriptions", bench.DefaultSubscriptions, "of each tenant: how many endpoints an event goes to")
	flags.IntVar(&config.Tenants, "tenants", bench.DefaultTenants, "how many tenants to spread the events over")
	flags.IntVar(&config.Size, "size", bench.DefaultSize, "of an event's data, in bytes")
	flags.IntVar(&config.Batch, "batch", bench.DefaultBatch, "events in one publish")
	flags.IntVar(&config.Publishers, "publishers", bench.DefaultPublishers, "publishes at a time")
	flags.Float64Var(&config.Rate, "rate", 0, "events a second (default as fast as they are taken)")
	flags.Float64Var(&config.DeadFraction, "dead-fraction", 0, "of the subscriptions, that refuse connections, 0 to 1")
	flags.Float64Var(&config.SlowFraction, "slow-fraction", 0, "of the subscriptions, that answer after --slow-delay, 0 to 1")
	flags.DurationVar(&config.SlowDelay, "slow-delay", bench.DefaultSlowDelay, "how long slow endpoints take")
	flags.BoolVar(&config.Verify, "verify", false, "have the receivers check every signature")
	flags.DurationVar(&config.Patience, "patience", bench.DefaultPatience, "give up on what is missing when nothing has arrived for so long")
	flags.BoolVar(&noRaw, "no-baseline", false, "do not measure plain HTTP clients")
	flags.DurationVar(&config.RawTime, "baseline-time", bench.DefaultRawTime, "how long to measure each plain client, before and after")
	flags.IntVar(&config.Connections, "connections", bench.DefaultConnections, "of the plain clients")
	flags.StringVar(&config.Listen, "listen", "127.0.0.1", "`host` that the receivers listen on")
	flags.StringVar(&config.Host, "receiver-host", "", "`host` under which the cluster reaches them (default --listen)")
	flags.IntVar(&workers, "workers", 2, "of the cluster that is started without --address")
	return cmd
}

func runBench(ctx context.Context, c *client, config bench.Config, processes []int) error {
	shown := newProgress(c.stderr)
	report, err := bench.Run(ctx, config, c.conn, processes, func(stage string, done, total int) {
		part, words := 1.0, stage
		if total > 0 {
			part = float64(done) / float64(total)
		}
		if shown.terminal {
			words = fmt.Sprintf("%s, %d of %d", stage, done, total)
		}
		shown.say(drawBar(part), words)
	})
	shown.leave()
	if err != nil {
		return err
	}
	if c.format == formatJSON {
		encoded, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the report: %w", err)
		}
		err = c.writeln(string(encoded))
		return cmp.Or(err, lossOf(report))
	}
	return cmp.Or(c.show(benchView(report)), lossOf(report))
}

// lossOf is an error if something that was owed to a healthy endpoint did not
// arrive: a figure that hides it is worth nothing.
func lossOf(report *bench.Report) error {
	for _, load := range []*bench.Load{&report.Load, report.WithBad} {
		if load != nil && load.Lost > 0 {
			return fmt.Errorf("%d of %d deliveries did not arrive", load.Lost, load.Owed)
		}
	}
	return nil
}

// benchView shows a report to people.
func benchView(r *bench.Report) view {
	all := views{text(fmt.Sprintf("%d events of %s to %d tenants with %d subscriptions each%s\n",
		r.Events, size(uint64(r.Size)), r.Tenants, r.Subscriptions, asked(r)))} //nolint:gosec // not negative
	all = append(all, loadView("Delivered", r.Load, r))
	if r.WithBad != nil {
		all = append(all, loadView(fmt.Sprintf("Beside %d dead and %d slow subscriptions in each tenant", r.Dead, r.Slow), *r.WithBad, r),
			text(fmt.Sprintf("The bad ones change the healthy ones' p99 by %+.0f %%, deliveries/s by %+.0f %%.\n",
				change(r.WithBad.EndToEnd.P99, r.Load.EndToEnd.P99), change(r.WithBad.PerSec, r.Load.PerSec))))
	}
	if len(r.Raw) > 0 {
		rows := table{header: []string{"PLAIN CLIENT", "REQUESTS/S", "CPU A REQUEST", "FANFARE'S SHARE"}}
		for _, raw := range r.Raw {
			rows.rows = append(rows.rows, []string{raw.Client, fmt.Sprintf("%.0f", raw.PerSec), fmt.Sprintf("%.0f µs", raw.CPU), fmt.Sprintf("%.2f", r.Load.PerSec/raw.PerSec)})
		}
		all = append(all, rows)
	}
	return all
}

func asked(r *bench.Report) string {
	if r.Rate == 0 {
		return ", as fast as they were taken"
	}
	return fmt.Sprintf(", at %.0f events/s", r.Rate)
}

func change(now, before float64) float64 {
	if before == 0 {
		return 0
	}
	return (now/before - 1) * 100
}

func loadView(title string, l bench.Load, r *bench.Report) view {
	share := ""
	if len(r.Raw) > 0 && r.Raw[0].PerSec > 0 {
		share = fmt.Sprintf("%.2f of a plain net/http loop", l.PerSec/r.Raw[0].PerSec)
	}
	cpuShare := ""
	if len(r.Raw) > 0 && l.ClusterCPU > 0 {
		cpuShare = fmt.Sprintf("%.2f of a plain net/http loop's", r.Raw[0].CPU/(l.ClusterCPU+l.BenchCPU))
	}
	return titled{title, details{
		{"Deliveries/s", fmt.Sprintf("%.0f", l.PerSec)},
		{"Ratio", share},
		{"Events/s durable", fmt.Sprintf("%.0f", l.EventsPerSec)},
		{"Publish to ack", quantiles(l.Ack)},
		{"Publish to receiver", quantiles(l.EndToEnd)},
		{"CPU a delivery", fmt.Sprintf("%.0f µs cluster, %.0f µs producer and receivers", l.ClusterCPU, l.BenchCPU)},
		{"Deliveries for CPU", cpuShare},
		{"Peak memory", fmt.Sprintf("%s cluster, %s producer and receivers", size(l.ClusterRSS), size(l.BenchRSS))},
		{"Delivered", fmt.Sprintf("%d of %d: %d lost, %d duplicates", l.Delivered, l.Owed, l.Lost, l.Duplicates)},
		{"Bad signatures", unlessZero(int64(l.Forged))},
		{"Publishes repeated", unlessZero(int64(l.RepeatedCalls))},
	}}
}

func quantiles(l bench.Latency) string {
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, p99.9 %.1f ms, max %.1f ms", l.P50, l.P99, l.P999, l.Max)
}

// ownCluster is a cluster that was started to be measured.
type ownCluster struct {
	process *exec.Cmd
	dir     string
	address string
	drained chan struct{} // closed when its log has ended
}

// startOwn runs `fanfare dev` of this binary on a new folder, and returns when
// it is ready. The folder is beside dev's own and not in the system's for
// temporary files, which may be in memory: a sync would cost nothing there.
func startOwn(ctx context.Context, stderr io.Writer, workers int) (_ *ownCluster, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	parent := filepath.Dir(defaultDataDir("bench"))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	o := &ownCluster{drained: make(chan struct{})}
	if o.dir, err = os.MkdirTemp(parent, "bench-"); err != nil {
		return nil, err
	}
	o.process = exec.Command(self, "dev", "--data-dir", o.dir, //nolint:gosec,noctx // this very binary; stop ends it
		"--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json",
		"--workers", fmt.Sprint(workers))
	o.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us: we end it
	log, err := o.process.StderrPipe()
	if err == nil {
		err = o.process.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(o.dir))
	}
	ready := make(chan string, 1)
	go o.drain(log, stderr, ready)
	select {
	case o.address = <-ready:
		return o, nil
	case <-o.drained:
		err = errors.New("it ended at once")
	case <-time.After(benchStart):
		err = fmt.Errorf("it was not ready within %v", benchStart)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, o.stop())
}

// drain reads the cluster's log: it finds where it is ready, and passes on what
// is wrong.
func (o *ownCluster) drain(log io.Reader, stderr io.Writer, ready chan<- string) {
	defer close(o.drained)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct{ Level, Msg, GRPC string }
		switch err := json.Unmarshal(lines.Bytes(), &line); {
		case err != nil, strings.HasPrefix(line.Level, "WARN"), strings.HasPrefix(line.Level, "ERROR"):
			fmt.Fprintf(stderr, "cluster: %s\n", printable(lines.Text()))
		case line.Msg == "ready":
			ready <- line.GRPC
		}
	}
}

// stop ends the cluster and removes its data.
func (o *ownCluster) stop() error {
	_ = o.process.Process.Signal(syscall.SIGTERM) // it may have ended
	kill := time.AfterFunc(benchStop, func() { _ = o.process.Process.Kill() })
	defer kill.Stop()
	<-o.drained
	_ = o.process.Wait() // how it ends says nothing about what was measured
	return os.RemoveAll(o.dir)
}

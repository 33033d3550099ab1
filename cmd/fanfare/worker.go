package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/coordinator/assign"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/pki"
	"github.com/fanfare-dev/fanfare/internal/setting"
	"github.com/fanfare-dev/fanfare/worker"
)

const workerLong = `Worker runs a process that sends webhooks: one of any number. It finds the
coordinators through the cluster's etcd, attaches to them, and keeps nothing on
disk: it can be killed at any time.

On a stop it hands back what it has not begun, gives requests on the wire
--stop-grace to end, and reports how they ended.

Every setting can also be given as a variable (--lease-ttl as
FANFARE_LEASE_TTL) or in the file that --config names (lease-ttl: 5s).
` + "`fanfare config worker`" + ` shows what is in force, and from where.`

const workerExample = `  fanfare worker --config /etc/fanfare/worker.yaml
  fanfare worker --insecure --etcd-endpoints http://127.0.0.1:2379 --egress-allow-loopback --egress-allow-http`

const (
	workerHTTPAddress = "127.0.0.1:7481"
	opsHeaderTimeout  = 10 * time.Second
	mostRequests      = 1 << 20
	mostGrace         = time.Hour
)

// sendingConfig is how workers work.
type sendingConfig struct {
	weight      int
	creditCount uint32
	creditBytes bytesFlag
	maxBytes    bytesFlag
	maxRequests int
	perHost     int
	perAddress  int
	stopGrace   time.Duration
	reportGrace time.Duration
}

func (c *sendingConfig) register(flags *pflag.FlagSet) {
	c.creditBytes.value = worker.DefaultCreditBytes
	flags.IntVar(&c.weight, "weight", 1, "a worker's share of the shards, next to the others'")
	flags.Uint32Var(&c.creditCount, "credit-count", worker.DefaultCreditCount, "how many deliveries a worker takes of one partition before their outcomes are durable")
	flags.Var(&c.creditBytes, "credit-bytes", "how many bytes of events it takes likewise")
	c.maxBytes.value = worker.DefaultMaxBytes
	flags.Var(&c.maxBytes, "max-bytes", "how many bytes of events a worker has in hand of all partitions together; each has its part of that as credit")
	flags.IntVar(&c.maxRequests, "max-requests", worker.DefaultMaxRequests, "how many requests a worker has on the wire at a time")
	flags.IntVar(&c.perHost, "max-requests-per-host", 0, "how many of these go to one host and port (default a quarter, at least 8)")
	flags.IntVar(&c.perAddress, "max-requests-per-address", 0, "how many go to one IP address, or IPv6 network of 64 bits (default half, at least 16)")
	flags.DurationVar(&c.stopGrace, "stop-grace", worker.DefaultStopGrace, "how long requests on the wire may go on when it stops")
	flags.DurationVar(&c.reportGrace, "report-grace", worker.DefaultReportGrace, "how long it then waits until their outcomes are durable")
}

func (c *sendingConfig) validate() error {
	switch {
	case c.creditCount == 0:
		return setting.Wrong("credit-count", "is 0; nothing could be delivered")
	case c.creditBytes.value == 0:
		return setting.Wrong("credit-bytes", "is 0; nothing could be delivered")
	case c.maxBytes.value == 0:
		return setting.Wrong("max-bytes", "is 0; nothing could be delivered")
	case c.stopGrace <= 0 || c.stopGrace > mostGrace:
		return setting.Wrong("stop-grace", "is %v; more than 0 and at most %v are allowed", c.stopGrace, mostGrace)
	case c.reportGrace <= 0 || c.reportGrace > mostGrace:
		return setting.Wrong("report-grace", "is %v; more than 0 and at most %v are allowed", c.reportGrace, mostGrace)
	}
	return firstOf(
		within("weight", c.weight, 1, assign.MaxWeight),
		within("max-requests", c.maxRequests, 1, mostRequests),
		within("max-requests-per-host", c.perHost, 0, mostRequests),
		within("max-requests-per-address", c.perAddress, 0, mostRequests),
	)
}

// part returns a worker that is told this; its id and store are missing.
func (c *sendingConfig) part() workerPart {
	return workerPart{
		weight: c.weight, creditCount: c.creditCount, creditBytes: c.creditBytes.value,
		maxBytes: c.maxBytes.value, maxRequests: c.maxRequests, perHost: c.perHost, perAddress: c.perAddress,
		stopGrace: c.stopGrace, reportGrace: c.reportGrace,
	}
}

// workerConfig is what `fanfare worker` is told.
type workerConfig struct {
	memberConfig
	securityConfig
	sendingConfig

	etcd   etcdConfig
	egress egressConfig
}

func workerCommand() *cobra.Command {
	return roleCommand(&cobra.Command{
		Use:     "worker",
		Short:   "Run a worker of a cluster",
		Long:    workerLong,
		Example: workerExample,
	}, new(workerConfig))
}

func (c *workerConfig) register(flags *pflag.FlagSet) {
	c.memberConfig.register(flags, workerHTTPAddress)
	c.securityConfig.register(flags)
	c.sendingConfig.register(flags)
	c.etcd.register(flags)
	c.egress.register(flags)
}

func (c *workerConfig) validate() error {
	if len(c.etcd.endpoints) == 0 {
		return setting.Wrong("etcd-endpoints", "is empty; a worker finds its coordinators there")
	}
	return firstOf(
		c.memberConfig.validate(workerHTTPAddress),
		c.securityConfig.validate(),
		c.sendingConfig.validate(),
		c.egress.validate(),
		c.etcd.validate(c.plainEngines()),
	)
}

// run starts the worker and waits for its end.
func (c *workerConfig) run(cmd *cobra.Command) (err error) {
	ctx, id := cmd.Context(), c.memberID()
	seen, err := c.observe(ctx, id)
	if err != nil {
		return err
	}
	defer seen.end(ctx)
	logger := seen.logger
	secured, err := c.open(pki.Worker, logger)
	if err != nil {
		return err
	}
	client, err := c.etcd.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	n := &node{security: secured, egress: c.egress, leaseTTL: c.leaseTTL, logger: logger, observed: seen}
	part := c.part()
	part.id, part.store = id, cluster.NewEtcd(client, c.etcd.prefix)
	if err := n.addWorker(part); err != nil {
		return err
	}
	if err := n.addOps(c.http); err != nil {
		return err
	}
	return n.run(ctx, func(context.Context) error {
		logger.Info("working", "id", part.id, "http", n.security.scheme()+n.httpAddress)
		return nil
	})
}

// addOps has the node serve health and metrics.
func (n *node) addOps(address string) error {
	listener, err := listen(address, "http-address")
	if err != nil {
		return err
	}
	n.httpAddress = listener.Addr().String()
	n.onOps = n.security.overHTTP(listener)
	n.ops = &http.Server{Handler: n.security.guardHTTP(n.opsHandler()), ReadHeaderTimeout: opsHeaderTimeout}
	return nil
}

// opsHandler serves what a worker tells. It is ready once it is a member.
func (n *node) opsHandler() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, code int, status string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(`{"status":"` + status + `"}` + "\n")) // the client may have gone
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for _, each := range n.workers {
			if !each.Joined() {
				answer(w, http.StatusServiceUnavailable, "unavailable")
				return
			}
		}
		answer(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /metrics", n.observed.Handler())
	return mux
}

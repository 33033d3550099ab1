package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/worker"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// process is what coordinators and workers have in common: a host that runs
// one life after the other.
type process struct {
	cluster *Cluster
	host    string
	life    *life   // nil: not running
	lives   int     // begun so far
	dead    []*life // those that were killed, and may still be falling over
}

// life is one run of a process, with its own ways to all the others.
type life struct {
	host    string // of this life alone: nobody reaches the dead at the host of the living
	members *cluster.MemoryClient
	logs    *eventlog.Memory
	reserve *reserving // over logs
	history *outlook
	grpc    net.Listener                            // a coordinator's
	serves  atomic.Pointer[coordinator.Coordinator] // likewise, once it runs
	stop    context.CancelFunc
	ended   chan error
}

// outlook is one life's way to the history. A dead one writes no more.
type outlook struct {
	history.Store
	gone atomic.Bool
}

var errGone = errors.New("the history cannot be reached")

// Position implements history.Store.
func (o *outlook) Position(ctx context.Context, partition int) (uint64, error) {
	if o.gone.Load() {
		return 0, errGone
	}
	return o.Store.Position(ctx, partition)
}

// Write implements history.Store.
func (o *outlook) Write(ctx context.Context, batch history.Batch) error {
	if o.gone.Load() {
		return errGone
	}
	return o.Store.Write(ctx, batch)
}

// start begins a life. It does nothing if there is one. A process that serves
// gRPC does so at an address; nobody reaches its earlier lives there any more.
func (p *process) start(address string, run func(context.Context, *life) error) {
	p.cluster.t.Helper()
	if p.life != nil {
		return
	}
	p.lives++
	l := &life{
		host:    fmt.Sprintf("%s/%d", p.host, p.lives),
		members: p.cluster.members.Client(),
		logs:    p.cluster.logs.Peer(),
		history: &outlook{Store: p.cluster.history},
		ended:   make(chan error, 1),
	}
	l.reserve = &reserving{Store: l.logs}
	if address != "" {
		l.grpc = p.cluster.network.listenGRPC(l.host, address)
	}
	// The life does not end with the test's context, but with Stop or Kill:
	// what is cleaned up must happen in order.
	ctx, stop := context.WithCancel(context.WithoutCancel(p.cluster.t.Context()))
	l.stop = stop
	p.life = l
	go func() { l.ended <- run(ctx, l) }()
}

// Stop tells the process to end, and waits until it has. It returns what its
// Run did.
func (p *process) Stop() error {
	if p.life == nil {
		return nil
	}
	ending := p.life
	p.life = nil
	ending.stop()
	if err := <-ending.ended; err != nil {
		return fmt.Errorf("stopping %s: %w", p.host, err)
	}
	return nil
}

// Kill ends the process without a goodbye: see the package's comment.
func (p *process) Kill() {
	if p.life == nil {
		return
	}
	killed := p.life
	p.life = nil
	p.dead = append(p.dead, killed)
	killed.members.Break(cluster.Refuse)
	killed.logs.CutOff(true)
	killed.history.gone.Store(true)
	for _, other := range p.cluster.hosts() {
		p.cluster.network.cut(killed.host, other)
	}
	killed.stop()
}

// Running reports whether the process lives.
func (p *process) Running() bool { return p.life != nil }

// bury waits for all that were killed to end.
func (p *process) bury() {
	for _, killed := range p.dead {
		//nolint:errcheck // whatever it says of its own death
		<-killed.ended
	}
	p.dead = nil
}

// LoseStore cuts the process off from the members and owners, and nothing
// else: it will lose its lease without being told.
func (p *process) LoseStore() { p.life.members.Break(cluster.Hang) }

// FindStore is the inverse of LoseStore.
func (p *process) FindStore() { p.life.members.Heal() }

// StoreDown takes the store of members and owners down for everybody, or
// brings it back.
func (c *Cluster) StoreDown(down bool) {
	c.members.SetDown(down)
	for _, p := range c.processes() {
		if p.life == nil {
			continue
		}
		if down {
			p.LoseStore()
		} else {
			p.FindStore()
		}
	}
}

// LogsDown cuts all coordinators off from the logs, or brings those back.
func (c *Cluster) LogsDown(down bool) {
	for _, coordinator := range c.Coordinators {
		if coordinator.life != nil {
			coordinator.life.logs.CutOff(down)
		}
	}
}

// Coordinator is one coordinator of the cluster.
type Coordinator struct {
	process
	ID      cluster.MemberID
	Address string
}

func (c *Cluster) newCoordinator(number int) *Coordinator {
	id := fmt.Sprintf("coordinator-%d", number)
	return &Coordinator{process: process{cluster: c, host: id}, ID: cluster.MemberID(id), Address: id + ":7400"}
}

// Start runs the coordinator, if it does not run.
func (c *Coordinator) Start() {
	c.start(c.Address, func(ctx context.Context, l *life) error {
		client := c.cluster.client(l)
		defer client.CloseIdle()
		made := coordinator.New(coordinator.Config{
			Member: cluster.MemberConfig{
				Info:   cluster.Info{ID: c.ID, Role: cluster.Coordinator, Address: c.Address},
				Clock:  cluster.MonotonicClock(),
				Logger: c.cluster.logger.With("process", c.ID),
			},
			Cluster: l.members,
			Logs:    l.reserve,
			History: l.history,
			Secrets: c.cluster.secrets,
			URLs:    c.cluster.policy,
			Tester:  worker.NewTester(client, ""),
			Logger:  c.cluster.logger.With("process", c.ID),
			GRPC:    l.grpc,
			DialOptions: []grpc.DialOption{
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					return c.cluster.network.dial(ctx, l.host, address)
				}),
			},
			Partitions: c.cluster.config.Partitions,
			Slots:      c.cluster.config.Slots,
			Limits:     c.cluster.config.Limits,

			MaxLogBytes: c.cluster.config.MaxLogBytes,
			Disk:        c.disk(),
			Silence:     c.cluster.config.Silence,
			Told:        c.cluster.config.Told,
		})
		l.serves.Store(made)
		return made.Run(ctx)
	})
}

// disk is what this life of the coordinator knows of the logs' disk.
func (c *Coordinator) disk() *lead.Disk {
	config := c.cluster.config
	if config.Free == nil {
		return nil
	}
	return lead.NewDisk(lead.DiskConfig{
		Free: config.Free, Reserve: config.Reserve, Logger: c.cluster.logger.With("process", c.ID),
	})
}

// Ended returns what the coordinator's Run did, once it has ended by itself.
func (c *Coordinator) Ended() error {
	ending := c.life
	c.life = nil
	return <-ending.ended
}

// Restart kills the coordinator, if it runs, and starts it again.
func (c *Coordinator) Restart() {
	c.Kill()
	c.Start()
}

// Log is the coordinator's way to the logs, with all that can go wrong on it.
func (c *Coordinator) Log() *eventlog.Memory { return c.life.logs }

// LoseHistory cuts the coordinator off from the history, for this life: what
// it follows the log with stands still, snapshots and purges included.
func (c *Coordinator) LoseHistory() { c.life.history.gone.Store(true) }

// FindHistory is the inverse of LoseHistory.
func (c *Coordinator) FindHistory() { c.life.history.gone.Store(false) }

// RefuseEvents brings the coordinator's log to its soft limit, or back: events
// are refused for want of space, and nothing else is.
func (c *Coordinator) RefuseEvents(refuse bool) { c.life.reserve.full.Store(refuse) }

// Pause stops the coordinator in the eyes of all others: nothing it says gets
// anywhere until Resume.
func (c *Coordinator) Pause() {
	c.life.members.Break(cluster.Hang)
	c.life.logs.CutOff(true)
	c.cluster.network.stall(c.life.host)
}

// Resume is the inverse of Pause.
func (c *Coordinator) Resume() {
	c.life.members.Heal()
	c.life.logs.CutOff(false)
	c.cluster.network.unstall(c.life.host)
}

// Worker is one worker of the cluster.
type Worker struct {
	process
	ID     cluster.MemberID
	number uint64
}

func (c *Cluster) newWorker(number int) *Worker {
	id := fmt.Sprintf("worker-%d", number)
	return &Worker{process: process{cluster: c, host: id}, ID: cluster.MemberID(id), number: uint64(number)} //nolint:gosec // few
}

// Start runs the worker, if it does not run.
func (w *Worker) Start() {
	w.start("", func(ctx context.Context, l *life) error {
		client := w.cluster.client(l)
		defer client.CloseIdle()
		made, err := worker.New(worker.Config{
			ID:         w.ID,
			Version:    string(w.ID), // so that requests tell whose they are
			LeaseClock: cluster.MonotonicClock(),
			Store:      l.members,
			Client:     client,
			DialOptions: []grpc.DialOption{
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					return w.cluster.network.dial(ctx, l.host, address)
				}),
			},
			Logger: w.cluster.logger.With("process", w.ID),
			Random: rand.NewPCG(w.cluster.config.Seed, w.number),
		})
		if err != nil {
			return err
		}
		return made.Run(ctx)
	})
}

// client returns a way of one life of a process to endpoints.
func (c *Cluster) client(l *life) *egress.Client {
	return egress.NewClient(egress.Config{
		Policy: c.policy,
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			return c.network.dial(ctx, l.host, address)
		},
	})
}

// Restart kills the worker, if it runs, and starts it again.
func (w *Worker) Restart() {
	w.Kill()
	w.Start()
}

// CutFrom cuts the link between the worker and a coordinator.
func (w *Worker) CutFrom(c *Coordinator) { w.cluster.network.cut(w.life.host, c.life.host) }

// MendTo is the inverse of CutFrom.
func (w *Worker) MendTo(c *Coordinator) { w.cluster.network.mend(w.life.host, c.life.host) }

// hosts returns every host there is.
func (c *Cluster) hosts() []string {
	hosts := []string{clientHost}
	for _, p := range c.processes() {
		if p.life != nil {
			hosts = append(hosts, p.life.host)
		}
	}
	for _, e := range c.endpoints {
		hosts = append(hosts, e.Name)
	}
	return hosts
}

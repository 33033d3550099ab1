// Package embedded runs etcd inside this process, as a cluster of one: what a
// single machine uses where production has etcd of its own.
//
// It listens nowhere. Calls go from the client to the server as function calls,
// so nothing outside this process can reach it, and no port or socket path can
// be taken, too long, or different the next time. From this follows that every
// lease it finds when it starts belonged to a process that has ended, and Start
// ends them: after a crash nothing waits for the leases of the dead.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const (
	// quotaBytes is where etcd would stop taking writes. The database stays
	// far below: ten thousand small keys, and the revisions of the last hour.
	quotaBytes = 1 << 30
	// keptRevisions is how many revisions outlive the compaction that runs
	// every five minutes. Watches list anew when they need an older one.
	keptRevisions = 10_000
	// defragMegabytes is how much a start must be able to free before it
	// rewrites the database file.
	defragMegabytes = 64
	// tickMillis and electionMillis make a single member elect itself within
	// 300 ms; with no peers to wait for there is no reason for more. The
	// shortest lease that etcd grants follows from them: 1 s.
	tickMillis     = 50
	electionMillis = 250
	// slowRequest is what etcd warns of. Disks of small machines take longer
	// than the 100 ms at which it would.
	slowRequest = time.Second

	// nominalHost stands where etcd wants addresses. It is a name in its
	// records; nothing listens there and nobody dials it.
	nominalHost = "embedded.invalid:2380"
	name        = "embedded"

	dataName = "etcd"
	lockName = "lock"
	// madeName is an empty file that says that etcd has answered from the data
	// beside it.
	madeName = "made"
	dirMode  = 0o700
	fileMode = 0o600
)

// ErrInUse says that another process has the directory open.
var ErrInUse = errors.New("embedded: directory is in use by another process")

// Config is what Start needs to know.
type Config struct {
	// Dir is where the data is kept. It is created if need be.
	Dir string
	// Logger gets what etcd logs, from warnings upwards. It must not be nil.
	Logger *slog.Logger
}

// Server is a running etcd. Its user closes it.
type Server struct {
	lock   *fileutil.LockedFile
	etcd   *embed.Etcd
	client *clientv3.Client
}

// Start runs etcd on the directory until Close, and returns when it answers.
// ErrInUse if another process runs one there.
func Start(ctx context.Context, config Config) (*Server, error) {
	if err := os.MkdirAll(config.Dir, dirMode); err != nil {
		return nil, fmt.Errorf("creating etcd directory: %w", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(config.Dir, lockName), os.O_RDWR|os.O_CREATE, fileMode)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fmt.Errorf("locking %s: %w", config.Dir, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", config.Dir, err)
	}
	s := &Server{lock: lock}
	if err := s.start(ctx, config); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// removeUnmade removes data from which etcd has never answered. A first start
// that ends before etcd has written its only member into its log leaves a log
// without one, and a later start would wait for ever for somebody to lead. What
// has never answered holds nothing that anybody was told.
func removeUnmade(dir string) error {
	_, err := os.Stat(filepath.Join(dir, madeName))
	if errors.Is(err, os.ErrNotExist) {
		err = os.RemoveAll(filepath.Join(dir, dataName))
	}
	if err != nil {
		return fmt.Errorf("clearing what an unfinished start left: %w", err)
	}
	return nil
}

// markMade says, durably, that etcd has answered.
func markMade(dir string) error {
	mark, err := os.OpenFile(filepath.Join(dir, madeName), os.O_WRONLY|os.O_CREATE, fileMode) //nolint:gosec // the operator names the folder
	if err != nil {
		return fmt.Errorf("marking etcd data: %w", err)
	}
	folder, err := os.Open(dir) //nolint:gosec // the operator names the folder
	if err != nil {
		return errors.Join(fmt.Errorf("marking etcd data: %w", err), mark.Close())
	}
	return errors.Join(mark.Sync(), mark.Close(), folder.Sync(), folder.Close())
}

func (s *Server) start(ctx context.Context, config Config) (err error) {
	if err := removeUnmade(config.Dir); err != nil {
		return err
	}
	s.etcd, err = launch(etcdConfig(config))
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for etcd: %w", ctx.Err())
	case err := <-s.etcd.Err():
		return fmt.Errorf("starting etcd: %w", err)
	case <-s.etcd.Server.StopNotify():
		return errors.New("starting etcd: it stopped at once")
	case <-s.etcd.Server.ReadyNotify():
	}
	s.client = v3client.New(s.etcd.Server)
	if err := s.endLeases(ctx); err != nil {
		return err
	}
	return markMade(config.Dir)
}

// launch starts etcd. On damaged files etcd does not return an error but gives
// up the process; as far as it does so on this goroutine, it is an error here.
func launch(config *embed.Config) (etcd *embed.Etcd, err error) {
	defer func() {
		if gaveUp := recover(); gaveUp != nil {
			etcd, err = nil, fmt.Errorf("starting etcd: it gave up: %v", gaveUp)
		}
	}()
	etcd, err = embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	return etcd, nil
}

func etcdConfig(config Config) *embed.Config {
	nowhere := []url.URL{}
	nominal := []url.URL{{Scheme: "http", Host: nominalHost}}
	c := embed.NewConfig()
	c.Name = name
	c.Dir = filepath.Join(config.Dir, dataName)
	c.ListenPeerUrls, c.ListenClientUrls = nowhere, nowhere
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = nominal, nominal
	c.InitialCluster = name + "=" + nominal[0].String()
	c.EnableGRPCGateway = false
	c.AuthToken = "" // nobody logs in
	c.TickMs, c.ElectionMs = tickMillis, electionMillis
	c.QuotaBackendBytes = quotaBytes
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = strconv.Itoa(keptRevisions)
	c.BootstrapDefragThresholdMegabytes = defragMegabytes
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = slowRequest, slowRequest
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(config.Logger))
	return c
}

// endLeases ends the leases of processes that were killed with the last etcd.
func (s *Server) endLeases(ctx context.Context) error {
	found, err := s.client.Leases(ctx)
	if err != nil {
		return fmt.Errorf("listing old leases: %w", err)
	}
	for _, lease := range found.Leases {
		if _, err := s.client.Revoke(ctx, lease.ID); err != nil {
			return fmt.Errorf("ending old lease: %w", err)
		}
	}
	return nil
}

// Client reaches the server without a network. It is closed by Close.
func (s *Server) Client() *clientv3.Client {
	return s.client
}

// Stopped is closed when etcd stops: by Close, or because it cannot go on.
func (s *Server) Stopped() <-chan struct{} {
	return s.etcd.Server.StopNotify()
}

// Close stops etcd and waits until it has. Calls and watches under way end with
// an error; whoever makes them should have stopped before.
func (s *Server) Close() error {
	if s.client != nil {
		// What it returns is only that its context ended: by this.
		_ = s.client.Close()
	}
	if s.etcd != nil {
		s.etcd.Close()
	}
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("unlocking etcd directory: %w", err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	embeddedetcd "github.com/fanfare-dev/fanfare/internal/cluster/embedded"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	embeddednats "github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	"github.com/fanfare-dev/fanfare/internal/setting"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// lockDataDir makes the folder, and keeps other processes out of it.
func lockDataDir(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making --data-dir: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking --data-dir: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("another fanfare process uses %s; stop it, or give this one its own --data-dir", dir)
	}
	return lock.Unlock, nil
}

// engines is what a coordinator stands on.
type engines struct {
	store   cluster.Store
	logs    eventlog.Store
	history history.Store
	secrets *sealed.Box
	// free looks at the disk that the logs are on; nil: it is not in this
	// process's hands.
	free      func() (free, total uint64, err error)
	described []*fanfarev1.Engine
	syncWatch *eventlog.SyncWatch // nil: the engines are in this process
	closers   []func() error      // in the order of opening
}

// onClose has close call what ends something that was opened.
func (e *engines) onClose(end func() error) { e.closers = append(e.closers, end) }

// close ends the engines, the last opened first.
func (e *engines) close() error {
	var errs []error
	for len(e.closers) > 0 {
		last := len(e.closers) - 1
		errs = append(errs, e.closers[last]())
		e.closers = e.closers[:last]
	}
	return errors.Join(errs...)
}

// opened closes what is open if the rest could not be.
func (e *engines) opened(err error) (*engines, error) {
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// embedEngines starts etcd and NATS in this process, with all data in dir.
func embedEngines(ctx context.Context, dir, historyURL string, logger *slog.Logger) (*engines, error) {
	e := new(engines)
	in := func(name string) string { return filepath.Join(dir, name) }
	var err error
	if e.secrets, err = loadSecrets(in("secrets.key"), in("nats")); err != nil {
		return nil, err
	}
	if err := e.openHistory(ctx, historyURL, in("history.db")); err != nil {
		return nil, err
	}
	etcd, err := embeddedetcd.Start(ctx, embeddedetcd.Config{Dir: in("etcd"), Logger: logger})
	if err != nil {
		return e.opened(fmt.Errorf("starting etcd: %w", err))
	}
	e.onClose(etcd.Close)
	e.store = cluster.NewEtcd(etcd.Client(), etcdPrefix)
	nats, err := embeddednats.Start(embeddednats.Config{Dir: in("nats"), Logger: logger})
	if err != nil {
		return e.opened(fmt.Errorf("starting NATS: %w", err))
	}
	e.onClose(func() error { nats.Close(); return nil })
	conn, err := nats.Connect()
	if err != nil {
		return e.opened(fmt.Errorf("connecting to NATS: %w", err))
	}
	e.onClose(func() error { conn.Close(); return nil })
	e.logs, err = eventlog.NewJetStream(conn, eventlog.JetStreamConfig{Logger: logger})
	e.free = func() (free, total uint64, err error) { return embeddednats.Free(dir) }
	sync := "always"
	if !nats.SyncsAlways() {
		sync = "not always: what is acknowledged may be lost with the machine"
	}
	e.describe("etcd", "embedded", "always")
	e.describe("nats", "embedded", sync)
	e.described[len(e.described)-1].Unsynced = !nats.SyncsAlways()
	return e.opened(err)
}

// joinEngines connects to the cluster's etcd and NATS. It does not wait for
// them: what needs them does.
func joinEngines(ctx context.Context, config *coordinatorConfig, logger *slog.Logger) (*engines, error) {
	e := new(engines)
	var err error
	if e.secrets, err = openSecrets(config.secretsKey); err != nil {
		return nil, err
	}
	if err := e.openHistory(ctx, config.history.url, filepath.Join(config.dataDir, "history.db")); err != nil {
		return nil, err
	}
	etcd, err := config.etcd.dial()
	if err != nil {
		return e.opened(err)
	}
	e.onClose(etcd.Close)
	e.store = cluster.NewEtcd(etcd, config.etcd.prefix)
	conn, err := config.nats.dial(logger)
	if err != nil {
		return e.opened(err)
	}
	e.onClose(func() error { conn.Close(); return nil })
	e.logs, err = eventlog.NewJetStream(conn, eventlog.JetStreamConfig{
		Prefix: config.nats.prefix, Replicas: config.nats.replicas, Logger: logger,
	})
	e.describe("etcd", strings.Join(config.etcd.endpoints, ", "), "always")
	if err != nil {
		return e.opened(err)
	}
	e.describe("nats", fmt.Sprintf("%s, %d replicas", config.nats.shown(), config.nats.replicas), "")
	return e.opened(e.watchSync(ctx, &config.nats, logger))
}

// describe adds to what those see who look.
func (e *engines) describe(name, what, sync string) {
	e.described = append(e.described, &fanfarev1.Engine{Name: name, Description: what, Sync: sync})
}

// about describes the engines, and says what is wrong with them.
func (e *engines) about() (described []*fanfarev1.Engine, problems []string) {
	if e.syncWatch == nil {
		return e.described, nil
	}
	for _, engine := range e.described {
		if engine.GetName() == "nats" {
			engine = proto.CloneOf(engine)
			engine.Sync = e.syncWatch.Setting()
		}
		described = append(described, engine)
	}
	return described, e.syncWatch.Problems()
}

// watchSync looks how the NATS servers sync until the engines are closed.
func (e *engines) watchSync(ctx context.Context, config *natsConfig, logger *slog.Logger) (err error) {
	if e.syncWatch, err = config.watch(logger); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- e.syncWatch.Run(watching) }()
	e.onClose(func() error { stop(); return <-ended })
	return nil
}

// openHistory opens the history that a URL names: sqlite:PATH, postgres://…, or
// SQLite in a file if there is none.
func (e *engines) openHistory(ctx context.Context, url, file string) error {
	store, end, err := openHistory(ctx, url, file)
	if err != nil {
		return err
	}
	e.history = store
	e.onClose(end)
	if strings.HasPrefix(url, postgresScheme) {
		e.describe("history", "PostgreSQL", "before the log is purged; it is made again from the log")
		return nil
	}
	e.describe("history", "SQLite", "at checkpoints; it is made again from the log")
	return nil
}

// openHistory opens a history. Whoever calls it ends it.
func openHistory(ctx context.Context, url, file string) (store history.Store, end func() error, err error) {
	if strings.HasPrefix(url, postgresScheme) {
		postgres, err := history.OpenPostgres(ctx, url, history.PostgresConfig{})
		if err != nil {
			return nil, nil, err
		}
		return postgres, postgres.Close, nil
	}
	if path, given := strings.CutPrefix(url, sqliteScheme); given {
		file = path
	}
	sqlite, err := history.OpenSQLite(ctx, file)
	if err != nil {
		return nil, nil, err
	}
	return sqlite, sqlite.Close, nil
}

// loadSecrets returns the box that the signing secrets in the logs are sealed
// in. A new key is made for new logs only: it would open none of the old ones'.
func loadSecrets(key, logs string) (*sealed.Box, error) {
	_, noKey := os.Stat(key)
	_, noLogs := os.Stat(logs)
	if errors.Is(noKey, os.ErrNotExist) && noLogs == nil {
		return nil, fmt.Errorf("%s is gone, and without it the signing secrets in --data-dir cannot be read; put it back, or use another --data-dir", key)
	}
	return sealed.Load(key)
}

// openSecrets returns the box of a cluster of several coordinators. It makes no
// key: each would make its own.
func openSecrets(key string) (*sealed.Box, error) {
	box, err := sealed.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, setting.Wrong("secrets-key-file", "names %s, which does not exist; for a new cluster make it once "+
			"with `fanfare keys create %s`, and give every coordinator a copy", key, key)
	}
	if err != nil {
		return nil, setting.Wrong("secrets-key-file", "cannot be used: %v", err)
	}
	return box, nil
}

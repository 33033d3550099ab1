// Package embedded runs a NATS server in this process, for a cluster that
// lives on one machine. The server listens on no port: who wants to talk to
// it connects through memory. It syncs every record to disk before it
// acknowledges it.
package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
)

const (
	// startTimeout is how long a server may take to accept connections once
	// it has recovered its streams.
	startTimeout = 10 * time.Second
	// maxStore is no limit: by default the server would take three quarters
	// of what is free on the disk at its start for one. Who watches the disk
	// knows better.
	maxStore = 1 << 60
	// maxMemory is for streams in memory, of which there are none.
	maxMemory = 64 << 20
)

// Config says where a server keeps its data.
type Config struct {
	// Dir holds the streams. It is made if it does not exist, and must be
	// this process's alone: the server does not lock it.
	Dir string
	// Logger hears the server's warnings and errors. Default: nobody does.
	Logger *slog.Logger
}

// Server is a running NATS server.
type Server struct {
	nats   *server.Server
	logger *slog.Logger
}

// Start runs a server and returns when its streams are recovered and it can
// be connected to. Close ends it.
func Start(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("starting NATS: dir: must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:             "fanfare",
		DontListen:             true,
		NoSigs:                 true,
		JetStream:              true,
		StoreDir:               cfg.Dir,
		SyncAlways:             true,
		JetStreamMaxStore:      maxStore,
		JetStreamMaxMemory:     maxMemory,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("starting NATS: %w", err)
	}
	log := &bridge{logger: cfg.Logger}
	ns.SetLogger(log, false, false)
	ns.Start()
	s := &Server{nats: ns, logger: cfg.Logger}
	reason := log.firstFatal()
	if reason == "" && !ns.ReadyForConnections(startTimeout) {
		reason = "it is not ready for connections"
	}
	if reason != "" {
		s.Close()
		return nil, fmt.Errorf("starting NATS in %s: %s", cfg.Dir, reason)
	}
	return s, nil
}

// Connect makes a connection through memory. It is the caller's to close,
// before the server.
func (s *Server) Connect() (*nats.Conn, error) {
	nc, err := nats.Connect("", append(eventlog.ConnectOptions(s.logger), nats.InProcessServer(s.nats))...)
	if err != nil {
		return nil, fmt.Errorf("connecting to embedded NATS: %w", err)
	}
	return nc, nil
}

// SyncsAlways reports whether the server syncs each record to disk before it
// acknowledges it, as the server itself has it. If it does not, a crash of
// the machine loses records that were acknowledged.
func (s *Server) SyncsAlways() bool {
	cfg := s.nats.JetStreamConfig()
	return cfg != nil && cfg.SyncAlways
}

// Close ends the server, closes its files and waits until that is done. It
// may be repeated.
func (s *Server) Close() {
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}

// bridge passes on what the server logs from warnings up. It implements
// server.Logger.
type bridge struct {
	logger *slog.Logger

	mu    sync.Mutex
	fatal string // the first fatal message; guarded by mu
}

// firstFatal says why the server did not start, or nothing if it did.
func (b *bridge) firstFatal() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fatal
}

// Fatalf implements server.Logger. The server's own logger ends the process.
func (b *bridge) Fatalf(format string, v ...any) {
	b.mu.Lock()
	if b.fatal == "" {
		b.fatal = fmt.Sprintf(format, v...)
	}
	b.mu.Unlock()
	b.Errorf(format, v...)
}

// Errorf implements server.Logger.
func (b *bridge) Errorf(format string, v ...any) {
	b.logger.Error("embedded NATS", "message", fmt.Sprintf(format, v...))
}

// Warnf implements server.Logger.
func (b *bridge) Warnf(format string, v ...any) {
	b.logger.Warn("embedded NATS", "message", fmt.Sprintf(format, v...))
}

// Noticef implements server.Logger.
func (*bridge) Noticef(string, ...any) {}

// Debugf implements server.Logger.
func (*bridge) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (*bridge) Tracef(string, ...any) {}

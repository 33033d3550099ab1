package embedded_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/cluster/embedded"
)

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (r *record) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(line)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// start runs etcd on dir, failing the test if it logs anything: in normal life
// it has nothing to warn about.
func start(t *testing.T, dir string) *cluster.Etcd {
	t.Helper()
	var logged record
	server, err := embedded.Start(t.Context(), embedded.Config{
		Dir: dir, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
	})
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if said := logged.String(); said != "" {
			t.Errorf("etcd logged: %s", said)
		}
		if err := server.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return cluster.NewEtcd(server.Client(), "/fanfare/")
}

func TestRestartKeepsKeysAndEndsLeases(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	t.Run("first life", func(t *testing.T) {
		began := time.Now()
		store := start(t, dir)
		t.Logf("started in %s", time.Since(began))
		lease, err := store.Grant(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		put(t, store, "kept", cluster.NoLease)
		put(t, store, "leased", lease)
	})
	t.Run("second life", func(t *testing.T) {
		began := time.Now()
		store := start(t, dir)
		t.Logf("started again in %s", time.Since(began))
		entries, err := store.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 || entries[0].Key != "kept" {
			t.Errorf("after a restart: %v, want only the key without a lease", entries)
		}
		put(t, store, "new", cluster.NoLease)
	})
}

func put(t *testing.T, store cluster.Store, key string, lease cluster.LeaseID) {
	t.Helper()
	if _, ok, err := store.Put(t.Context(), key, []byte("v"), lease, 0); !ok || err != nil {
		t.Fatalf("Put(%s) = %t, %v", key, ok, err)
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, embedded.ErrInUse) {
		t.Errorf("second Start on the same directory: %v, want ErrInUse", err)
	}
}

func TestCloseEndsCallsAndWatches(t *testing.T) {
	server, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	store := cluster.NewEtcd(server.Client(), "/fanfare/")
	ctx, cancel := context.WithCancel(t.Context())
	views := store.Watch(ctx, "")
	<-views
	if err := server.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-server.Stopped()
	short, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if _, err := store.Grant(short, time.Second); err == nil {
		t.Error("Grant succeeded after Close")
	}
	cancel()
	for range views {
		t.Error("a view after Close")
	}
}

// A first start that is cut off leaves a log without a member in it, which etcd
// by itself would wait for at every later start, for ever.
func TestStartAfterStartCutOff(t *testing.T) {
	for range 20 { // how far the first gets is a matter of chance
		dir := t.TempDir()
		cut, cancel := context.WithCancel(t.Context())
		cancel()
		server, err := embedded.Start(cut, embedded.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err == nil { // it was quicker
			err = server.Close()
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("Start, cut off: %v", err)
		}
		limited, stop := context.WithTimeout(t.Context(), 20*time.Second)
		server, err = embedded.Start(limited, embedded.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		stop()
		if err != nil {
			t.Fatalf("Start after one that was cut off: %v", err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
}

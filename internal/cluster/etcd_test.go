package cluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/cluster/clustertest"
	"github.com/fanfare-dev/fanfare/internal/cluster/embedded"
)

func startEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	server, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.Client()
}

func TestEtcd(t *testing.T) {
	client := startEtcd(t)
	stores := 0
	clustertest.Run(t, func(*testing.T) cluster.Store {
		stores++
		return cluster.NewEtcd(client, fmt.Sprintf("/store%d/", stores))
	})
}

// frailWatcher lets the test break the first two watches, and compacts away the
// revision that the third is to start from.
type frailWatcher struct {
	clientv3.Watcher
	client  *clientv3.Client
	watches int
	opened  chan chan clientv3.WatchResponse
}

func (w *frailWatcher) Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	w.watches++
	changes := make(chan clientv3.WatchResponse)
	switch w.watches {
	case 1, 2:
		w.opened <- changes
		return changes
	case 3:
		if err := w.compact(ctx); err != nil {
			close(changes)
			return changes
		}
		w.opened <- nil
	}
	return w.Watcher.Watch(ctx, key, options...)
}

func (w *frailWatcher) compact(ctx context.Context) error {
	var revision int64
	for range 3 {
		put, err := w.client.Put(ctx, "/elsewhere", "1")
		if err != nil {
			return err
		}
		revision = put.Header.GetRevision()
	}
	_, err := w.client.Compact(ctx, revision)
	return err
}

func TestEtcdWatchIsMended(t *testing.T) {
	client := startEtcd(t)
	frail := &frailWatcher{Watcher: client.Watcher, client: client, opened: make(chan chan clientv3.WatchResponse)}
	client.Watcher = frail
	store := cluster.NewEtcd(client, "/fanfare/")
	ctx, cancel := context.WithCancel(t.Context())
	views := store.Watch(ctx, "")
	wantNext := func(want ...string) {
		t.Helper()
		if view, open := <-views; !open || !slices.Equal(keys(view), want) {
			t.Fatalf("view of %v, want %v", keys(view), want)
		}
	}
	first := <-frail.opened
	wantNext()
	close(first)
	second := <-frail.opened
	select {
	case view := <-views:
		t.Errorf("view %v a second time, because the watch was mended", view)
	case <-time.After(50 * time.Millisecond):
	}
	mustPut(t, store, "a", cluster.NoLease)
	second <- clientv3.WatchResponse{Canceled: true, CancelReason: "etcdserver: no leader"}
	<-frail.opened
	wantNext("a")
	mustPut(t, store, "b", cluster.NoLease)
	wantNext("a", "b")
	mustPut(t, store, "c", cluster.NoLease)
	wantNext("a", "b", "c")
	cancel()
	for range views {
		t.Error("a view after the end of the context")
	}
	if frail.watches != 4 {
		t.Errorf("%d watches, want the three that broke and one that held", frail.watches)
	}
}

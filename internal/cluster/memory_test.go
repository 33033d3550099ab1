package cluster_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/cluster"
	"github.com/fanfare-dev/fanfare/internal/cluster/clustertest"
)

func TestMemory(t *testing.T) {
	clustertest.Run(t, func(*testing.T) cluster.Store { return cluster.NewMemory().Client() })
}

func TestMemoryInBubble(t *testing.T) {
	clustertest.RunInBubble(t, func(*testing.T) cluster.Store { return cluster.NewMemory().Client() })
}

func TestMemoryRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		healthy, cut := memory.Client(), memory.Client()
		lease, err := cut.Grant(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		cut.Break(cluster.Refuse)
		if err := cut.KeepAlive(t.Context(), lease); err == nil {
			t.Error("KeepAlive of a client that is cut off succeeded")
		}
		if _, _, err := cut.Put(t.Context(), "key", nil, lease, 0); err == nil {
			t.Error("Put of a client that is cut off succeeded")
		}
		wantKeys(t, healthy)
		mustPut(t, healthy, "key", lease)
		<-time.After(10 * time.Second)
		synctest.Wait()
		wantKeys(t, healthy)
		cut.Heal()
		wantKeys(t, cut)
	})
}

func TestMemoryHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		client := memory.Client()
		client.Break(cluster.Hang)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.List(short, ""); err == nil {
			t.Error("List of a client that hangs succeeded")
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			mustPut(t, client, "key", cluster.NoLease)
		}()
		synctest.Wait()
		wantKeys(t, memory.Client())
		client.Heal()
		<-done
		wantKeys(t, memory.Client(), "key")
	})
}

func TestMemoryLoseReply(t *testing.T) {
	client := cluster.NewMemory().Client()
	client.Break(cluster.LoseReply)
	if _, ok, err := client.Put(t.Context(), "key", nil, cluster.NoLease, 0); ok || err == nil {
		t.Errorf("Put whose reply is lost = %t, %v", ok, err)
	}
	client.Heal()
	wantKeys(t, client, "key")
}

func TestMemoryWatchWhileCutOff(t *testing.T) {
	for _, fault := range []cluster.Fault{cluster.Refuse, cluster.Hang} {
		synctest.Test(t, func(t *testing.T) {
			memory := cluster.NewMemory()
			healthy, cut := memory.Client(), memory.Client()
			ctx, cancel := context.WithCancel(t.Context())
			views := cut.Watch(ctx, "")
			<-views
			cut.Break(fault)
			synctest.Wait()
			mustPut(t, healthy, "a", cluster.NoLease)
			mustPut(t, healthy, "b", cluster.NoLease)
			synctest.Wait()
			select {
			case view := <-views:
				t.Errorf("fault %d: view %v while cut off", fault, view)
			default:
			}
			cut.Heal()
			if view := <-views; len(view) != 2 {
				t.Errorf("fault %d: view after healing = %v, want both keys", fault, view)
			}
			cancel()
			for range views {
				t.Error("a view too many")
			}
		})
	}
}

func mustPut(t *testing.T, store cluster.Store, key string, lease cluster.LeaseID) {
	t.Helper()
	if _, ok, err := store.Put(t.Context(), key, []byte("v"), lease, 0); !ok || err != nil {
		t.Errorf("Put(%s) = %t, %v", key, ok, err)
	}
}

func wantKeys(t *testing.T, store cluster.Store, want ...string) {
	t.Helper()
	entries, err := store.List(t.Context(), "")
	if err != nil {
		t.Errorf("List: %v", err)
	}
	if got := keys(entries); !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
}

func keys(view []cluster.Entry) []string {
	keys := make([]string, len(view))
	for i, entry := range view {
		keys[i] = entry.Key
	}
	return keys
}

package history_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/history/historytest"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func openSQLite(t *testing.T, path string) *history.SQLite {
	t.Helper()
	store, err := history.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestSQLite(t *testing.T) {
	historytest.Run(t, func(t *testing.T) historytest.Open {
		path := filepath.Join(t.TempDir(), "a b?c%20#d.sqlite")
		return func() history.Store { return openSQLite(t, path) }
	})
}

// In a bubble every goroutine must have ended, and no real time passes.
func TestSQLiteInBubble(t *testing.T) {
	for _, path := range []string{history.InMemory, filepath.Join(t.TempDir(), "history")} {
		synctest.Test(t, func(t *testing.T) {
			store := openSQLite(t, path)
			key := history.DeliveryKey{EventKey: history.EventKey{Sequence: 1}, Subscription: 1}
			for i := range uint64(100) {
				<-time.After(time.Hour)
				batch := history.Batch{Prev: i, Sequence: i + 1, Deliveries: []history.DeliveryRow{
					{Key: key, Tenant: "acme", State: fanfarev1.Delivery_PENDING, Created: time.Now()},
				}}
				if err := store.Write(t.Context(), batch); err != nil {
					t.Fatal(err)
				}
				delivery, err := store.Delivery(t.Context(), "acme", key)
				if err != nil {
					t.Fatal(err)
				}
				if got := delivery.CreateTime.AsTime(); !got.Equal(time.Now()) {
					t.Fatalf("created at %v, want %v", got, time.Now())
				}
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOpenSQLiteRefusesNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	if err := openSQLite(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	execSQLite(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, 1)")
	if _, err := history.OpenSQLite(t.Context(), path); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("got %v, want an error that says newer", err)
	}
}

// What a program had made that counted its steps itself is gone on with, wherever
// it was.
func TestOpenSQLiteOfBeforeGoose(t *testing.T) {
	files, err := filepath.Glob("migrations/sqlite/*.sql")
	if err != nil || len(files) < 4 {
		t.Fatalf("there are %d steps: %v", len(files), err)
	}
	for taken := range len(files) + 1 {
		path := filepath.Join(t.TempDir(), "history")
		for _, step := range files[:taken] {
			script, err := os.ReadFile(step)
			if err != nil {
				t.Fatal(err)
			}
			execSQLite(t, path, string(script))
		}
		execSQLite(t, path, fmt.Sprintf("PRAGMA user_version = %d", taken))
		for range 2 {
			if err := openSQLite(t, path).Close(); err != nil {
				t.Errorf("after %d steps: %v", taken, err)
			}
		}
	}
}

func execSQLite(t *testing.T, path, script string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), script); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSQLiteFails(t *testing.T) {
	if _, err := history.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "none", "history")); err == nil {
		t.Error("opened a file in a folder that does not exist")
	}
}

package history_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/tmpfs"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// A history whose disk is full keeps what it has and refuses the rest, for as
// long as it takes; then it goes on where it stood.
func TestSQLiteFullDisk(t *testing.T) {
	const size, ballast = 64 << 20, 40 << 20
	tmpfs.Run(t, size, func(t *testing.T, dir string) {
		filler := filepath.Join(dir, "ballast")
		if err := os.WriteFile(filler, make([]byte, ballast), 0o600); err != nil {
			t.Fatal(err)
		}
		store, err := history.OpenSQLite(t.Context(), filepath.Join(dir, "history.db"))
		if err != nil {
			t.Fatal(err)
		}
		full := fill(t, store)
		for range 20 {
			if err := store.Write(t.Context(), bulky(full)); err == nil || errors.Is(err, history.ErrPosition) {
				t.Fatalf("writing batch %d again without space: %v, want the disk's error", full, err)
			}
		}
		// What was there is still found, and what could not be written is not.
		checkHistory(t, store, full-1)

		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		for n := full; n < full+10; n++ {
			if err := store.Write(t.Context(), bulky(n)); err != nil {
				t.Fatalf("writing batch %d with space again: %v", n, err)
			}
		}
		checkHistory(t, store, full+9)
		if err := store.Sync(t.Context()); err != nil {
			t.Errorf("syncing with space again: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		if store, err = history.OpenSQLite(t.Context(), filepath.Join(dir, "history.db")); err != nil {
			t.Fatal(err)
		}
		checkHistory(t, store, full+9)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// fill writes batches until the disk is full, and returns the number of the
// one that did not fit.
func fill(t *testing.T, store *history.SQLite) uint64 {
	t.Helper()
	for n := uint64(1); n < 1000; n++ {
		err := store.Write(t.Context(), bulky(n))
		if err == nil {
			continue
		}
		if errors.Is(err, history.ErrPosition) || n == 1 {
			t.Fatalf("writing batch %d: %v", n, err)
		}
		t.Logf("batch %d meets the end of the disk: %v", n, err)
		return n
	}
	t.Fatal("the disk does not fill")
	return 0
}

// bulky is a batch of events that take about 200 KiB.
func bulky(n uint64) history.Batch {
	const events = 40
	batch := history.Batch{Prev: n - 1, Sequence: n}
	for i := range uint32(events) {
		batch.Events = append(batch.Events, history.EventRow{
			Key:    history.EventKey{Sequence: n, Index: i},
			Tenant: "full",
			Event: &fanfarev1.Event{
				Id: fmt.Sprintf("e%d-%d", n, i), Type: "disk.filled", PublishTime: timestamppb.New(time.UnixMilli(int64(n))),
				Data: []byte(strings.Repeat("x", 5<<10)),
			},
		})
	}
	return batch
}

// checkHistory wants the batches up to last, whole, and no more.
func checkHistory(t *testing.T, store *history.SQLite, last uint64) {
	t.Helper()
	if position, err := store.Position(t.Context(), 0); err != nil || position != last {
		t.Errorf("the position is %d (%v), want %d", position, err, last)
	}
	found, page := 0, history.Page{Size: 1000}
	for {
		events, next, err := store.Events(t.Context(), history.EventQuery{Tenant: "full"}, page)
		if err != nil {
			t.Fatalf("listing events: %v", err)
		}
		found += len(events)
		if page.Token = next; next == "" {
			break
		}
	}
	if want := int(last) * len(bulky(1).Events); found != want {
		t.Errorf("%d events are in the history, want %d", found, want)
	}
}

package history_test

import (
	"bufio"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/history/historytest"
	"github.com/fanfare-dev/fanfare/internal/history/postgrestest"
)

// writerVariable makes this test's program one that writes a batch.
const writerVariable = "FANFARE_HISTORY_WRITER"

// How often there is a crash. Each costs a process, or a start of the server.
const (
	crashes         = 15
	postgresCrashes = 5 // in each way
)

// writerTask is what such a process is to do.
type writerTask struct {
	File, URL string // one of them
	Batch     []byte // JSON
}

// TestMain writes a batch if this process is to be killed while it does.
func TestMain(m *testing.M) {
	if os.Getenv(writerVariable) != "" {
		fmt.Fprintln(os.Stderr, writeBatch())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeBatch writes the batch that standard input has, and waits to be killed.
// When it begins it says so on standard output.
func writeBatch() error {
	var task writerTask
	if err := gob.NewDecoder(os.Stdin).Decode(&task); err != nil {
		return err
	}
	var batch history.Batch
	if err := json.Unmarshal(task.Batch, &batch); err != nil {
		return err
	}
	ctx := context.Background()
	var store history.Store
	var err error
	if task.URL != "" {
		store, err = history.OpenPostgres(ctx, task.URL, history.PostgresConfig{})
	} else {
		store, err = history.OpenSQLite(ctx, task.File)
	}
	if err != nil {
		return err
	}
	_, _ = os.Stdout.WriteString("ready\n")
	if err := store.Write(ctx, batch); err != nil {
		return err
	}
	_, _ = os.Stdout.WriteString("written\n")
	select {} // until it is killed, without a goodbye
}

// killed runs a process that writes a batch, and kills it at some moment. It
// kills half of them only once they have said that it is written.
func killed(t *testing.T, rng *rand.Rand, task writerTask, batch history.Batch) {
	t.Helper()
	var err error
	if task.Batch, err = json.Marshal(batch); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := gob.NewEncoder(in).Encode(task); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil {
		t.Fatalf("the writer said %q: %v", line, err)
	}
	if rng.IntN(2) == 0 {
		_, _ = lines.ReadString('\n')
	} else { // any moment is right
		<-time.After(time.Duration(rng.IntN(10_000)) * time.Microsecond)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

func TestSQLiteKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history")
	reopen := func() history.Store { return openSQLite(t, file) }
	historytest.Crash(t, 21, crashes, reopen, func(rng *rand.Rand, _ history.Store, batch history.Batch) {
		killed(t, rng, writerTask{File: file}, batch)
	})
}

func TestSQLiteCut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history")
	reopen := func() history.Store { return openSQLite(t, file) }
	historytest.Crash(t, 22, 3*crashes, reopen, func(rng *rand.Rand, store history.Store, batch history.Batch) {
		historytest.CutWrite(t, rng, store, batch)
	})
}

// The writer is killed, the context of a write ends, and the server crashes.
func TestPostgresKilled(t *testing.T) {
	server := postgrestest.Start(t)
	for name, write := range map[string]func(rng *rand.Rand, url string, store history.Store, batch history.Batch){
		"writer": func(rng *rand.Rand, url string, _ history.Store, batch history.Batch) {
			killed(t, rng, writerTask{URL: url}, batch)
			server.Settle(t)
		},
		"context": func(rng *rand.Rand, _ string, store history.Store, batch history.Batch) {
			historytest.CutWrite(t, rng, store, batch)
		},
		"server": func(rng *rand.Rand, _ string, store history.Store, batch history.Batch) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = store.Write(t.Context(), batch) // what came of it is found out
			}()
			<-time.After(time.Duration(rng.IntN(20_000)) * time.Microsecond) // any moment is right
			server.Kill(syscall.SIGQUIT)
			<-done
			server.Run(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := server.URL()
			reopen := func() history.Store { return openPostgres(t, url) }
			historytest.Crash(t, 23, postgresCrashes, reopen, func(rng *rand.Rand, store history.Store, batch history.Batch) {
				write(rng, url, store, batch)
			})
		})
	}
}

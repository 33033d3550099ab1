package receiver_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/fanfare-dev/fanfare/internal/history/postgrestest"
	"github.com/fanfare-dev/fanfare/receiver"
)

// storeSuite is what every Store promises. pass lets time pass.
func storeSuite(t *testing.T, store receiver.Store, pass func(time.Duration)) {
	t.Helper()
	const lease = 200 * time.Millisecond
	claim := func(key, owner string, want receiver.Standing) {
		t.Helper()
		got, err := store.Claim(t.Context(), key, owner, lease)
		if err != nil || got != want {
			t.Errorf("claiming %s for %s: %v, %v; want %v", key, owner, got, err, want)
		}
	}
	done := func(key, owner string, want error) {
		t.Helper()
		if err := store.Done(t.Context(), key, owner); !errors.Is(err, want) {
			t.Errorf("settling %s for %s: %v, want %v", key, owner, err, want)
		}
	}
	release := func(key, owner string) {
		t.Helper()
		if err := store.Release(t.Context(), key, owner); err != nil {
			t.Errorf("releasing %s for %s: %v", key, owner, err)
		}
	}
	claim("a", "one", receiver.Claimed)
	claim("a", "two", receiver.Held)
	claim("a", "one", receiver.Claimed) // it has it
	claim("b", "two", receiver.Claimed) // another event
	done("a", "two", receiver.ErrLost)
	release("a", "two") // not its own: nothing happens
	claim("a", "two", receiver.Held)
	done("a", "one", nil)
	done("a", "one", nil) // again is no harm
	claim("a", "one", receiver.Handled)
	release("a", "one") // what was handled stays so
	claim("a", "two", receiver.Handled)
	release("b", "two")
	claim("b", "three", receiver.Claimed) // given back
	done("c", "one", receiver.ErrLost)    // never claimed

	claim("crashed", "one", receiver.Claimed)
	pass(2 * lease)
	claim("crashed", "two", receiver.Claimed) // its owner has died
	done("crashed", "one", receiver.ErrLost)
	done("crashed", "two", nil)
	claim("a", "four", receiver.Handled) // still
}

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storeSuite(t, receiver.NewMemory(0, 0), func(d time.Duration) { <-time.After(d) })
	})
}

// What was handled is forgotten after its retention, and when there is too much.
func TestMemoryForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := receiver.NewMemory(2, time.Hour)
		handle := func(key string) receiver.Standing {
			standing, err := store.Claim(t.Context(), key, "one", time.Minute)
			if err == nil && standing == receiver.Claimed {
				err = store.Done(t.Context(), key, "one")
			}
			if err != nil {
				t.Fatal(err)
			}
			return standing
		}
		handle("a")
		<-time.After(30 * time.Minute)
		handle("b")
		if got := handle("a"); got != receiver.Handled {
			t.Errorf("within its retention: %v", got)
		}
		<-time.After(31 * time.Minute)
		if got := handle("a"); got != receiver.Claimed {
			t.Errorf("after its retention: %v", got)
		}
		handle("c") // the third: b has to go
		if got := handle("b"); got != receiver.Claimed {
			t.Errorf("what was too much: %v", got)
		}
	})
}

func openSQLite(t testing.TB) (*sql.DB, *receiver.SQLStore) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "claims.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	return db, openStore(t, db)
}

// openPostgres opens a Store in a schema of its own.
func openPostgres(t testing.TB, server *postgrestest.Server) (*sql.DB, *receiver.SQLStore) {
	t.Helper()
	address := server.URL()
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "CREATE SCHEMA "+parsed.Query().Get("search_path")); err != nil {
		t.Fatal(err)
	}
	return db, openStore(t, db)
}

// openStore makes a Store of a database, which is closed with the test.
func openStore(t testing.TB, db *sql.DB) *receiver.SQLStore {
	t.Helper()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	store, err := receiver.NewSQLStore(db, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no harm
		if err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func TestSQLStore(t *testing.T) {
	db, store := openSQLite(t)
	sqlSuite(t, db, store)
	if _, err := receiver.NewSQLStore(db, "claims; DROP TABLE x", 0); err == nil {
		t.Error("a table name with SQL in it is taken")
	}
}

// TestSQLStoreInPostgres is all of SQLStore's tests, in PostgreSQL.
func TestSQLStoreInPostgres(t *testing.T) {
	server := postgrestest.Start(t)
	t.Run("suite", func(t *testing.T) {
		db, store := openPostgres(t, server)
		sqlSuite(t, db, store)
	})
	t.Run("purge", func(t *testing.T) {
		db, store := openPostgres(t, server)
		purgeSuite(t, db, store)
	})
	t.Run("contention", func(t *testing.T) {
		_, store := openPostgres(t, server)
		contentionSuite(t, store)
	})
	t.Run("DoneIn", func(t *testing.T) {
		db, store := openPostgres(t, server)
		doneInSuite(t, db, store)
	})
}

func sqlSuite(t *testing.T, db *sql.DB, store *receiver.SQLStore) {
	t.Helper()
	storeSuite(t, store, func(d time.Duration) {
		// The clock is the machine's; what is stored is moved back instead.
		if _, err := db.ExecContext(t.Context(), "UPDATE webhook_claims SET expires_ms = expires_ms - $1", d.Milliseconds()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSQLStorePurges(t *testing.T) {
	db, store := openSQLite(t)
	purgeSuite(t, db, store)
}

func purgeSuite(t *testing.T, db *sql.DB, store *receiver.SQLStore) {
	t.Helper()
	for _, key := range []string{"old", "new"} {
		if _, err := store.Claim(t.Context(), key, "one", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE webhook_claims SET expires_ms = 1 WHERE event_key = 'old'"); err != nil {
		t.Fatal(err)
	}
	if err := store.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left int
	var one string
	err := db.QueryRowContext(t.Context(), "SELECT count(*), min(event_key) FROM webhook_claims").Scan(&left, &one)
	if err != nil || left != 1 || one != "new" {
		t.Errorf("left are %d, %q, %v", left, one, err)
	}
}

// Of many who claim at the same moment one has the claim, and after its release
// one other.
func TestStoresUnderContention(t *testing.T) {
	_, sqlite := openSQLite(t)
	for name, store := range map[string]receiver.Store{"memory": receiver.NewMemory(0, 0), "sql": sqlite} {
		t.Run(name, func(t *testing.T) { contentionSuite(t, store) })
	}
}

func contentionSuite(t *testing.T, store receiver.Store) {
	t.Helper()
	for event := range 5 {
		var handled, inside atomic.Int32
		var group sync.WaitGroup
		for owner := range 8 {
			group.Go(func() {
				contend(t, store, fmt.Sprint("e", event), fmt.Sprint("o", owner), &inside, &handled)
			})
		}
		group.Wait()
		if n := handled.Load(); n != 1 {
			t.Errorf("event %d was handled %d times", event, n)
		}
	}
}

// contend claims until the event is handled. The first holder fails.
func contend(t *testing.T, store receiver.Store, key, owner string, inside, handled *atomic.Int32) {
	for tries := 0; ; tries++ {
		standing, err := store.Claim(t.Context(), key, owner, time.Minute)
		switch {
		case err != nil:
			t.Error(err)
			return
		case standing == receiver.Handled:
			return
		case standing == receiver.Held:
			continue
		}
		if inside.Add(1) != 1 {
			t.Error("two hold one claim")
		}
		inside.Add(-1)
		if owner == "o0" && tries == 0 {
			err = store.Release(t.Context(), key, owner)
		} else {
			handled.Add(1)
			err = store.Done(t.Context(), key, owner)
		}
		if err != nil {
			t.Error(err)
		}
		if owner != "o0" || tries > 0 {
			return
		}
	}
}

// A handler that works in a transaction of the store's database has worked
// exactly if the event counts as handled, whatever happens to the process.
func TestDoneIn(t *testing.T) {
	db, store := openSQLite(t)
	doneInSuite(t, db, store)
}

func doneInSuite(t *testing.T, db *sql.DB, store *receiver.SQLStore) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id TEXT)"); err != nil {
		t.Fatal(err)
	}
	one := secret(t, secretOne)
	r, err := receiver.New(receiver.Config{Gate: receiver.Gate{Verifiers: verifiers(one)}, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	crash := true
	r.Handle("*", func(ctx context.Context, e *receiver.Event) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders VALUES ($1)", e.ID); err != nil {
			return err
		}
		if err := store.DoneIn(ctx, tx); err != nil {
			return err
		}
		if crash {
			return errors.New("crash before the commit")
		}
		return tx.Commit()
	})
	for i, want := range []int{500, 200, 200} {
		if got := post(r, signed(t, "m1", `{"type":"a","data":1}`, one)); got.Code != want {
			t.Errorf("request %d: answered %d, want %d: %s", i, got.Code, want, got.Body)
		}
		crash = false
	}
	var orders int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM orders").Scan(&orders); err != nil || orders != 1 {
		t.Errorf("%d orders, %v; want 1", orders, err)
	}
}

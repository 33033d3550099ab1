package history_test

import (
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/history/historytest"
	"github.com/fanfare-dev/fanfare/internal/history/postgrestest"
)

func openPostgres(t *testing.T, url string) *history.Postgres {
	t.Helper()
	store, err := history.OpenPostgres(t.Context(), url, history.PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestPostgres(t *testing.T) {
	server := postgrestest.Start(t)
	historytest.Run(t, func(t *testing.T) historytest.Open {
		url := server.URL()
		return func() history.Store { return openPostgres(t, url) }
	})
}

// Coordinators that start at once make the tables together, once; and what a
// program had made that counted its steps itself is gone on with.
func TestPostgresMigrates(t *testing.T) {
	server := postgrestest.Start(t)
	script, err := os.ReadFile("migrations/postgres/0001_initial.sql")
	if err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]string{
		"nothing was there": "",
		"before goose":      string(script) + "; CREATE TABLE schema_version (version bigint NOT NULL); INSERT INTO schema_version VALUES (1)",
	} {
		t.Run(name, func(t *testing.T) {
			url := server.URL()
			if before != "" {
				execPostgres(t, url, before)
			}
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					store, err := history.OpenPostgres(t.Context(), url, history.PostgresConfig{})
					if err != nil {
						t.Error(err)
						return
					}
					if err := store.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		})
	}
}

func execPostgres(t *testing.T, url, script string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	schema := conn.Config().RuntimeParams["search_path"] // as the URL names it
	if _, err := conn.Exec(t.Context(), "CREATE SCHEMA "+schema+"; "+script); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

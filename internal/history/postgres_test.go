package history_test

import (
	"testing"

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

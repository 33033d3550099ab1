package history

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// migrations holds, for each engine, the steps from an empty database to the
// newest schema, in the order of their names. A step that was released is
// never changed; a change is a new step.
//
//go:embed migrations/*/*.sql
var migrations embed.FS

// schema says how an engine keeps its tables. The version counts the steps
// taken, so a database from a later program is recognized, and refused.
type schema struct {
	folder     string // of its steps
	prepare    string // makes a place for the version, and keeps others out until the transaction ends
	version    string // query of the version
	setVersion string // statement that sets it; a format
}

func sqliteSchema() schema {
	return schema{
		folder:     "migrations/sqlite",
		version:    "PRAGMA user_version",
		setVersion: "PRAGMA user_version = %d",
	}
}

// postgresSchema keeps the version in a table. Coordinators that start at once
// take turns.
func postgresSchema() schema {
	return schema{
		folder: "migrations/postgres",
		prepare: "SELECT pg_advisory_xact_lock(hashtext('fanfare'), hashtext(current_schema()));" +
			"CREATE TABLE IF NOT EXISTS schema_version (version bigint NOT NULL)",
		version:    "SELECT coalesce(max(version), 0) FROM schema_version",
		setVersion: "DELETE FROM schema_version; INSERT INTO schema_version VALUES (%d)",
	}
}

// migrate brings db to the newest schema in one transaction.
func (s schema) migrate(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Glob(migrations, s.folder+"/*.sql")
	if err != nil {
		return fmt.Errorf("listing migrations: %w", err)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning migration: %w", err)
	}
	defer rollback(tx)

	if _, err := tx.ExecContext(ctx, s.prepare); err != nil {
		return fmt.Errorf("preparing migration: %w", err)
	}
	var version int
	if err := tx.QueryRowContext(ctx, s.version).Scan(&version); err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	if version > len(steps) {
		return fmt.Errorf("schema has version %d, this program knows no later one than %d: it was written by a newer program", version, len(steps))
	}
	for _, step := range steps[version:] {
		script, err := migrations.ReadFile(step)
		if err != nil {
			return fmt.Errorf("reading migration: %w", err)
		}
		if _, err := tx.ExecContext(ctx, string(script)); err != nil {
			return fmt.Errorf("applying %s: %w", step, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(s.setVersion, len(steps))); err != nil {
		return fmt.Errorf("writing schema version: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing migration: %w", err)
	}
	return nil
}

// rollback ends a transaction that may have been committed, which makes it do
// nothing. A failed rollback leaves nothing behind either: the database drops
// the transaction with its connection.
func rollback(tx *sql.Tx) {
	_ = tx.Rollback()
}

package history

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// sqliteMigrations holds the steps from an empty database to the newest
// schema, in the order of their names. A step that was released is never
// changed; a change is a new step.
//
//go:embed migrations/sqlite/*.sql
var sqliteMigrations embed.FS

// migrateSQLite brings db to the newest schema in one transaction. SQLite's
// user_version counts the steps taken, so a database from a later program is
// recognized, and refused.
func migrateSQLite(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Glob(sqliteMigrations, "migrations/sqlite/*.sql")
	if err != nil {
		return fmt.Errorf("listing migrations: %w", err)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning migration: %w", err)
	}
	defer rollback(tx)

	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	if version > len(steps) {
		return fmt.Errorf("schema has version %d, this program knows no later one than %d: it was written by a newer program", version, len(steps))
	}
	for _, step := range steps[version:] {
		script, err := sqliteMigrations.ReadFile(step)
		if err != nil {
			return fmt.Errorf("reading migration: %w", err)
		}
		if _, err := tx.ExecContext(ctx, string(script)); err != nil {
			return fmt.Errorf("applying %s: %w", step, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", len(steps))); err != nil {
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

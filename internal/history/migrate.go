package history

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

// migrations holds, for each engine, the steps from an empty database to the
// newest schema, as goose has them (https://github.com/pressly/goose). A step that
// was released is never changed; a change is a new step.
//
//go:embed migrations/*/*.sql
var migrations embed.FS

// schema says how an engine keeps its tables. Which steps were taken is in a
// table, so a database from a later program is recognized, and refused.
type schema struct {
	dialect database.Dialect
	folder  string // of its steps
	// before is a query of how many steps were taken when goose did not take
	// them yet.
	before  string
	options []goose.ProviderOption
}

func sqliteSchema() schema {
	return schema{dialect: database.DialectSQLite3, folder: "migrations/sqlite", before: "PRAGMA user_version"}
}

// postgresSchema has coordinators that start at once take turns.
func postgresSchema() schema {
	return schema{
		dialect: database.DialectPostgres, folder: "migrations/postgres",
		before:  "SELECT CASE WHEN to_regclass('schema_version') IS NULL THEN 0 ELSE 1 END",
		options: []goose.ProviderOption{goose.WithSessionLocker(turns{})},
	}
}

// migrate brings db to the newest schema, each step in a transaction.
func (s schema) migrate(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Sub(migrations, s.folder)
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	store, err := database.NewStore(s.dialect, goose.DefaultTablename)
	if err != nil {
		return fmt.Errorf("preparing migration: %w", err)
	}
	taken := &takenBefore{Store: store, query: s.before}
	options := append([]goose.ProviderOption{
		goose.WithStore(taken), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()),
	}, s.options...)
	provider, err := goose.NewProvider(goose.DialectCustom, db, steps, options...)
	if err != nil {
		return fmt.Errorf("preparing migration: %w", err)
	}
	taken.steps = provider.ListSources()
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	version, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	if version > newest {
		return fmt.Errorf("schema has version %d, this program knows no later one than %d: it was written by a newer program", version, newest)
	}
	return nil
}

// takenBefore is a store of which steps were taken that, when it is made, knows
// those that were taken before there was one.
type takenBefore struct {
	database.Store
	query string
	steps []*goose.Source // in order
}

// TableExists implements database.StoreExtender.
func (t *takenBefore) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	if extended, ok := t.Store.(database.StoreExtender); ok {
		return extended.TableExists(ctx, db)
	}
	return false, errors.ErrUnsupported
}

// CreateVersionTable implements database.Store.
func (t *takenBefore) CreateVersionTable(ctx context.Context, db database.DBTxConn) error {
	var taken int
	if err := db.QueryRowContext(ctx, t.query).Scan(&taken); err != nil {
		return fmt.Errorf("reading the version of before: %w", err)
	}
	if err := t.Store.CreateVersionTable(ctx, db); err != nil {
		return err
	}
	for _, step := range t.steps[:min(taken, len(t.steps))] {
		if err := t.Insert(ctx, db, database.InsertRequest{Version: step.Version}); err != nil {
			return err
		}
	}
	return nil
}

// turns is a lock on a schema of PostgreSQL, which the connection has that takes
// it. Others wait.
type turns struct{}

const turnsKey = "(hashtext('fanfare'), hashtext(current_schema()))"

// SessionLock implements lock.SessionLocker.
func (turns) SessionLock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock"+turnsKey)
	return err
}

// SessionUnlock implements lock.SessionLocker.
func (turns) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock"+turnsKey)
	return err
}

// rollback ends a transaction that may have been committed, which makes it do
// nothing. A failed rollback leaves nothing behind either: the database drops
// the transaction with its connection.
func rollback(tx *sql.Tx) {
	_ = tx.Rollback()
}

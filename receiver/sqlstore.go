package receiver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// DefaultTable is the table of an SQLStore.
const DefaultTable = "webhook_claims"

// claimTries is how often a claim is tried that is purged while it is looked at.
const claimTries = 3

// SQLStore is a Store in a table of PostgreSQL (9.5 and later) or SQLite (3.24
// and later), through any driver of database/sql for them. It is what several
// processes share, and what lets a handler settle its claim in the transaction
// it works in: see DoneIn.
type SQLStore struct {
	db        *sql.DB
	table     string
	retention time.Duration
}

// tableName keeps SQL out of the table's name.
var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// NewSQLStore returns a Store in a table of db, which Migrate makes. table and
// retention stand for DefaultTable and DefaultRetention where they are zero.
func NewSQLStore(db *sql.DB, table string, retention time.Duration) (*SQLStore, error) {
	if table == "" {
		table = DefaultTable
	}
	if !tableName.MatchString(table) {
		return nil, fmt.Errorf("receiver: table is %q; letters, digits and _ are allowed", table)
	}
	if retention <= 0 {
		retention = DefaultRetention
	}
	return &SQLStore{db: db, table: table, retention: retention}, nil
}

// Migrate makes the table, if it is not there.
func (s *SQLStore) Migrate(ctx context.Context) error {
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS {claims} (
			event_key  TEXT PRIMARY KEY,
			owner      TEXT NOT NULL,
			handled    INTEGER NOT NULL,
			expires_ms BIGINT NOT NULL)`,
		`CREATE INDEX IF NOT EXISTS {claims}_expires ON {claims} (expires_ms)`,
	} {
		if _, err := s.db.ExecContext(ctx, s.in(statement)); err != nil {
			return fmt.Errorf("making table %s: %w", s.table, err)
		}
	}
	return nil
}

// in names the table in a statement.
func (s *SQLStore) in(statement string) string {
	return strings.ReplaceAll(statement, "{claims}", s.table)
}

// Claim implements Store.
func (s *SQLStore) Claim(ctx context.Context, key, owner string, lease time.Duration) (Standing, error) {
	for range claimTries {
		now := time.Now()
		// One statement, so that of two at the same moment one waits for the
		// other, and then sees it.
		result, err := s.db.ExecContext(ctx, s.in(`INSERT INTO {claims} AS held (event_key, owner, handled, expires_ms)
			VALUES ($1, $2, 0, $3)
			ON CONFLICT (event_key) DO UPDATE SET owner = excluded.owner, handled = 0, expires_ms = excluded.expires_ms
			WHERE held.expires_ms <= $4 OR held.handled = 0 AND held.owner = excluded.owner`),
			key, owner, now.Add(lease).UnixMilli(), now.UnixMilli())
		if err != nil {
			return 0, fmt.Errorf("claiming %s: %w", key, err)
		}
		if changed, err := result.RowsAffected(); err != nil {
			return 0, fmt.Errorf("claiming %s: %w", key, err)
		} else if changed > 0 {
			return Claimed, nil
		}
		var handled bool
		err = s.db.QueryRowContext(ctx, s.in(`SELECT handled <> 0 FROM {claims} WHERE event_key = $1`), key).Scan(&handled)
		switch {
		case errors.Is(err, sql.ErrNoRows): // released or purged just now
		case err != nil:
			return 0, fmt.Errorf("looking %s up: %w", key, err)
		case handled:
			return Handled, nil
		default:
			return Held, nil
		}
	}
	return Held, nil
}

// execer is a database or a transaction in it.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Done implements Store.
func (s *SQLStore) Done(ctx context.Context, key, owner string) error {
	return s.done(ctx, s.db, key, owner)
}

func (s *SQLStore) done(ctx context.Context, db execer, key, owner string) error {
	result, err := db.ExecContext(ctx, s.in(`UPDATE {claims} SET handled = 1, expires_ms = $1 WHERE event_key = $2 AND owner = $3`),
		time.Now().Add(s.retention).UnixMilli(), key, owner)
	if err != nil {
		return fmt.Errorf("settling %s: %w", key, err)
	}
	changed, err := result.RowsAffected()
	if err == nil && changed == 0 {
		err = ErrLost
	}
	return err
}

// DoneIn settles the claim of the event that ctx, a handler's, was called for,
// in a transaction of the same database: the event is handled exactly if the
// transaction commits. On ErrLost it must not be committed: somebody else has
// the event now. An event without an ID has no claim, and nothing is done.
func (s *SQLStore) DoneIn(ctx context.Context, tx *sql.Tx) error {
	held, ok := ctx.Value(claimKey{}).(*claim)
	if !ok || held.key == "" {
		return nil
	}
	return s.done(ctx, tx, held.key, held.owner)
}

// Release implements Store.
func (s *SQLStore) Release(ctx context.Context, key, owner string) error {
	_, err := s.db.ExecContext(ctx, s.in(`DELETE FROM {claims} WHERE event_key = $1 AND owner = $2 AND handled = 0`), key, owner)
	if err != nil {
		return fmt.Errorf("releasing %s: %w", key, err)
	}
	return nil
}

// Purge removes what is past its retention or its lease. A Receiver's Run does
// so every hour.
func (s *SQLStore) Purge(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, s.in(`DELETE FROM {claims} WHERE expires_ms <= $1`), time.Now().UnixMilli()); err != nil {
		return fmt.Errorf("purging %s: %w", s.table, err)
	}
	return nil
}

package history

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgresLockTimeout bounds how long the drop of a day waits for who reads:
// meanwhile others wait for it.
const postgresLockTimeout = 2 * time.Second

// Expire implements Store. A step drops one day of one table or, when there is
// none, merges some of the statistics. Of several coordinators one does so.
func (p *Postgres) Expire(ctx context.Context, retention Retention, now time.Time) (Expired, error) {
	expired, err := p.expire(ctx, retention.Resolved(), now)
	if err != nil {
		return Expired{}, fmt.Errorf("removing what is old: %w", err)
	}
	return expired, nil
}

func (p *Postgres) expire(ctx context.Context, retention Retention, now time.Time) (expired Expired, err error) {
	err = pgx.BeginFunc(ctx, p.writer, func(tx pgx.Tx) error {
		expired, err = dropDay(ctx, tx, retention, now)
		return err
	})
	if err != nil {
		return Expired{}, err
	}
	if expired.Days > 0 {
		p.forgetDays()
		return expired, nil
	}
	tx, err := p.writerDB.BeginTx(ctx, nil)
	if err != nil {
		return Expired{}, err
	}
	defer rollback(tx)
	if expired.Rows, err = expirePostgresStatistics(ctx, tx, retention, now); err != nil {
		return Expired{}, err
	}
	expired.Done = expired.Rows == 0
	return expired, tx.Commit()
}

// expirePostgresStatistics does nothing while another coordinator does it.
func expirePostgresStatistics(ctx context.Context, tx *sql.Tx, retention Retention, now time.Time) (int64, error) {
	var alone bool
	const try = "SELECT pg_try_advisory_xact_lock(hashtext('fanfare statistics'), hashtext(current_schema()))"
	if err := tx.QueryRowContext(ctx, try).Scan(&alone); err != nil || !alone {
		return 0, err
	}
	return expireStatistics(ctx, tx, retention, now)
}

// dropDay drops the first day it finds that is old enough.
func dropDay(ctx context.Context, tx pgx.Tx, retention Retention, now time.Time) (expired Expired, err error) {
	// Who makes a day waits for it to be there; who drops one may wait in turn,
	// but not for long.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = "+milliseconds(postgresLockTimeout)); err != nil {
		return expired, err
	}
	if _, err := tx.Exec(ctx, lockDays); err != nil {
		return expired, err
	}
	floors, err := keptDays(ctx, tx)
	if err != nil {
		return expired, fmt.Errorf("reading what the logs have: %w", err)
	}
	for _, table := range dailyTables() {
		days, err := daysOf(ctx, tx, table)
		if err != nil {
			return expired, fmt.Errorf("listing the days of %s: %w", table, err)
		}
		for _, day := range days {
			if day.Add(postgresDay).After(now.Add(-retention.of(table))) {
				continue
			}
			if kept := atMost(floors, day); kept > 0 && replayed(table) {
				expired.Kept = max(expired.Kept, kept)
				continue
			}
			if _, err := tx.Exec(ctx, "DROP TABLE "+dayTable(table, day)); err != nil {
				return expired, fmt.Errorf("dropping %v of %s: %w", day.Format(time.DateOnly), table, err)
			}
			expired.Days++
			return expired, nil
		}
	}
	return expired, nil
}

// of returns for how long the rows of a table are kept.
func (r Retention) of(table string) time.Duration {
	switch table {
	case "payloads":
		return r.Payloads
	case "attempts":
		return r.Attempts
	}
	return r.Deliveries
}

// replayed reports whether a replay needs a table.
func replayed(table string) bool { return table == "events" || table == "ended_deliveries" }

// keptDays returns, for each log that has records that are in the history, the
// day of the first.
func keptDays(ctx context.Context, tx pgx.Tx) ([]time.Time, error) {
	rows, err := tx.Query(ctx, `SELECT coalesce(
			(SELECT max(day) FROM calendar c WHERE c.partition = p.partition AND c.first_sequence <= p.floor),
			(SELECT min(day) FROM calendar c WHERE c.partition = p.partition))
		FROM positions p WHERE floor <= sequence AND EXISTS (SELECT FROM calendar c WHERE c.partition = p.partition)`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[time.Time])
}

// atMost returns how many days are not after another.
func atMost(days []time.Time, limit time.Time) (n int) {
	for _, day := range days {
		if !day.After(limit) {
			n++
		}
	}
	return n
}

// daysOf returns the days that a table has partitions for, in their order.
func daysOf(ctx context.Context, tx pgx.Tx, table string) ([]time.Time, error) {
	rows, err := tx.Query(ctx, `SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
		WHERE inhparent = $1::regclass ORDER BY relname`, table)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	days := make([]time.Time, len(names))
	for i, name := range names {
		if days[i], err = time.Parse("20060102", strings.TrimPrefix(name, table+"_")); err != nil {
			return nil, err
		}
	}
	return days, nil
}

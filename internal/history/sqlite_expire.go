package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Expire implements Store. Each step is a transaction of about expireRows rows.
func (s *SQLite) Expire(ctx context.Context, retention Retention, now time.Time) (Expired, error) {
	expired, err := s.expire(ctx, retention.Resolved(), now)
	if err != nil {
		return Expired{}, fmt.Errorf("removing what is old: %w", err)
	}
	return expired, nil
}

func (s *SQLite) expire(ctx context.Context, retention Retention, now time.Time) (Expired, error) {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return Expired{}, err
	}
	defer rollback(tx)
	e := sqliteExpiry{tx: tx, retention: retention, now: now}
	if err := e.run(ctx); err != nil {
		return Expired{}, err
	}
	e.done.Done = e.done.Rows == 0
	return e.done, tx.Commit()
}

// sqliteExpiry is the transaction of one step.
type sqliteExpiry struct {
	tx        *sql.Tx
	retention Retention
	now       time.Time
	done      Expired
}

// run removes until there are enough rows, or no more.
func (e *sqliteExpiry) run(ctx context.Context) error {
	partitions, err := e.partitions(ctx)
	if err != nil {
		return err
	}
	for _, p := range partitions {
		if err := e.runPartition(ctx, p); err != nil || e.done.Rows >= expireRows {
			return err
		}
	}
	rows, err := expireStatistics(ctx, e.tx, e.retention, e.now)
	e.done.Rows += rows
	return err
}

// sqlitePartition is what a step knows of a partition.
type sqlitePartition struct {
	number              int
	floor, payloadFloor uint64
}

func (e *sqliteExpiry) partitions(ctx context.Context) (found []sqlitePartition, err error) {
	rows, err := e.tx.QueryContext(ctx, "SELECT partition, floor, payload_floor FROM positions ORDER BY partition")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var p sqlitePartition
		var floor, payloadFloor int64
		if err := rows.Scan(&p.number, &floor, &payloadFloor); err != nil {
			return nil, err
		}
		p.floor, p.payloadFloor = uint64(floor), uint64(payloadFloor) //nolint:gosec // the inverse of integer
		found = append(found, p)
	}
	return found, rows.Err()
}

// runPartition removes what is old of one partition: first what hangs on
// something else.
func (e *sqliteExpiry) runPartition(ctx context.Context, p sqlitePartition) error {
	calendar, err := loadSQLiteCalendar(ctx, e.tx, p.number)
	if err != nil {
		return err
	}
	before := func(retention time.Duration) uint64 {
		return calendar.before(e.now.Add(-retention), sqlitePeriod)
	}
	for _, one := range []struct{ statement, table string }{{deleteOldAttempts, "attempts"}, {deleteOldRuns, "attempt_runs"}} {
		if err := e.remove(ctx, one.statement, p.number, one.table, 0, before(e.retention.Attempts)); err != nil || e.done.Rows >= expireRows {
			return err
		}
	}
	payloads := before(e.retention.Payloads)
	if err := e.remove(ctx, deleteOldPayloads, p.number, "events", p.payloadFloor, payloads); err != nil || e.done.Rows >= expireRows {
		return err
	}
	if payloads > p.payloadFloor {
		if _, err := e.tx.ExecContext(ctx, "UPDATE positions SET payload_floor = $1 WHERE partition = $2", integer(payloads), p.number); err != nil {
			return err
		}
	}
	deliveries := before(e.retention.Deliveries)
	if deliveries > p.floor {
		deliveries = p.floor
		e.done.Kept++
	}
	for _, one := range []struct{ statement, table string }{{deleteOldDeliveries, "deliveries"}, {deleteOldEvents, "events"}} {
		if err := e.remove(ctx, one.statement, p.number, one.table, 0, deliveries); err != nil || e.done.Rows >= expireRows {
			return err
		}
	}
	return e.forgetPeriods(ctx, p.number, min(deliveries, payloads, before(e.retention.Attempts)))
}

// forgetPeriods removes the periods of which nothing is left: all up to the one
// that a sequence is in.
func (e *sqliteExpiry) forgetPeriods(ctx context.Context, partition int, sequence uint64) error {
	_, err := e.tx.ExecContext(ctx, `DELETE FROM calendar WHERE partition = $1 AND first_sequence <
		(SELECT max(first_sequence) FROM calendar WHERE partition = $1 AND first_sequence <= $2)`, partition, integer(sequence))
	return err
}

// The statements that remove old rows of one tenant: at most so many of those
// of a partition from one sequence up to another.
const (
	deleteOldAttempts = `DELETE FROM attempts WHERE (tenant, partition, sequence, idx, subscription, number) IN
		(SELECT tenant, partition, sequence, idx, subscription, number FROM attempts
		WHERE tenant = $1 AND partition = $2 AND sequence >= $3 AND sequence < $4 LIMIT $5)`
	deleteOldRuns = `DELETE FROM attempt_runs WHERE (tenant, partition, sequence, first_idx, batch) IN
		(SELECT tenant, partition, sequence, first_idx, batch FROM attempt_runs
		WHERE tenant = $1 AND partition = $2 AND sequence >= $3 AND sequence < $4 LIMIT $5)`
	deleteOldPayloads = `UPDATE events SET data = x'', data_expired = 1 WHERE rowid IN
		(SELECT rowid FROM events INDEXED BY events_by_key
		WHERE tenant = $1 AND partition = $2 AND sequence >= $3 AND sequence < $4 AND data_expired = 0 LIMIT $5)`
	deleteOldDeliveries = `DELETE FROM deliveries WHERE (tenant, partition, sequence, idx, subscription) IN
		(SELECT tenant, partition, sequence, idx, subscription FROM deliveries
		WHERE tenant = $1 AND partition = $2 AND sequence >= $3 AND sequence < $4 AND state <> 1 LIMIT $5)`
	deleteOldEvents = `DELETE FROM events WHERE rowid IN
		(SELECT rowid FROM events INDEXED BY events_by_key
		WHERE tenant = $1 AND partition = $2 AND sequence >= $3 AND sequence < $4 LIMIT $5)`
)

// remove applies a statement to each tenant that a table has, as long as there
// are not enough rows.
func (e *sqliteExpiry) remove(ctx context.Context, statement string, partition int, table string, from, until uint64) error {
	if from >= until {
		return nil
	}
	tenant := ""
	for e.done.Rows < expireRows {
		err := e.tx.QueryRowContext(ctx, "SELECT tenant FROM "+table+" WHERE tenant > $1 ORDER BY tenant LIMIT 1", tenant).Scan(&tenant)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		result, err := e.tx.ExecContext(ctx, statement, tenant, partition, integer(from), integer(until), expireRows-e.done.Rows)
		if err != nil {
			return fmt.Errorf("of %s: %w", table, err)
		}
		rows, err := result.RowsAffected()
		if err != nil {
			return err
		}
		e.done.Rows += rows
	}
	return nil
}

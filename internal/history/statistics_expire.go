package history

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// expireHours is how many hours one step makes of minutes.
const expireHours = 16

// expireStatistics makes hours of old minutes, removes old hours, and returns
// how many rows are gone. It is the same for every engine.
func expireStatistics(ctx context.Context, tx *sql.Tx, retention Retention, now time.Time) (rows int64, err error) {
	result, err := tx.ExecContext(ctx, `DELETE FROM statistics WHERE (tenant, subscription_id, start_ms, length_ms) IN
		(SELECT tenant, subscription_id, start_ms, length_ms FROM statistics WHERE length_ms = $1 AND start_ms < $2 LIMIT $3)`,
		StatisticsHour.Milliseconds(), now.Add(-retention.Statistics).Truncate(StatisticsHour).UnixMilli(), expireRows)
	if err != nil {
		return 0, err
	}
	if rows, err = result.RowsAffected(); err != nil {
		return 0, err
	}
	for range expireHours {
		gone, err := mergeHour(ctx, tx, now.Add(-minuteRetention).Truncate(StatisticsHour))
		if err != nil {
			return 0, err
		}
		if gone == 0 {
			break
		}
		rows += gone
	}
	return rows, nil
}

// mergeHour replaces the minutes of one subscription in one hour before a
// time, and what there is of the hour already, by the hour. It returns how many
// minutes they were: 0 if there are none left.
func mergeHour(ctx context.Context, tx *sql.Tx, before time.Time) (minutes int64, err error) {
	var tenant, subscription string
	var start int64
	err = tx.QueryRowContext(ctx, `SELECT tenant, subscription_id, start_ms FROM statistics
		WHERE length_ms = $1 AND start_ms < $2 ORDER BY length_ms, start_ms LIMIT 1`,
		StatisticsMinute.Milliseconds(), before.UnixMilli()).Scan(&tenant, &subscription, &start)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	hour := time.UnixMilli(start).Truncate(StatisticsHour)
	sum, minutes, err := takeCounts(ctx, tx, tenant, subscription, hour)
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO statistics (tenant, subscription_id, start_ms, length_ms, counts) VALUES ($1, $2, $3, $4, $5)",
		tenant, subscription, hour.UnixMilli(), StatisticsHour.Milliseconds(), sum.encode())
	return minutes, err
}

// takeCounts removes all rows of an hour and returns their sum.
func takeCounts(ctx context.Context, tx *sql.Tx, tenant, subscription string, hour time.Time) (sum *Counts, minutes int64, err error) {
	rows, err := tx.QueryContext(ctx, `DELETE FROM statistics
		WHERE tenant = $1 AND subscription_id = $2 AND start_ms >= $3 AND start_ms < $4 RETURNING length_ms, counts`,
		tenant, subscription, hour.UnixMilli(), hour.Add(StatisticsHour).UnixMilli())
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	sum = &Counts{}
	for rows.Next() {
		var length int64
		var data []byte
		if err := rows.Scan(&length, &data); err != nil {
			return nil, 0, err
		}
		counts, err := decodeCounts(data)
		if err != nil {
			return nil, 0, err
		}
		sum.Add(counts)
		if length == StatisticsMinute.Milliseconds() {
			minutes++
		}
	}
	return sum, minutes, rows.Err()
}

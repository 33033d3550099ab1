package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
)

// How SQLite is used.
const (
	// sqliteReaders bounds the connections that read, each with a page cache
	// of sqliteCacheBytes. Reads beyond them wait.
	sqliteReaders = 4
	// sqliteCacheBytes bounds the pages that a connection keeps.
	sqliteCacheBytes = 16 << 20
	// sqliteBusyTimeout is how long a statement waits for another process
	// that has the file, a backup for instance.
	sqliteBusyTimeout = 10 * time.Second
	// sqliteCheckpointPages is how many pages of 4 KiB the journal takes
	// before they are folded into the file. Few pages are written twice.
	sqliteCheckpointPages = 4096
	// sqlitePeriod is how exactly the age of rows is known to what removes
	// them.
	sqlitePeriod = time.Hour
	// insertRows is how many rows one statement inserts while there are that
	// many. More make it no faster.
	insertRows = 32
)

// InMemory is the path of a database that is gone once it is closed.
const InMemory = ":memory:"

// SQLite is a Store in a single file, for a single process.
type SQLite struct {
	queries
	writer     *sql.DB // of one connection: SQLite has one writer at a time
	stands     *sql.Stmt
	moves      *sql.Stmt
	events     insert
	deliveries insert
	attempts   insert
	counts     insert
	count      *sql.Stmt // reads the counts of a minute
	calendars  calendars
}

var _ Store = (*SQLite)(nil)

// OpenSQLite opens the history in the file path, and creates it if there is
// none. A file written by a newer program is refused.
//
// The journal is a write-ahead log, so readers and the writer do not wait for
// one another, and it is synchronized at checkpoints only: a power failure can
// take back the last batches, each whole and with its position, and they are
// then read from the partitions' logs again.
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	s, err := openSQLite(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("opening history %s: %w", path, err)
	}
	return s, nil
}

func openSQLite(ctx context.Context, path string) (_ *SQLite, err error) {
	s := &SQLite{queries: queries{tables: sqliteTables()}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.writer, err = openPool(path, 1, "_txlock=immediate"); err != nil {
		return nil, err
	}
	if err := sqliteSchema().migrate(ctx, s.writer); err != nil {
		return nil, err
	}
	if s.stands, err = s.writer.PrepareContext(ctx, selectPosition); err != nil {
		return nil, fmt.Errorf("preparing statement: %w", err)
	}
	if s.moves, err = s.writer.PrepareContext(ctx, upsertPosition); err != nil {
		return nil, fmt.Errorf("preparing statement: %w", err)
	}
	if s.events, err = prepareInsert(ctx, s.writer, insertEvent); err != nil {
		return nil, err
	}
	if s.deliveries, err = prepareInsert(ctx, s.writer, insertDelivery); err != nil {
		return nil, err
	}
	if s.attempts, err = prepareInsert(ctx, s.writer, insertRun); err != nil {
		return nil, err
	}
	if s.counts, err = prepareInsert(ctx, s.writer, insertCounts); err != nil {
		return nil, err
	}
	if s.count, err = s.writer.PrepareContext(ctx, selectCounts); err != nil {
		return nil, fmt.Errorf("preparing statement: %w", err)
	}
	if path == InMemory { // which only the connection that made it can see
		s.db = s.writer
		return s, nil
	}
	if s.db, err = openPool(path, sqliteReaders, "_pragma=query_only(1)"); err != nil {
		return nil, err
	}
	return s, nil
}

func sqliteTables() tables {
	return tables{
		deliveries:  "deliveries LEFT JOIN events USING (tenant, partition, sequence, idx)",
		eventsFirst: "events CROSS JOIN deliveries USING (tenant, partition, sequence, idx)", // CROSS keeps the order
		passingType: "+type",
		payloads:    "events",
		expired:     "data_expired",
	}
}

// openPool returns connections to the file path, each made when it is needed.
func openPool(path string, connections int, parameter string) (*sql.DB, error) {
	name := "file:" + InMemory
	if path != InMemory {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		name = (&url.URL{Scheme: "file", Path: filepath.ToSlash(absolute)}).String()
	}
	parameters := []string{
		fmt.Sprintf("_pragma=busy_timeout(%d)", sqliteBusyTimeout.Milliseconds()),
		"_pragma=journal_mode(wal)",
		"_pragma=synchronous(normal)",
		fmt.Sprintf("_pragma=wal_autocheckpoint(%d)", sqliteCheckpointPages),
		fmt.Sprintf("_pragma=cache_size(%d)", -sqliteCacheBytes>>10), // negative: in KiB
		"_pragma=temp_store(memory)",                                 // of a statement's own rollback journal too
		parameter,
	}
	connector, err := sqlite.NewConnector(name + "?" + strings.Join(parameters, "&"))
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// Sync implements Store: it writes the journal into the file, which SQLite
// syncs. A reader that holds on to an old state for long makes it fail.
func (s *SQLite) Sync(ctx context.Context) error {
	var busy, pages, moved int
	err := s.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(FULL)").Scan(&busy, &pages, &moved)
	if err != nil {
		return fmt.Errorf("syncing the history: %w", err)
	}
	if busy != 0 {
		return errors.New("syncing the history: a reader is in the way")
	}
	return nil
}

// Close implements Store. It waits for what is under way.
func (s *SQLite) Close() error {
	var errs []error
	for _, in := range []insert{s.events, s.deliveries, s.attempts, s.counts} {
		errs = append(errs, in.close())
	}
	errs = append(errs, closeAll(s.stands, s.moves))
	if s.count != nil {
		errs = append(errs, s.count.Close())
	}
	if s.db != nil && s.db != s.writer {
		errs = append(errs, s.db.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close()) // last: it folds the journal into the file
	}
	return errors.Join(errs...)
}

// Write implements Store.
func (s *SQLite) Write(ctx context.Context, batch Batch) error {
	if err := s.write(ctx, batch); err != nil {
		return fmt.Errorf("writing records %d to %d of partition %d: %w", batch.Prev+1, batch.Sequence, batch.Partition, err)
	}
	return nil
}

func (s *SQLite) write(ctx context.Context, batch Batch) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer rollback(tx)

	stands, err := scanPosition(tx.StmtContext(ctx, s.stands).QueryRowContext(ctx, batch.Partition)) //nolint:sqlclosecheck // ends with tx
	if err != nil {
		return err
	}
	if stands != batch.Prev || batch.Sequence <= batch.Prev {
		return fmt.Errorf("%w: it stands at %d", ErrPosition, stands)
	}
	if err := insertAll(ctx, tx, s.events, batch.Events, eventValues); err != nil {
		return err
	}
	if err := insertAll(ctx, tx, s.deliveries, latest(batch.Deliveries), deliveryValues); err != nil {
		return err
	}
	runs, err := batch.runs()
	if err != nil {
		return err
	}
	if err := insertAll(ctx, tx, s.attempts, runs, runValues); err != nil {
		return err
	}
	if err := s.addCounts(ctx, tx, batch.count()); err != nil {
		return fmt.Errorf("adding to the statistics: %w", err)
	}
	calendar, err := s.extendCalendar(ctx, tx, batch)
	if err != nil {
		return fmt.Errorf("writing the calendar: %w", err)
	}
	if _, err := tx.StmtContext(ctx, s.moves).ExecContext(ctx, batch.Partition, integer(batch.Sequence), integer(batch.Floor)); err != nil { //nolint:sqlclosecheck // ends with tx
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.calendars.keep(batch, calendar)
	return nil
}

// addCounts adds to the statistics.
func (s *SQLite) addCounts(ctx context.Context, tx *sql.Tx, counts map[countsKey]*Counts) error {
	keys := sortedKeys(counts)
	before := tx.StmtContext(ctx, s.count) //nolint:sqlclosecheck // ends with tx
	for _, key := range keys {
		var data []byte
		err := before.QueryRowContext(ctx, key.tenant, key.subscriptionID, key.start, StatisticsMinute.Milliseconds()).Scan(&data)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		had, err := decodeCounts(data)
		if err != nil {
			return err
		}
		counts[key].Add(had)
	}
	return insertAll(ctx, tx, s.counts, keys, func(args []any, key *countsKey) ([]any, error) {
		return append(args, key.tenant, key.subscriptionID, key.start, StatisticsMinute.Milliseconds(), counts[*key].encode()), nil
	})
}

// extendCalendar adds to a calendar what a batch brings.
func (s *SQLite) extendCalendar(ctx context.Context, tx *sql.Tx, batch Batch) (calendar, error) {
	old, known := s.calendars.before(batch)
	if !known {
		var err error
		if old, err = loadSQLiteCalendar(ctx, tx, batch.Partition); err != nil {
			return nil, err
		}
	}
	calendar := old.extend(batch, sqlitePeriod, time.Now())
	for _, period := range calendar[len(old):] {
		if _, err := tx.ExecContext(ctx, "INSERT INTO calendar (partition, first_sequence, start_ms) VALUES ($1, $2, $3)",
			batch.Partition, integer(period.first), period.start.UnixMilli()); err != nil {
			return nil, err
		}
	}
	return calendar, nil
}

func loadSQLiteCalendar(ctx context.Context, tx *sql.Tx, partition int) (c calendar, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT first_sequence, start_ms FROM calendar WHERE partition = $1 ORDER BY first_sequence", partition)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var first, start int64
		if err := rows.Scan(&first, &start); err != nil {
			return nil, err
		}
		c = append(c, period{first: uint64(first), start: time.UnixMilli(start).UTC()}) //nolint:gosec // the inverse of integer
	}
	return c, rows.Err()
}

// latest returns the last row of each key. A delivery often begins and ends
// in one batch, and only the end is worth writing.
func latest(rows []DeliveryRow) []DeliveryRow {
	index := make(map[DeliveryKey]int, len(rows))
	kept := make([]DeliveryRow, 0, len(rows))
	for _, row := range rows {
		if i, ok := index[row.Key]; ok {
			kept[i] = row
			continue
		}
		index[row.Key] = len(kept)
		kept = append(kept, row)
	}
	return kept
}

// The statements that write.
const (
	upsertPosition = `INSERT INTO positions (partition, sequence, floor) VALUES (?, ?, ?)
		ON CONFLICT (partition) DO UPDATE SET sequence = excluded.sequence, floor = max(floor, excluded.floor)`

	selectCounts = `SELECT counts FROM statistics WHERE tenant = $1 AND subscription_id = $2 AND start_ms = $3 AND length_ms = $4`
	insertCounts = `INSERT OR REPLACE INTO statistics (tenant, subscription_id, start_ms, length_ms, counts) VALUES (?, ?, ?, ?, ?)`

	// An event is written once: the position stands behind it.
	insertEvent = `INSERT INTO events
		(tenant, publish_ms, partition, sequence, idx, type, event_id, trace_id, event, data)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	// subscription_id follows from the key; setting it would write its index
	// anew.
	insertDelivery = `INSERT INTO deliveries
		(tenant, partition, sequence, idx, subscription, subscription_id, created_ms, state, attempts,
		next_attempt_ms, ended_ms, last_status, last_error_class)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET
		created_ms = excluded.created_ms, state = excluded.state, attempts = excluded.attempts,
		next_attempt_ms = excluded.next_attempt_ms, ended_ms = excluded.ended_ms,
		last_status = excluded.last_status, last_error_class = excluded.last_error_class`

	insertRun = `INSERT INTO attempt_runs (tenant, partition, sequence, first_idx, batch, attempts) VALUES (?, ?, ?, ?, ?, ?)`
)

// insert writes rows of one table, insertRows at a time while there are that
// many: the call costs more than the row.
type insert struct {
	one, many *sql.Stmt
}

// prepareInsert makes a statement that inserts one row, and the same of
// insertRows rows. Its places are plain question marks, since SQLite looks up
// those with numbers by name.
func prepareInsert(ctx context.Context, db *sql.DB, statement string) (in insert, err error) {
	start := strings.Index(statement, "(?")
	end := start + strings.Index(statement[start:], ")") + 1
	rows := statement[start:end] + strings.Repeat(", "+statement[start:end], insertRows-1)
	if in.one, err = db.PrepareContext(ctx, statement); err != nil {
		return in, fmt.Errorf("preparing statement: %w", err)
	}
	if in.many, err = db.PrepareContext(ctx, statement[:start]+rows+statement[end:]); err != nil {
		return in, fmt.Errorf("preparing statement: %w", err)
	}
	return in, nil
}

// close releases the statements that were made.
func (in insert) close() error { return closeAll(in.one, in.many) }

// closeAll releases those of the statements that were made.
func closeAll(statements ...*sql.Stmt) error {
	var errs []error
	for _, statement := range statements {
		if statement != nil {
			errs = append(errs, statement.Close())
		}
	}
	return errors.Join(errs...)
}

// insertAll writes rows in their order. values appends one row's values, each of
// a type that a driver takes: database/sql turns others into these by
// reflection. When ctx ends the transaction does; the driver would start a
// goroutine for each statement to see to that.
func insertAll[R any](ctx context.Context, tx *sql.Tx, into insert, rows []R, values func([]any, *R) ([]any, error)) (err error) {
	var args []any
	ctx = context.WithoutCancel(ctx)
	for len(rows) > 0 {
		statement, n := into.one, 1
		if len(rows) >= insertRows {
			statement, n = into.many, insertRows
		}
		args = args[:0]
		for i := range n {
			if args, err = values(args, &rows[i]); err != nil {
				return err
			}
		}
		if _, err := tx.StmtContext(ctx, statement).ExecContext(ctx, args...); err != nil { //nolint:sqlclosecheck // ends with tx
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func eventValues(args []any, row *EventRow) ([]any, error) {
	encoded, err := encodeEvent(row.Event)
	if err != nil {
		return nil, fmt.Errorf("encoding event %q: %w", row.Event.Id, err)
	}
	return append(args, row.Tenant, row.Event.PublishTime.AsTime().UnixMilli(),
		int64(row.Key.Partition), integer(row.Key.Sequence), int64(row.Key.Index),
		row.Event.Type, row.Event.Id, traceOf(row.Event), encoded, blob(row.Event.Data)), nil
}

func deliveryValues(args []any, row *DeliveryRow) ([]any, error) {
	return append(appendKey(args, row.Tenant, row.Key), row.SubscriptionID, millis(row.Created), int64(row.State),
		int64(row.Attempts), millis(row.NextAttempt), millis(row.Ended), int64(row.LastStatus), row.LastErrorClass), nil
}

func runValues(args []any, r *run) ([]any, error) {
	return append(args, r.tenant, int64(r.event.Partition), integer(r.event.Sequence), int64(r.event.Index),
		integer(r.sequence), r.attempts), nil
}

func appendKey(args []any, tenant string, key DeliveryKey) []any {
	return append(args, tenant, int64(key.Partition), integer(key.Sequence), int64(key.Index), integer(key.Subscription))
}

// blob returns data as SQL has it: empty is not NULL.
func blob(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

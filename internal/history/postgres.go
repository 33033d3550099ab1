package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Defaults of PostgresConfig.
const (
	DefaultPostgresReaders          = 8
	DefaultPostgresWriters          = 4
	DefaultPostgresConnectTimeout   = 10 * time.Second
	DefaultPostgresStatementTimeout = 30 * time.Second
)

// How PostgreSQL is used.
const (
	// postgresSchemaName is the schema of the tables if the URL names none.
	postgresSchemaName = "fanfare"
	// postgresVersion is the oldest server that will do, as it counts: 14.
	postgresVersion = 14_00_00
	// postgresDay is the time that one partition of a table holds.
	postgresDay = 24 * time.Hour
	// postgresDaysAhead is how many days after one that is written to have
	// their partitions too, so that nobody waits for them at midnight.
	postgresDaysAhead = 2
	// postgresKeepAlive is how long a connection is silent before the kernel
	// asks whether the server is still there.
	postgresKeepAlive = 15 * time.Second
)

// PostgresConfig says how a database is used. The zero value is the default.
type PostgresConfig struct {
	// Readers and Writers bound the connections. What needs one more waits.
	// Each partition that is led here writes with one at a time.
	Readers, Writers int
	// ConnectTimeout bounds each try to connect, StatementTimeout each
	// statement.
	ConnectTimeout, StatementTimeout time.Duration
}

func (c PostgresConfig) validate() error {
	switch {
	case c.Readers < 0:
		return fmt.Errorf("readers is %d; it cannot be negative", c.Readers)
	case c.Writers < 0:
		return fmt.Errorf("writers is %d; it cannot be negative", c.Writers)
	case c.ConnectTimeout < 0:
		return fmt.Errorf("connect timeout is %v; it cannot be negative", c.ConnectTimeout)
	case c.StatementTimeout < 0:
		return fmt.Errorf("statement timeout is %v; it cannot be negative", c.StatementTimeout)
	}
	return nil
}

// Postgres is a Store in a PostgreSQL database, which all coordinators share.
// A connection that breaks is made anew when the next one is needed.
type Postgres struct {
	queries
	writer, reader *pgxpool.Pool
	writerDB       *sql.DB       // writer, for what is the same for every engine
	timeout        time.Duration // of a statement

	calendars calendars

	mu   sync.Mutex
	days map[time.Time]bool // days that have partitions, as far as is known; guarded by mu
}

var _ Store = (*Postgres)(nil)

// OpenPostgres opens the history in the database of a URL or a keyword/value
// string, as libpq takes them: sslmode, sslrootcert, target_session_attrs and
// the like included. Its tables are in the schema `fanfare`, or in the one that
// the parameter search_path names, and are made or brought up to date first.
// Tables of a newer program, and servers older than PostgreSQL 14, are refused.
//
// Commits do not wait for the disk: a crash of the server can take back the
// last batches, each whole and with its position, and they are then read from
// the partitions' logs again.
func OpenPostgres(ctx context.Context, url string, config PostgresConfig) (*Postgres, error) {
	p, err := openPostgres(ctx, url, config)
	if err != nil {
		return nil, fmt.Errorf("opening history in PostgreSQL: %w", err)
	}
	return p, nil
}

func openPostgres(ctx context.Context, url string, config PostgresConfig) (_ *Postgres, err error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	p := &Postgres{
		timeout: cmp.Or(config.StatementTimeout, DefaultPostgresStatementTimeout),
		days:    make(map[time.Time]bool),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	// What is written is found by key, always: the planner, which may believe
	// that a table that is filling up is still empty, must not walk through it.
	p.writer, err = config.pool(ctx, url, cmp.Or(config.Writers, DefaultPostgresWriters), map[string]string{
		"synchronous_commit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
	})
	if err != nil {
		return nil, err
	}
	p.writerDB = stdlib.OpenDBFromPool(p.writer)
	// Plans are made for the values: which days and which states a list needs
	// is worth more than the time it takes to plan.
	p.reader, err = config.pool(ctx, url, cmp.Or(config.Readers, DefaultPostgresReaders), map[string]string{
		"plan_cache_mode": "force_custom_plan", "default_transaction_read_only": "on",
	})
	if err != nil {
		return nil, err
	}
	p.queries = queries{db: stdlib.OpenDBFromPool(p.reader), tables: postgresTables()}
	return p, p.migrate(ctx)
}

// pool returns connections, each made when it is needed.
func (c PostgresConfig) pool(ctx context.Context, url string, connections int, settings map[string]string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(min(connections, 1000)) //nolint:gosec // bounded
	connect := config.ConnConfig
	connect.ConnectTimeout = cmp.Or(c.ConnectTimeout, DefaultPostgresConnectTimeout)
	connect.DialFunc = (&net.Dialer{
		Timeout:   connect.ConnectTimeout,
		KeepAlive: postgresKeepAlive,
	}).DialContext
	timeout := cmp.Or(c.StatementTimeout, DefaultPostgresStatementTimeout)
	defaults := map[string]string{
		"application_name":                    "fanfare",
		"search_path":                         postgresSchemaName,
		"statement_timeout":                   milliseconds(timeout),
		"idle_in_transaction_session_timeout": milliseconds(2 * timeout),
	}
	for _, settings := range []map[string]string{defaults, settings} {
		for name, value := range settings {
			if connect.RuntimeParams[name] == "" {
				connect.RuntimeParams[name] = value
			}
		}
	}
	return pgxpool.NewWithConfig(ctx, config)
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10)
}

func postgresTables() tables {
	return tables{
		deliveries:  "deliveries LEFT JOIN events USING (day, tenant, partition, sequence, idx)",
		eventsFirst: "events JOIN deliveries USING (day, tenant, partition, sequence, idx)",
		passingType: "type", // the planner knows how common it is
		payloads:    "events LEFT JOIN payloads USING (day, tenant, partition, sequence, idx)",
		expired:     "data IS NULL",
	}
}

// migrate checks the server and makes its tables.
func (p *Postgres) migrate(ctx context.Context) error {
	var version int
	if err := p.writer.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version < postgresVersion {
		return fmt.Errorf("the server has version %d, which is older than %d", version, postgresVersion)
	}
	name, _, _ := strings.Cut(p.writer.Config().ConnConfig.RuntimeParams["search_path"], ",")
	name = strings.Trim(name, ` "`)
	var exists bool
	if err := p.writer.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", name).Scan(&exists); err != nil {
		return err
	}
	if !exists { // asked first, since it may be that only another user may make it
		name = pgx.Identifier{name}.Sanitize()
		if _, err := p.writer.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+name); err != nil && codeOf(err) != uniqueViolation {
			return fmt.Errorf("creating schema %s: %w", name, err)
		}
	}
	return postgresSchema().migrate(ctx, p.writerDB)
}

// Codes of errors that are looked at.
const (
	uniqueViolation = "23505"
	checkViolation  = "23514" // no partition of a table is meant for a row
)

// codeOf returns the code of an error that the server reports, or nothing.
func codeOf(err error) string {
	if reported, ok := errors.AsType[*pgconn.PgError](err); ok {
		return reported.Code
	}
	return ""
}

// Close implements Store. It waits for what is under way.
func (p *Postgres) Close() (err error) {
	for _, db := range []*sql.DB{p.db, p.writerDB} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	for _, pool := range []*pgxpool.Pool{p.reader, p.writer} {
		if pool != nil {
			pool.Close()
		}
	}
	return err
}

// Sync implements Store: a commit that waits for the disk waits for all that
// came before it.
func (p *Postgres) Sync(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, p.writer, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE synced SET at = now()")
		return err
	})
	if err != nil {
		return fmt.Errorf("syncing the history: %w", err)
	}
	return nil
}

// Write implements Store.
func (p *Postgres) Write(ctx context.Context, batch Batch) error {
	err := p.write(ctx, batch)
	if codeOf(err) == checkViolation { // another coordinator has dropped the day
		p.forgetDays()
		err = p.write(ctx, batch)
	}
	if err != nil {
		return fmt.Errorf("writing records %d to %d of partition %d: %w", batch.Prev+1, batch.Sequence, batch.Partition, err)
	}
	return nil
}

func (p *Postgres) write(ctx context.Context, batch Batch) error {
	tx, err := p.writer.Begin(ctx)
	if err != nil {
		return err
	}
	// What was not committed is gone with the connection, if it cannot be
	// rolled back.
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
		defer cancel()
		_ = tx.Rollback(ending)
	}()

	w := postgresWrite{tx: tx, batch: batch}
	if err := w.takePosition(ctx); err != nil {
		return err
	}
	if err := w.openCalendar(ctx, &p.calendars); err != nil {
		return err
	}
	made, err := w.makeDays(ctx, p.knownDays())
	if err != nil {
		return err
	}
	if err := w.writeRows(ctx); err != nil {
		return err
	}
	// To break off now would leave it open whether the batch was written.
	committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	if err := tx.Commit(committing); err != nil {
		return err
	}
	p.calendars.keep(batch, w.calendar)
	p.addDays(made)
	return nil
}

func (p *Postgres) knownDays() map[time.Time]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.days)
}

func (p *Postgres) addDays(days []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, day := range days {
		p.days[day] = true
	}
}

func (p *Postgres) forgetDays() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.days)
}

// postgresWrite is the transaction of one batch.
type postgresWrite struct {
	tx       pgx.Tx
	batch    Batch
	calendar calendar
}

// takePosition moves the position to the end of the batch, or returns
// ErrPosition. Until the transaction ends nobody else can move it.
func (w *postgresWrite) takePosition(ctx context.Context) error {
	if w.batch.Sequence > w.batch.Prev {
		statement := "UPDATE positions SET sequence = $2, floor = greatest(floor, $4) WHERE partition = $1 AND sequence = $3"
		if w.batch.Prev == 0 {
			statement = `INSERT INTO positions (partition, sequence, floor) VALUES ($1, $2, $4)
				ON CONFLICT (partition) DO UPDATE SET sequence = excluded.sequence WHERE positions.sequence = $3`
		}
		tag, err := w.tx.Exec(ctx, statement, w.batch.Partition, integer(w.batch.Sequence), integer(w.batch.Prev), integer(w.batch.Floor))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 1 {
			return nil
		}
	}
	var stands int64
	if err := w.tx.QueryRow(ctx, selectPosition, w.batch.Partition).Scan(&stands); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return fmt.Errorf("%w: it stands at %d", ErrPosition, stands)
}

// openCalendar finds the calendar and adds to it what the batch brings.
func (w *postgresWrite) openCalendar(ctx context.Context, calendars *calendars) (err error) {
	old, known := calendars.before(w.batch)
	if !known {
		if old, err = loadCalendar(ctx, w.tx, w.batch.Partition); err != nil {
			return fmt.Errorf("reading the calendar: %w", err)
		}
	}
	w.calendar = old.extend(w.batch, postgresDay, time.Now())
	for _, period := range w.calendar[len(old):] {
		_, err := w.tx.Exec(ctx, "INSERT INTO calendar (partition, first_sequence, day) VALUES ($1, $2, $3)",
			w.batch.Partition, integer(period.first), period.start)
		if err != nil {
			return fmt.Errorf("writing the calendar: %w", err)
		}
	}
	return nil
}

func loadCalendar(ctx context.Context, tx pgx.Tx, partition int) (calendar, error) {
	rows, err := tx.Query(ctx, "SELECT first_sequence, day FROM calendar WHERE partition = $1 ORDER BY first_sequence", partition)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p period, err error) {
		var first int64
		err = row.Scan(&first, &p.start)
		p.first = uint64(first) //nolint:gosec // the inverse of integer
		return p, err
	})
}

// makeDays makes the partitions of the days that the batch writes to, and of
// some that follow, unless they are known. It returns those that are there now
// but were not known.
func (w *postgresWrite) makeDays(ctx context.Context, known map[time.Time]bool) ([]time.Time, error) {
	need := make(map[time.Time]bool)
	for _, period := range w.periods() {
		for ahead := range postgresDaysAhead + 1 {
			if day := period.AddDate(0, 0, ahead); !known[day] {
				need[day] = true
			}
		}
	}
	days := slices.SortedFunc(maps.Keys(need), time.Time.Compare)
	if len(days) == 0 {
		return nil, nil
	}
	if _, err := w.tx.Exec(ctx, lockDays); err != nil {
		return nil, fmt.Errorf("waiting to make partitions: %w", err)
	}
	for _, day := range days {
		for _, table := range dailyTables() {
			if err := makeDay(ctx, w.tx, table, day); err != nil {
				return nil, fmt.Errorf("making a partition of %s: %w", table, err)
			}
		}
	}
	return days, nil
}

// periods returns the days of all rows of the batch.
func (w *postgresWrite) periods() []time.Time {
	days := make(map[time.Time]bool)
	for i := range w.batch.Events {
		days[w.calendar.at(w.batch.Events[i].Key.Sequence)] = true
	}
	for i := range w.batch.Deliveries {
		days[w.calendar.at(w.batch.Deliveries[i].Key.Sequence)] = true
	}
	for i := range w.batch.Attempts {
		days[w.calendar.at(w.batch.Attempts[i].Key.Sequence)] = true
	}
	return slices.Collect(maps.Keys(days))
}

// lockDays has those who make or drop partitions take turns.
const lockDays = "SELECT pg_advisory_xact_lock(hashtext('fanfare days'), hashtext(current_schema()))"

// dailyTables returns the tables that have a partition for each day.
func dailyTables() []string {
	return []string{"events", "payloads", "ended_deliveries", "attempts"}
}

// dayTable returns the name of a day's partition.
func dayTable(table string, day time.Time) string {
	return table + "_" + day.Format("20060102")
}

// makeDay makes a day's partition of a table, unless it is there. It is made
// apart and attached, which, unlike making it in its place, neither waits for
// readers nor keeps them out.
func makeDay(ctx context.Context, tx pgx.Tx, table string, day time.Time) error {
	name := dayTable(table, day)
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&exists); err != nil || exists {
		return err
	}
	const date = "2006-01-02"
	_, err := tx.Exec(ctx, fmt.Sprintf(
		"CREATE TABLE %[2]s (LIKE %[1]s INCLUDING DEFAULTS); ALTER TABLE %[1]s ATTACH PARTITION %[2]s FOR VALUES FROM ('%[3]s') TO ('%[4]s')",
		table, name, day.Format(date), day.AddDate(0, 0, 1).Format(date)))
	return err
}

// writeRows writes all rows of the batch.
func (w *postgresWrite) writeRows(ctx context.Context) error {
	if err := w.copyEvents(ctx); err != nil {
		return fmt.Errorf("writing events: %w", err)
	}
	if err := w.writeDeliveries(ctx); err != nil {
		return fmt.Errorf("writing deliveries: %w", err)
	}
	if err := w.writeAttempts(ctx); err != nil {
		return fmt.Errorf("writing attempts: %w", err)
	}
	if err := w.addCounts(ctx, w.batch.count()); err != nil {
		return fmt.Errorf("adding to the statistics: %w", err)
	}
	return nil
}

// addCounts adds to the statistics. What is there is locked: Expire makes hours
// of minutes.
func (w *postgresWrite) addCounts(ctx context.Context, counts map[countsKey]*Counts) error {
	if len(counts) == 0 {
		return nil
	}
	keys := sortedKeys(counts)
	values := make([][]any, len(keys))
	for i, key := range keys {
		values[i] = []any{key.tenant, key.subscriptionID, key.start}
	}
	columns := unnested(values)
	rows, err := w.tx.Query(ctx, `SELECT tenant, subscription_id, start_ms, counts FROM statistics
		JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS k (tenant, subscription_id, start_ms) USING (tenant, subscription_id, start_ms)
		WHERE length_ms = $4 FOR UPDATE OF statistics`, append(slices.Clone(columns), StatisticsMinute.Milliseconds())...)
	if err != nil {
		return err
	}
	var key countsKey
	var data []byte
	if _, err := pgx.ForEachRow(rows, []any{&key.tenant, &key.subscriptionID, &key.start, &data}, func() error {
		had, err := decodeCounts(data)
		if err == nil {
			counts[key].Add(had)
		}
		return err
	}); err != nil {
		return err
	}
	encoded := make([][]byte, len(keys))
	for i, key := range keys {
		encoded[i] = counts[key].encode()
	}
	_, err = w.tx.Exec(ctx, `INSERT INTO statistics (tenant, subscription_id, start_ms, length_ms, counts)
		SELECT tenant, subscription_id, start_ms, $5, counts FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[])
		AS k (tenant, subscription_id, start_ms, counts)
		ON CONFLICT (tenant, subscription_id, start_ms, length_ms) DO UPDATE SET counts = excluded.counts`,
		append(columns, encoded, StatisticsMinute.Milliseconds())...)
	return err
}

// copyEvents writes the events, each of which comes once: the position stands
// behind it.
func (w *postgresWrite) copyEvents(ctx context.Context) error {
	events := make([][]any, 0, len(w.batch.Events))
	payloads := make([][]any, 0, len(w.batch.Events))
	for i := range w.batch.Events {
		row := &w.batch.Events[i]
		encoded, err := encodeEvent(row.Event)
		if err != nil {
			return fmt.Errorf("encoding event %q: %w", row.Event.Id, err)
		}
		day := w.calendar.at(row.Key.Sequence)
		events = append(events, []any{
			day, row.Tenant, int64(row.Key.Partition), integer(row.Key.Sequence), int64(row.Key.Index),
			row.Event.PublishTime.AsTime().UnixMilli(), clean(row.Event.Type), clean(row.Event.Id), traceOf(row.Event), encoded,
		})
		payloads = append(payloads, []any{
			day, row.Tenant, int64(row.Key.Partition), integer(row.Key.Sequence), int64(row.Key.Index), blob(row.Event.Data),
		})
	}
	if err := w.copy(ctx, "events", []string{
		"day", "tenant", "partition", "sequence", "idx", "publish_ms", "type", "event_id", "trace_id", "event",
	}, events); err != nil {
		return err
	}
	return w.copy(ctx, "payloads", []string{"day", "tenant", "partition", "sequence", "idx", "data"}, payloads)
}

func (w *postgresWrite) copy(ctx context.Context, table string, columns []string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	_, err := w.tx.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromRows(rows))
	return err
}

// writeDeliveries takes away what there is of the deliveries, and writes them
// into the table where each now belongs.
func (w *postgresWrite) writeDeliveries(ctx context.Context) error {
	rows := latest(w.batch.Deliveries)
	if err := w.deleteDeliveries(ctx, rows); err != nil {
		return err
	}
	var pending, ended [][]any
	for i := range rows {
		row := &rows[i]
		values := append(w.key(row.Tenant, row.Key), clean(row.SubscriptionID), millis(row.Created), int64(row.Attempts),
			int64(row.LastStatus), clean(row.LastErrorClass))
		if row.State == fanfarev1.Delivery_PENDING {
			pending = append(pending, append(values, millis(row.NextAttempt)))
		} else {
			ended = append(ended, append(values, int64(row.State), millis(row.Ended)))
		}
	}
	columns := slices.Concat([]string{"day", "tenant"}, deliveryKey(),
		[]string{"subscription_id", "created_ms", "attempts", "last_status", "last_error_class"})
	if err := w.copy(ctx, "pending_deliveries", append(columns, "next_attempt_ms"), pending); err != nil {
		return err
	}
	return w.copy(ctx, "ended_deliveries", append(columns, "state", "ended_ms"), ended)
}

// key returns the values of a day, a tenant and a delivery's key.
func (w *postgresWrite) key(tenant string, key DeliveryKey) []any {
	return append(make([]any, 0, 16), w.calendar.at(key.Sequence), tenant,
		int64(key.Partition), integer(key.Sequence), int64(key.Index), integer(key.Subscription))
}

// deleteDeliveries deletes the rows of deliveries, of those that can have one:
// before this batch there was none of an event that it brings. Nearly all of
// them are pending.
func (w *postgresWrite) deleteDeliveries(ctx context.Context, rows []DeliveryRow) error {
	var keys [][]any
	for i := range rows {
		if rows[i].Key.Sequence <= w.batch.Prev {
			keys = append(keys, w.key(rows[i].Tenant, rows[i].Key))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	columns := unnested(keys)
	tag, err := w.tx.Exec(ctx, `DELETE FROM pending_deliveries d
		USING unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS k (tenant, partition, sequence, idx, subscription)
		WHERE (d.tenant, d.partition, d.sequence, d.idx, d.subscription) = (k.tenant, k.partition, k.sequence, k.idx, k.subscription)`,
		columns[1:]...)
	if err != nil || tag.RowsAffected() == int64(len(keys)) {
		return err
	}
	_, err = w.tx.Exec(ctx, `DELETE FROM ended_deliveries d
		USING unnest($1::date[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS k (day, tenant, partition, sequence, idx, subscription)
		WHERE (d.day, d.tenant, d.partition, d.sequence, d.idx, d.subscription) = (k.day, k.tenant, k.partition, k.sequence, k.idx, k.subscription)`,
		columns...)
	return err
}

// writeAttempts writes the attempts. Of an event that the batch brings there
// were none; one of an older event is written over what there may be.
func (w *postgresWrite) writeAttempts(ctx context.Context) error {
	var fresh, rest [][]any
	for _, row := range latestAttempts(w.batch.Attempts) {
		a := row.Attempt
		values := append(w.key(row.Tenant, row.Key), int64(a.Number), int64(a.Result), a.StartTime.AsTime().UnixMilli(),
			a.Latency.AsDuration().Microseconds(), int64(a.StatusCode), clean(a.ErrorClass), []byte(a.Error), []byte(a.ResponseBody),
			clean(a.Worker), a.NextAttemptTime.AsTime().UnixMilli())
		if row.Key.Sequence > w.batch.Prev {
			fresh = append(fresh, values)
		} else {
			rest = append(rest, values)
		}
	}
	columns := slices.Concat([]string{"day", "tenant"}, deliveryKey(), []string{
		"number", "result", "start_ms", "latency_us", "status_code", "error_class", "error", "response_body", "worker", "next_attempt_ms",
	})
	if err := w.copy(ctx, "attempts", columns, fresh); err != nil || len(rest) == 0 {
		return err
	}
	_, err := w.tx.Exec(ctx, "INSERT INTO attempts ("+strings.Join(columns, ", ")+`)
		SELECT * FROM unnest($1::date[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
			$9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::bytea[], $14::bytea[], $15::text[], $16::bigint[])
		ON CONFLICT (tenant, partition, sequence, idx, subscription, number, day) DO UPDATE SET
		result = excluded.result, start_ms = excluded.start_ms, latency_us = excluded.latency_us, status_code = excluded.status_code,
		error_class = excluded.error_class, error = excluded.error, response_body = excluded.response_body,
		worker = excluded.worker, next_attempt_ms = excluded.next_attempt_ms`, unnested(rest)...)
	return err
}

// latestAttempts returns the last row of each attempt.
func latestAttempts(rows []AttemptRow) []AttemptRow {
	type name struct {
		key    DeliveryKey
		number int32
	}
	index := make(map[name]int, len(rows))
	kept := make([]AttemptRow, 0, len(rows))
	for _, row := range rows {
		name := name{row.Key, row.Attempt.Number}
		if i, ok := index[name]; ok {
			kept[i] = row
			continue
		}
		index[name] = len(kept)
		kept = append(kept, row)
	}
	return kept
}

// unnested turns rows into one array for each column. There is at least one
// row, and the values of a column are of one type.
func unnested(rows [][]any) []any {
	columns := make([]any, len(rows[0]))
	for i, value := range rows[0] {
		switch value.(type) {
		case int64:
			columns[i] = column[int64](rows, i)
		case string:
			columns[i] = column[string](rows, i)
		case []byte:
			columns[i] = column[[]byte](rows, i)
		case time.Time:
			columns[i] = column[time.Time](rows, i)
		}
	}
	return columns
}

func column[T any](rows [][]any, i int) []T {
	values := make([]T, len(rows))
	for n, row := range rows {
		values[n], _ = row[i].(T)
	}
	return values
}

// clean returns text that PostgreSQL takes: UTF-8 without the zero character,
// which it refuses; a batch that it refused would stop the history for good.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if strings.IndexByte(text, 0) < 0 {
		return text
	}
	return strings.ReplaceAll(text, "\x00", "\uFFFD")
}

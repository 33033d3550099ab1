-- +goose Up
-- More to search by, statistics, and what retention needs to know.

ALTER TABLE events ADD COLUMN trace_id TEXT NOT NULL DEFAULT ''; -- empty if the producer gave none
ALTER TABLE events ADD COLUMN data_expired INTEGER NOT NULL DEFAULT 0; -- 1 once data was removed

CREATE INDEX events_by_trace ON events (tenant, trace_id) WHERE trace_id <> '';
-- In the order of the deliveries, so that a list of those of one type is read
-- in order. Unique, so that the planner knows.
CREATE UNIQUE INDEX events_by_type ON events (tenant, type, partition, sequence, idx);

-- Only of what failed, which is little.
CREATE INDEX deliveries_by_status ON deliveries (tenant, last_status / 100) WHERE last_status >= 300;
CREATE INDEX deliveries_by_error ON deliveries (tenant, last_error_class) WHERE last_error_class <> '';

-- The log keeps its records from floor on: what can be replayed is not removed
-- here. The data of events before payload_floor is removed already.
ALTER TABLE positions ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE positions ADD COLUMN payload_floor INTEGER NOT NULL DEFAULT 0;

-- In which hour the records of a partition's log became durable: those from
-- first_sequence up to the next row's.
CREATE TABLE calendar (
    partition      INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    start_ms       INTEGER NOT NULL,
    PRIMARY KEY (partition, first_sequence)
) WITHOUT ROWID;

-- What happened to a subscription in a minute or, once that is some days ago,
-- in an hour. No time is in two rows: the sum of all rows is exact.
CREATE TABLE statistics (
    tenant          TEXT    NOT NULL,
    subscription_id TEXT    NOT NULL,
    start_ms        INTEGER NOT NULL,
    length_ms       INTEGER NOT NULL,
    counts          BLOB    NOT NULL, -- see Counts
    PRIMARY KEY (tenant, subscription_id, start_ms, length_ms)
) WITHOUT ROWID;
CREATE INDEX statistics_by_age ON statistics (length_ms, start_ms);

ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('events', 'events_by_trace', '1000000 100000 1'),
    ('events', 'events_by_type', '1000000 100000 10000 10000 10 1'),
    ('deliveries', 'deliveries_by_status', '100000 10000 5000'),
    ('deliveries', 'deliveries_by_error', '100000 10000 2000'),
    ('statistics', 'statistics', '1000000 100000 1000 1 1'),
    ('statistics', 'statistics_by_age', '1000000 500000 100');
ANALYZE sqlite_schema;

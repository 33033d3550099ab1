-- +goose Up
-- The history in SQLite. Times are milliseconds since 1970, 0 for none.
--
-- Every row is found through its tenant, so the tenant leads every key: the
-- primary keys are the order of the lists, and a list of a tenant's
-- deliveries needs no index beside the table.

CREATE TABLE positions (
    partition INTEGER PRIMARY KEY,
    sequence  INTEGER NOT NULL
);

-- A table with a rowid, because its rows are large: data comes last, so a
-- list does not read the pages it overflows to.
CREATE TABLE events (
    tenant     TEXT    NOT NULL,
    publish_ms INTEGER NOT NULL,
    partition  INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    idx        INTEGER NOT NULL,
    type       TEXT    NOT NULL,
    event_id   TEXT    NOT NULL,
    event      BLOB    NOT NULL, -- fanfare.v1.Event without name and data
    data       BLOB    NOT NULL
);

-- Joins deliveries to their events.
CREATE UNIQUE INDEX events_by_key ON events (tenant, partition, sequence, idx);
-- With the type, so that a list of one type passes over the others inside
-- the index.
CREATE INDEX events_newest ON events (tenant, publish_ms, partition, sequence, idx, type);
CREATE INDEX events_by_id ON events (tenant, event_id);

CREATE TABLE deliveries (
    tenant           TEXT    NOT NULL,
    partition        INTEGER NOT NULL,
    sequence         INTEGER NOT NULL,
    idx              INTEGER NOT NULL,
    subscription     INTEGER NOT NULL,
    subscription_id  TEXT    NOT NULL,
    created_ms       INTEGER NOT NULL,
    state            INTEGER NOT NULL, -- fanfare.v1.Delivery.State
    attempts         INTEGER NOT NULL,
    next_attempt_ms  INTEGER NOT NULL,
    ended_ms         INTEGER NOT NULL,
    last_status      INTEGER NOT NULL,
    last_error_class TEXT    NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, idx, subscription)
) WITHOUT ROWID;

-- Indexes of a table without rowid end with what is missing of its primary
-- key, so these too are in the order of the lists.
CREATE INDEX deliveries_by_subscription ON deliveries (tenant, subscription_id);
-- All but DELIVERED, which is nearly every row and so needs no index.
CREATE INDEX deliveries_by_state ON deliveries (tenant, state) WHERE state <> 2;

CREATE TABLE attempts (
    tenant          TEXT    NOT NULL,
    partition       INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    idx             INTEGER NOT NULL,
    subscription    INTEGER NOT NULL,
    number          INTEGER NOT NULL,
    result          INTEGER NOT NULL, -- fanfare.v1.Attempt.Result
    start_ms        INTEGER NOT NULL,
    latency_us      INTEGER NOT NULL,
    status_code     INTEGER NOT NULL,
    error_class     TEXT    NOT NULL,
    error           TEXT    NOT NULL,
    response_body   BLOB    NOT NULL,
    worker          TEXT    NOT NULL,
    next_attempt_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, idx, subscription, number)
) WITHOUT ROWID;

-- What the planner is to believe: the sizes of a history that matters, as
-- ANALYZE would find them (rows, then rows that share the first column, the
-- first two, …). Without them it takes a tenant for ten rows, and walks
-- through all of them where an index would lead to the few that are asked for.
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('events', 'events_by_key', '1000000 100000 100000 10 1'),
    ('events', 'events_newest', '1000000 100000 100 100 10 1 1'),
    ('events', 'events_by_id', '1000000 100000 1'),
    ('deliveries', 'deliveries', '10000000 1000000 1000000 100 10 1'),
    ('deliveries', 'deliveries_by_subscription', '10000000 1000000 10000'),
    ('deliveries', 'deliveries_by_state', '100000 10000 5000'),
    ('attempts', 'attempts', '10000000 1000000 1000000 100 10 1 1');
ANALYZE sqlite_schema;

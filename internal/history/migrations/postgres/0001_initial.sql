-- +goose Up
-- The history in PostgreSQL, shared by all coordinators. Times are
-- milliseconds since 1970, 0 for none, as they are in SQLite.
--
-- What grows is partitioned by day, and forgotten by dropping a day. The day
-- is that of the event: calendar tells it from the sequence of an event's
-- record, so the rows of an event and its deliveries are in one day for good,
-- whatever happens to them later.
--
-- Every row is found through its tenant, so the tenant leads every key.

-- The log keeps its records from floor on: what can be replayed is not removed
-- here.
CREATE TABLE positions (
    partition bigint PRIMARY KEY,
    sequence  bigint NOT NULL,
    floor     bigint NOT NULL
);

-- On which day the records of a partition's log became durable: those from
-- first_sequence up to the next row's.
CREATE TABLE calendar (
    partition      bigint NOT NULL,
    first_sequence bigint NOT NULL,
    day            date   NOT NULL,
    PRIMARY KEY (partition, first_sequence)
);

-- One row, which is written to have all that was written before it synced.
CREATE TABLE synced (
    one boolean     PRIMARY KEY CHECK (one),
    at  timestamptz NOT NULL
);
INSERT INTO synced VALUES (true, now());

CREATE TABLE events (
    day        date   NOT NULL,
    tenant     text   COLLATE "C" NOT NULL,
    publish_ms bigint NOT NULL,
    partition  bigint NOT NULL,
    sequence   bigint NOT NULL,
    idx        bigint NOT NULL,
    type       text   COLLATE "C" NOT NULL,
    event_id   text   COLLATE "C" NOT NULL,
    trace_id   text   COLLATE "C" NOT NULL, -- empty if the producer gave none
    event      bytea  NOT NULL, -- fanfare.v1.Event without name and data
    PRIMARY KEY (tenant, partition, sequence, idx, day)
) PARTITION BY RANGE (day);

-- With the type, so that a list of one type passes over the others inside
-- the index.
CREATE INDEX events_newest ON events (tenant, publish_ms, partition, sequence, idx, type);
-- In the order of the deliveries, so that a list of those of one type is read
-- in order.
CREATE INDEX events_by_type ON events (tenant, type, partition, sequence, idx);
CREATE INDEX events_by_id ON events (tenant, event_id);
CREATE INDEX events_by_trace ON events (tenant, trace_id) WHERE trace_id <> '';

-- The data of the events, apart because it is kept for another time.
CREATE TABLE payloads (
    day       date   NOT NULL,
    tenant    text   COLLATE "C" NOT NULL,
    partition bigint NOT NULL,
    sequence  bigint NOT NULL,
    idx       bigint NOT NULL,
    data      bytea  NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, idx, day)
) PARTITION BY RANGE (day);

-- A delivery is in one of two tables. What is pending is deleted when it ends
-- and written into the other: so what has ended is only ever added to, by
-- COPY, and no day is left full of dead rows by updates.
CREATE TABLE pending_deliveries (
    day              date   NOT NULL,
    tenant           text   COLLATE "C" NOT NULL,
    partition        bigint NOT NULL,
    sequence         bigint NOT NULL,
    idx              bigint NOT NULL,
    subscription     bigint NOT NULL,
    subscription_id  text   COLLATE "C" NOT NULL,
    created_ms       bigint NOT NULL,
    attempts         bigint NOT NULL,
    next_attempt_ms  bigint NOT NULL,
    last_status      bigint NOT NULL,
    last_error_class text   COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, idx, subscription)
) WITH (
    -- Rows come and go: dead ones are cleared away by their number, not by
    -- their share of a table that is small one minute and large the next.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX pending_by_subscription ON pending_deliveries (tenant, subscription_id, partition, sequence, idx, subscription);
CREATE INDEX pending_by_status ON pending_deliveries (tenant, (last_status / 100), partition, sequence, idx, subscription) WHERE last_status >= 300;
CREATE INDEX pending_by_error ON pending_deliveries (tenant, last_error_class, partition, sequence, idx, subscription) WHERE last_error_class <> '';

CREATE TABLE ended_deliveries (
    day              date   NOT NULL,
    tenant           text   COLLATE "C" NOT NULL,
    partition        bigint NOT NULL,
    sequence         bigint NOT NULL,
    idx              bigint NOT NULL,
    subscription     bigint NOT NULL,
    subscription_id  text   COLLATE "C" NOT NULL,
    created_ms       bigint NOT NULL,
    state            bigint NOT NULL, -- fanfare.v1.Delivery.State, never PENDING
    attempts         bigint NOT NULL,
    ended_ms         bigint NOT NULL,
    last_status      bigint NOT NULL,
    last_error_class text   COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, idx, subscription, day)
) PARTITION BY RANGE (day);
CREATE INDEX ended_by_subscription ON ended_deliveries (tenant, subscription_id, partition, sequence, idx, subscription);
-- All but what is nearly every row and so needs no index.
CREATE INDEX ended_by_state ON ended_deliveries (tenant, state, partition, sequence, idx, subscription) WHERE state <> 2;
CREATE INDEX ended_by_status ON ended_deliveries (tenant, (last_status / 100), partition, sequence, idx, subscription) WHERE last_status >= 300;
CREATE INDEX ended_by_error ON ended_deliveries (tenant, last_error_class, partition, sequence, idx, subscription) WHERE last_error_class <> '';
-- Ranges of a time. It costs next to nothing, since rows come in its order.
CREATE INDEX ended_by_time ON ended_deliveries USING brin (created_ms);

-- All deliveries.
CREATE VIEW deliveries AS
    SELECT day, tenant, partition, sequence, idx, subscription, subscription_id, created_ms, 1::bigint AS state,
        attempts, next_attempt_ms, 0::bigint AS ended_ms, last_status, last_error_class
    FROM pending_deliveries
    UNION ALL
    SELECT day, tenant, partition, sequence, idx, subscription, subscription_id, created_ms, state,
        attempts, 0::bigint AS next_attempt_ms, ended_ms, last_status, last_error_class
    FROM ended_deliveries;

CREATE TABLE attempts (
    day             date   NOT NULL,
    tenant          text   COLLATE "C" NOT NULL,
    partition       bigint NOT NULL,
    sequence        bigint NOT NULL,
    idx             bigint NOT NULL,
    subscription    bigint NOT NULL,
    number          bigint NOT NULL,
    result          bigint NOT NULL, -- fanfare.v1.Attempt.Result
    start_ms        bigint NOT NULL,
    latency_us      bigint NOT NULL,
    status_code     bigint NOT NULL,
    error_class     text   COLLATE "C" NOT NULL,
    error           bytea  NOT NULL, -- UTF-8, as response_body is: text cannot hold every character
    response_body   bytea  NOT NULL,
    worker          text   COLLATE "C" NOT NULL,
    next_attempt_ms bigint NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, idx, subscription, number, day)
) PARTITION BY RANGE (day);

-- What happened to a subscription in a minute or, once that is some days ago,
-- in an hour. No time is in two rows: the sum of all rows is exact.
CREATE TABLE statistics (
    tenant          text   COLLATE "C" NOT NULL,
    subscription_id text   COLLATE "C" NOT NULL,
    start_ms        bigint NOT NULL,
    length_ms       bigint NOT NULL,
    counts          bytea  NOT NULL, -- see Counts
    PRIMARY KEY (tenant, subscription_id, start_ms, length_ms)
) WITH (fillfactor = 70, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX statistics_by_age ON statistics (length_ms, start_ms);

-- +goose Up
-- Attempts are written in runs: see runs.go. What is in the table attempts
-- already stays there until it is too old.
CREATE TABLE attempt_runs (
    tenant    TEXT    NOT NULL,
    partition INTEGER NOT NULL,
    sequence  INTEGER NOT NULL, -- of the events' record
    first_idx INTEGER NOT NULL, -- of the first event that the run can be about
    batch     INTEGER NOT NULL, -- sequence of the record with which it was written
    attempts  BLOB    NOT NULL,
    PRIMARY KEY (tenant, partition, sequence, first_idx, batch)
) WITHOUT ROWID;

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('attempt_runs', 'attempt_runs', '1000000 100000 100000 10 2 1');
ANALYZE sqlite_schema;

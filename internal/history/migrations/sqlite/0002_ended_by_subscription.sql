-- +goose Up
-- What ended without success, of one subscription: few rows, be there millions
-- of others. Neither what is owed (1) nor what was delivered (2) is in it, so
-- a delivery that succeeds never touches it.
CREATE INDEX deliveries_ended_by_subscription ON deliveries (tenant, subscription_id, state) WHERE state > 2;

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('deliveries', 'deliveries_ended_by_subscription', '100000 10000 100 50');
ANALYZE sqlite_schema;

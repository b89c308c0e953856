-- Rows stay in recent_logs for a while and then move to Parquet files, the parts. access_logs, which
-- was the table, is a view over both from here on; the store makes it at each start.
ALTER TABLE access_logs RENAME TO recent_logs;

CREATE TABLE parts (
    name VARCHAR NOT NULL,
    rows BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    -- Times and ids of its rows, both ends included.
    first TIMESTAMP NOT NULL,
    last TIMESTAMP NOT NULL,
    least_id VARCHAR NOT NULL,
    greatest_id VARCHAR NOT NULL,
    columns VARCHAR[] NOT NULL
);

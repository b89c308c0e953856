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

-- What analytics need of each part, see queries/sums.sql; *bucket* counts hours. Written and deleted
-- in the transactions that write and delete the part's row above, so that they cannot disagree.
CREATE TABLE part_cells (
    part VARCHAR NOT NULL,
    bucket BIGINT NOT NULL,
    service_type VARCHAR,
    model VARCHAR,
    provider VARCHAR,
    failure VARCHAR,
    requests BIGINT NOT NULL,
    duration DOUBLE,
    durations BIGINT NOT NULL,
    ttft DOUBLE,
    ttfts BIGINT NOT NULL,
    cost DECIMAL(38, 10),
    priced BIGINT NOT NULL,
    input HUGEINT,
    output HUGEINT,
    cache_read HUGEINT,
    cache_write HUGEINT,
    reasoning HUGEINT
);

CREATE TABLE part_name_bins (
    part VARCHAR NOT NULL,
    service_type VARCHAR,
    model VARCHAR,
    provider VARCHAR,
    kind UTINYINT NOT NULL,
    bin SMALLINT NOT NULL,
    number BIGINT NOT NULL
);

CREATE TABLE part_time_bins (
    part VARCHAR NOT NULL,
    bucket BIGINT NOT NULL,
    kind UTINYINT NOT NULL,
    bin SMALLINT NOT NULL,
    number BIGINT NOT NULL
);

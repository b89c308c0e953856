-- What providers say of their rate limits (docs/limits.md): a row where something of it changed.
-- Written in the transaction that writes the rows of the same answers.
CREATE TABLE rate_limits (
    timestamp TIMESTAMP NOT NULL,
    provider VARCHAR,
    account VARCHAR,
    "window" VARCHAR NOT NULL,
    used DOUBLE,
    "limit" DOUBLE,
    remaining DOUBLE,
    reset TIMESTAMP,
    status VARCHAR,
    request_id VARCHAR,
    window_seconds BIGINT,
    note VARCHAR
);

-- The whole schema of a new database. /*columns*/ are those of record.RequestRecord.
-- A database that is there already is brought to this by migrations/<number>_<name>.sql, and by
-- adding the columns it has not got; both must end in the same schema.

CREATE TABLE access_logs (/*columns*/);

-- How far each segment of the journal is stored; written in the same transaction as its rows.
CREATE TABLE journal_marks (
    segment VARCHAR NOT NULL,
    position BIGINT NOT NULL,
    closed BOOLEAN NOT NULL
);

-- Figures about the journal: damaged_lines, worker_lost, record_lost, dropped:<reason>.
CREATE TABLE journal_counts (
    name VARCHAR NOT NULL,
    value BIGINT NOT NULL
);

-- The schema of the first version. A new database runs all migrations in the order of their numbers;
-- one that is there already runs those it has not seen (table schema_version), in one transaction.
-- /*columns*/ are those of record.RequestRecord; a column that a record has gained since is added
-- without a migration.

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

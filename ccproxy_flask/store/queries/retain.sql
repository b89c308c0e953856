-- The oldest rows, at most so many, of those before a time (null: of all).
DELETE FROM access_logs
WHERE rowid IN (
    SELECT rowid
    FROM access_logs
    WHERE coalesce(timestamp < ?, true)
    ORDER BY timestamp
    LIMIT ?
)

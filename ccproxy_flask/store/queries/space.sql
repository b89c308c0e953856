-- Bytes in use, and rows that take space, deleted ones too.
SELECT
    block_size * used_blocks,
    (
        SELECT coalesce(sum(count), 0)::BIGINT
        FROM pragma_storage_info('access_logs')
        WHERE column_name = 'request_id' AND segment_type = 'VARCHAR'
    )
FROM pragma_database_size()
WHERE database_name = current_database()

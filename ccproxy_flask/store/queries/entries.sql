SELECT to_json(page)::VARCHAR
FROM (
    SELECT /*columns*/
    FROM access_logs
    WHERE /*where*/
    ORDER BY /*order*/
    LIMIT ? OFFSET ?
) AS page

SELECT to_json(page)::VARCHAR
FROM (
    SELECT /*columns*/
    FROM (/*logs*/) AS logs
    WHERE /*where*/
    ORDER BY /*order*/
    LIMIT ?
) AS page

-- Sums of some rows by the values of some columns: what cost most first, then what was most often.
SELECT to_json(page)::VARCHAR
FROM (
    SELECT
        /*by*/
        count(*) AS requests,
        count(failure) AS errors,
        count(*) FILTER (failure IS NULL AND cost_usd IS NULL) AS unpriced,
        sum(cost_usd)::DOUBLE AS cost_usd,
        coalesce(sum(tokens_input), 0)::BIGINT AS tokens_input,
        coalesce(sum(tokens_output), 0)::BIGINT AS tokens_output,
        coalesce(sum(cache_read_tokens), 0)::BIGINT AS cache_read_tokens,
        coalesce(sum(cache_write_tokens), 0)::BIGINT AS cache_write_tokens,
        strftime(min(timestamp), '%Y-%m-%dT%H:%M:%S.%fZ') AS first_at,
        strftime(max(timestamp), '%Y-%m-%dT%H:%M:%S.%fZ') AS last_at
    FROM (
        SELECT *, /*failure*/ AS failure
        FROM (/*logs*/) AS logs
        WHERE /*where*/
    )
    WHERE /*known*/
    GROUP BY ALL
    ORDER BY /*order*/
    LIMIT ?
) AS page

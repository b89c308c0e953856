-- The same answer as totals.sql, for many rows: see analytics_of_many.sql.
WITH sums AS MATERIALIZED (
    SELECT
        count(*) AS requests,
        count(*) FILTER (error_type IS NULL AND status_code < 400) AS successes,
        avg(duration_ms) AS avg_ms,
        histogram(floor(ln(greatest(duration_ms, 0.001)) / ln(1.03))::SMALLINT) AS bins,
        avg(ttft_ms) AS avg_ttft,
        sum(cost_usd)::DOUBLE AS cost,
        count(cost_usd) AS priced,
        coalesce(sum(tokens_input), 0)::BIGINT AS input,
        coalesce(sum(tokens_output), 0)::BIGINT AS output,
        coalesce(sum(cache_read_tokens), 0)::BIGINT AS cache_read,
        coalesce(sum(cache_write_tokens), 0)::BIGINT AS cache_write,
        coalesce(sum(tokens_reasoning), 0)::BIGINT AS reasoning
    FROM (/*logs*/) AS logs
    WHERE /*where*/
),
bins AS (SELECT unnest(map_entries(bins)) AS entry FROM sums),
ranks AS (
    SELECT entry.key AS bin, sum(entry.value) OVER (ORDER BY entry.key) AS upto,
        sum(entry.value) OVER () AS whole
    FROM bins
),
quantiles AS (
    SELECT [
        pow(1.03, min(bin) FILTER (upto >= 0.5 * whole) + 0.5),
        pow(1.03, min(bin) FILTER (upto >= 0.95 * whole) + 0.5),
        pow(1.03, min(bin) FILTER (upto >= 0.99 * whole) + 0.5)
    ] AS quantiles
    FROM ranks
)
SELECT
    requests, successes, requests - successes, avg_ms,
    quantiles[1], quantiles[2], quantiles[3], avg_ttft,
    cost, priced, input, output, cache_read, cache_write, reasoning,
    input + output + cache_read + cache_write
FROM sums, quantiles

-- The same answer as analytics.sql, for many rows: percentiles come from counts of values by size (each
-- bin 3 % wider than the one before it), so that memory does not grow with the rows. One scan.
WITH cells AS MATERIALIZED (
    SELECT
        service_type, model, provider, failure, bucket,
        count(*) AS requests,
        sum(duration_ms) AS duration, count(duration_ms) AS durations,
        sum(ttft_ms) AS ttft, count(ttft_ms) AS ttfts,
        sum(cost_usd) AS cost, count(cost_usd) AS priced,
        sum(tokens_input) AS input, sum(tokens_output) AS output,
        sum(cache_read_tokens) AS cache_read, sum(cache_write_tokens) AS cache_write,
        sum(tokens_reasoning) AS reasoning,
        histogram(floor(ln(greatest(duration_ms, 0.001)) / ln(1.03))::SMALLINT) AS duration_bins,
        histogram(floor(ln(greatest(ttft_ms, 0.001)) / ln(1.03))::SMALLINT) AS ttft_bins
    FROM (
        SELECT
            service_type, model, provider, duration_ms, ttft_ms, cost_usd,
            tokens_input, tokens_output, cache_read_tokens, cache_write_tokens, tokens_reasoning,
            CASE
                WHEN error_type IS NULL AND status_code < 400 THEN NULL
                ELSE coalesce(error_type, 'unknown')
            END AS failure,
            epoch_us(timestamp) // (?::BIGINT * 1000000) AS bucket
        FROM (/*logs*/) AS logs
        WHERE /*where*/
    )
    GROUP BY ALL
),
entries AS (
    SELECT service_type, model, provider, failure, bucket, 0 AS kind,
        unnest(map_entries(duration_bins)) AS entry
    FROM cells
    UNION ALL
    SELECT service_type, model, provider, failure, bucket, 1 AS kind,
        unnest(map_entries(ttft_bins)) AS entry
    FROM cells
),
bins AS (
    SELECT
        grouping(service_type, model, provider, failure, bucket) AS level,
        coalesce(service_type, model, provider, failure) AS name,
        bucket, kind, entry.key AS bin, sum(entry.value) AS number
    FROM entries
    GROUP BY GROUPING SETS (
        (kind, bin), (service_type, kind, bin), (model, kind, bin), (provider, kind, bin),
        (bucket, kind, bin)
    )
),
ranks AS (
    SELECT *, sum(number) OVER (PARTITION BY level, name, bucket, kind ORDER BY bin) AS upto,
        sum(number) OVER (PARTITION BY level, name, bucket, kind) AS whole
    FROM bins
),
quantiles AS (
    SELECT level, name, bucket, kind, [
        pow(1.03, min(bin) FILTER (upto >= 0.5 * whole) + 0.5),
        pow(1.03, min(bin) FILTER (upto >= 0.95 * whole) + 0.5),
        pow(1.03, min(bin) FILTER (upto >= 0.99 * whole) + 0.5)
    ] AS shown
    FROM ranks
    GROUP BY ALL
),
sums AS (
    SELECT
        grouping(service_type, model, provider, failure, bucket) AS level,
        coalesce(service_type, model, provider, failure) AS name,
        bucket,
        sum(requests)::BIGINT AS requests,
        (coalesce(sum(requests) FILTER (failure IS NULL), 0))::BIGINT AS successes,
        sum(duration) / nullif(sum(durations), 0) AS duration,
        sum(ttft) / nullif(sum(ttfts), 0) AS ttft,
        sum(cost)::DOUBLE AS cost, sum(priced)::BIGINT AS priced,
        coalesce(sum(input), 0)::BIGINT AS input,
        coalesce(sum(output), 0)::BIGINT AS output,
        coalesce(sum(cache_read), 0)::BIGINT AS cache_read,
        coalesce(sum(cache_write), 0)::BIGINT AS cache_write,
        coalesce(sum(reasoning), 0)::BIGINT AS reasoning
    FROM cells
    GROUP BY GROUPING SETS ((), (service_type), (model), (provider), (failure), (bucket))
)
SELECT
    sums.level, sums.name, sums.bucket, requests, successes,
    duration, durations.shown, ttft, ttfts.shown,
    cost, priced, input, output, cache_read, cache_write, reasoning
FROM sums
LEFT JOIN quantiles AS durations ON durations.kind = 0 AND durations.level = sums.level
    AND durations.name IS NOT DISTINCT FROM sums.name
    AND durations.bucket IS NOT DISTINCT FROM sums.bucket
LEFT JOIN quantiles AS ttfts ON ttfts.kind = 1 AND ttfts.level = sums.level
    AND ttfts.name IS NOT DISTINCT FROM sums.name
    AND ttfts.bucket IS NOT DISTINCT FROM sums.bucket

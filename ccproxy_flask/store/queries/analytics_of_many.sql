-- The same answer as analytics.sql, for many rows, from what store/figures.py puts before it: memory does
-- not grow with the rows, and the sums of whole hours are known already.
, bins AS (
    SELECT
        grouping(service_type, model, provider) * 4 + 3 AS level,
        coalesce(service_type, model, provider) AS name,
        NULL::BIGINT AS bucket, kind, bin, sum(number) AS number
    FROM name_bins
    GROUP BY GROUPING SETS (
        (kind, bin), (service_type, kind, bin), (model, kind, bin), (provider, kind, bin)
    )
    UNION ALL
    SELECT 30 AS level, NULL AS name, bucket, kind, bin, sum(number) AS number
    FROM time_bins
    GROUP BY bucket, kind, bin
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
        coalesce(sum(requests), 0)::BIGINT AS total_requests,
        coalesce(sum(requests) FILTER (failure IS NULL), 0)::BIGINT AS total_successful_requests,
        coalesce(sum(requests) FILTER (failure IS NOT NULL), 0)::BIGINT AS total_error_requests,
        sum(duration) / nullif(sum(durations), 0) AS avg_duration_ms,
        sum(ttft) / nullif(sum(ttfts), 0) AS avg_ttft_ms,
        coalesce(sum(input), 0)::BIGINT AS total_tokens_input,
        coalesce(sum(output), 0)::BIGINT AS total_tokens_output,
        coalesce(sum(cache_read), 0)::BIGINT AS total_cache_read_tokens,
        coalesce(sum(cache_write), 0)::BIGINT AS total_cache_write_tokens,
        coalesce(sum(reasoning), 0)::BIGINT AS total_tokens_reasoning,
        sum(cost)::DOUBLE AS total_cost_usd,
        sum(cost_input)::DOUBLE AS total_cost_input_usd,
        sum(cost_cache)::DOUBLE AS total_cost_cache_usd,
        coalesce(sum(priced), 0)::BIGINT AS priced_requests,
        coalesce(sum(requests - priced) FILTER (failure IS NULL), 0)::BIGINT AS unpriced_requests
    FROM cells
    GROUP BY GROUPING SETS (
        (), (service_type), (model), (provider), (failure), (bucket), (model, bucket)
    )
)
SELECT level, name, bucket, /*names*/
FROM (
    SELECT
        sums.*,
        durations.shown[1] AS p50_duration_ms, durations.shown[2] AS p95_duration_ms,
        durations.shown[3] AS p99_duration_ms,
        ttfts.shown[1] AS p50_ttft_ms, ttfts.shown[2] AS p95_ttft_ms, ttfts.shown[3] AS p99_ttft_ms
    FROM sums
    LEFT JOIN quantiles AS durations ON durations.kind = 0 AND durations.level = sums.level
        AND durations.name IS NOT DISTINCT FROM sums.name
        AND durations.bucket IS NOT DISTINCT FROM sums.bucket
    LEFT JOIN quantiles AS ttfts ON ttfts.kind = 1 AND ttfts.level = sums.level
        AND ttfts.name IS NOT DISTINCT FROM sums.name
        AND ttfts.bucket IS NOT DISTINCT FROM sums.bucket
)

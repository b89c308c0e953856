-- What analytics need of some rows, by time: sums for each group of rows, and how many values there
-- are of each size (a bin is 3 % wider than the one before it), for percentiles. Made of three SELECTs,
-- which are used one by one for a part that is registered, and together for a question.
WITH logs AS (
    SELECT
        service_type, model, provider, duration_ms, ttft_ms, cost_usd,
        tokens_input, tokens_output, cache_read_tokens, cache_write_tokens, tokens_reasoning,
        /*failure*/ AS failure,
        epoch_us(timestamp) // (/*bucket*/::BIGINT * 1000000) AS bucket,
        floor(ln(duration_ms + greatest(0, 0.001 - duration_ms)) / ln(1.03))::SMALLINT
            AS duration_bin,
        floor(ln(ttft_ms + greatest(0, 0.001 - ttft_ms)) / ln(1.03))::SMALLINT AS ttft_bin
    FROM (/*logs*/) AS logs
    WHERE /*where*/
),
cells AS MATERIALIZED (
    SELECT
        bucket, service_type, model, provider, failure,
        count(*) AS requests,
        sum(duration_ms) AS duration, count(duration_ms) AS durations,
        sum(ttft_ms) AS ttft, count(ttft_ms) AS ttfts,
        sum(cost_usd) AS cost, count(cost_usd) AS priced,
        sum(tokens_input) AS input, sum(tokens_output) AS output,
        sum(cache_read_tokens) AS cache_read, sum(cache_write_tokens) AS cache_write,
        sum(tokens_reasoning) AS reasoning
    FROM logs
    GROUP BY ALL
    /*cells*/
),
name_bins AS MATERIALIZED (
    SELECT service_type, model, provider, 0 AS kind, duration_bin AS bin, count(*) AS number
    FROM logs WHERE duration_bin IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT service_type, model, provider, 1 AS kind, ttft_bin AS bin, count(*) AS number
    FROM logs WHERE ttft_bin IS NOT NULL GROUP BY ALL
    /*name_bins*/
),
time_bins AS MATERIALIZED (
    SELECT bucket, 0 AS kind, duration_bin AS bin, count(*) AS number
    FROM logs WHERE duration_bin IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT bucket, 1 AS kind, ttft_bin AS bin, count(*) AS number
    FROM logs WHERE ttft_bin IS NOT NULL GROUP BY ALL
    /*time_bins*/
)

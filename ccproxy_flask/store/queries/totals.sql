SELECT
    requests, successes, requests - successes, avg_ms,
    quantiles[1], quantiles[2], quantiles[3], avg_ttft,
    cost, priced, input, output, cache_read, cache_write, reasoning,
    input + output + cache_read + cache_write
FROM (
    SELECT
        count(*) AS requests,
        count(*) FILTER (error_type IS NULL AND status_code < 400) AS successes,
        avg(duration_ms) AS avg_ms,
        quantile_cont(duration_ms, [0.5, 0.95, 0.99]) AS quantiles,
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
)

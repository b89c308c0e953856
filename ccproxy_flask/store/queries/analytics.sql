-- One scan; a row for the whole, and one for each value of each dimension. *level* has a bit for
-- each dimension that a row is not about: service_type 16, model 8, provider 4, failure 2, bucket 1.
SELECT
    grouping(service_type, model, provider, failure, bucket) AS level,
    coalesce(service_type, model, provider, failure) AS name,
    bucket,
    count(*) AS requests,
    count(*) FILTER (failure IS NULL) AS successes,
    avg(duration_ms), quantile_cont(duration_ms, [0.5, 0.95, 0.99]),
    avg(ttft_ms), quantile_cont(ttft_ms, [0.5, 0.95, 0.99]),
    sum(cost_usd)::DOUBLE, count(cost_usd),
    coalesce(sum(tokens_input), 0)::BIGINT,
    coalesce(sum(tokens_output), 0)::BIGINT,
    coalesce(sum(cache_read_tokens), 0)::BIGINT,
    coalesce(sum(cache_write_tokens), 0)::BIGINT,
    coalesce(sum(tokens_reasoning), 0)::BIGINT
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
GROUP BY GROUPING SETS ((), (service_type), (model), (provider), (failure), (bucket))

-- What the requests of an account used between the moves of its windows: a row for each of them and
-- each session, agent, model, client and key. Tokens count when the request ends, in millions.
WITH steps AS (SELECT unnest(string_split(?, ','))::TIMESTAMP AS at, unnest(range(?::BIGINT)) AS step),
used AS (
    SELECT
        timestamp + to_microseconds((coalesce(duration_ms, 0) * 1000)::BIGINT) AS ended,
        session_id, agent_id, model, client, api_key_id, coalesce(cost_usd, 0)::DOUBLE AS cost,
        [
            coalesce(tokens_input, 0) / 1e6, coalesce(cache_read_tokens, 0) / 1e6,
            coalesce(cache_write_tokens, 0) / 1e6, coalesce(tokens_output, 0) / 1e6
        ]::DOUBLE[4] AS tokens
    FROM (/*logs*/)
    WHERE timestamp >= ? AND timestamp <= ?
        AND provider IS NOT DISTINCT FROM ? AND account_id IS NOT DISTINCT FROM ?
        AND coalesce(tokens_input, cache_read_tokens, cache_write_tokens, tokens_output) IS NOT NULL
)
SELECT
    step, session_id, agent_id, model, client, api_key_id, count(*), sum(cost),
    [sum(tokens[1]), sum(tokens[2]), sum(tokens[3]), sum(tokens[4])],
    max(ended), arg_max(tokens, ended)
FROM used ASOF JOIN steps ON used.ended <= steps.at
GROUP BY ALL

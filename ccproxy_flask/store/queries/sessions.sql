-- The sessions of some rows, each with how many there are. A row without a session belongs to that
-- of its conversation.
WITH sums AS (
    SELECT
        coalesce(session_id, conversation_id) AS id,
        arg_min(client, request_id) AS client,
        arg_min(client_version, request_id) AS client_version,
        arg_min(user_id, request_id) AS user_id,
        list_sort(list(DISTINCT provider) FILTER (provider IS NOT NULL)) AS providers,
        list_sort(list(DISTINCT model) FILTER (model IS NOT NULL)) AS models,
        min(timestamp) AS began,
        max(timestamp) AS latest,
        max(epoch_us(timestamp) + coalesce(duration_ms, 0) * 1000) AS ended_us,
        count(*) AS requests,
        count(*) FILTER (coalesce(request_class IN (/*turns*/), true)) AS turns,
        count(DISTINCT agent_id) AS agents,
        count(*) FILTER (
            coalesce(request_class IN (/*generations*/), true)
            AND (/*failure*/) IS NOT NULL
        ) AS errors,
        sum(cost_usd)::DOUBLE AS cost,
        count(*) FILTER (
            coalesce(request_class IN (/*generations*/), true)
            AND (/*failure*/) IS NULL AND cost_usd IS NULL
        ) AS unpriced,
        coalesce(sum(tokens_input), 0)::BIGINT AS input,
        coalesce(sum(tokens_output), 0)::BIGINT AS output,
        coalesce(sum(cache_read_tokens), 0)::BIGINT AS cache_read,
        coalesce(sum(cache_write_tokens), 0)::BIGINT AS cache_write,
        min(request_id) FILTER (
            content = 'kept' AND coalesce(request_class IN (/*turns*/), true)
        ) AS first_kept
    FROM (/*logs*/) AS logs
    WHERE coalesce(session_id, conversation_id) IS NOT NULL AND /*where*/
    GROUP BY 1
)
SELECT to_json(page)::VARCHAR, first_kept, (SELECT count(*) FROM sums)
FROM (
    SELECT
        id AS session_id, client, client_version, user_id,
        coalesce(providers, []) AS providers, coalesce(models, []) AS models,
        strftime(began, '%Y-%m-%dT%H:%M:%S.%fZ') AS started_at,
        strftime(latest, '%Y-%m-%dT%H:%M:%S.%fZ') AS last_request_at,
        (ended_us - epoch_us(began)) / 1000 AS duration_ms,
        requests, turns, agents, errors, cost AS cost_usd, unpriced AS unpriced_requests,
        input AS tokens_input, output AS tokens_output,
        cache_read AS cache_read_tokens, cache_write AS cache_write_tokens,
        input + output + cache_read + cache_write AS tokens_all,
        cache_read / nullif(input + cache_read + cache_write, 0) AS cache_hit,
        NULL::VARCHAR AS first_words
    FROM sums
) AS page
JOIN sums ON page.session_id = sums.id
ORDER BY /*order*/
LIMIT ? OFFSET ?

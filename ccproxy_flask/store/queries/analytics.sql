-- One scan; a row for the whole, and one for each value of each dimension. *level* has a bit for
-- each dimension that a row is not about: service_type 16, model 8, provider 4, failure 2, bucket 1.
SELECT
    grouping(service_type, model, provider, failure, bucket) AS level,
    coalesce(service_type, model, provider, failure) AS name,
    bucket, /*figures*/
FROM (
    SELECT
        *, /*failure*/ AS failure,
        epoch_us(timestamp) // (?::BIGINT * 1000000) AS bucket
    FROM (/*logs*/) AS logs
    WHERE /*where*/
)
GROUP BY GROUPING SETS ((), (service_type), (model), (provider), (failure), (bucket), (model, bucket))

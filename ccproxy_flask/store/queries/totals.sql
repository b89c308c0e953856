SELECT /*figures*/
FROM (
    SELECT *, /*failure*/ AS failure
    FROM (/*logs*/) AS logs
    WHERE /*where*/
)

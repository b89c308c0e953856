"""The statement behind each panel of the overview, to be opened, changed and sent. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ccproxy_flask.totals import FAILURE_SQL

if TYPE_CHECKING:
    from ccproxy_flask.filters import LogFilter

    from .page_query import PageQuery

_SUMS = """count(*) AS requests, count({failure}) AS errors, sum(cost_usd) AS cost,
  sum(tokens_input) AS uncached, sum(cache_read_tokens) AS cached,
  sum(cache_write_tokens) AS written, sum(tokens_output) AS output"""
_PANELS = {
    "cost": """SELECT to_timestamp(epoch(timestamp) // {bucket} * {bucket}) AS time, model,
  count(*) AS requests, sum(cost_usd) AS cost
FROM access_logs
WHERE {where}
GROUP BY ALL ORDER BY time, cost DESC""",
    "latency": """SELECT to_timestamp(epoch(timestamp) // {bucket} * {bucket}) AS time,
  quantile_cont(duration_ms, 0.5) AS p50_ms, quantile_cont(duration_ms, 0.95) AS p95_ms,
  quantile_cont(ttft_ms, 0.5) AS first_token_p50_ms,
  quantile_cont(ttft_ms, 0.95) AS first_token_p95_ms
FROM access_logs
WHERE {where}
GROUP BY ALL ORDER BY time""",
    "tokens": """SELECT model, {sums}
FROM access_logs
WHERE {where}
GROUP BY ALL ORDER BY cost DESC""",
    "errors": """SELECT {failure} AS error, error_message AS message, count(*) AS times,
  min(timestamp) AS first, max(timestamp) AS last
FROM access_logs
WHERE {where}
  AND {failure} IS NOT NULL
GROUP BY ALL ORDER BY times DESC LIMIT 100""",
    "slowest": """SELECT request_id, timestamp, model, ttft_ms, duration_ms, tokens_output
FROM access_logs
WHERE {where}
  AND duration_ms IS NOT NULL
ORDER BY duration_ms DESC LIMIT 20""",
}
_SPENDER = """SELECT {column}, {sums}
FROM access_logs
WHERE {where}
  AND {column} IS NOT NULL
GROUP BY ALL ORDER BY cost DESC NULLS LAST LIMIT 100"""


def panel_sql(query: PageQuery, bucket_seconds: int) -> dict[str, str]:
    """Return a statement for each panel, and for each column by which spending is shown."""
    values = {
        "where": "\n  AND ".join(conditions(query.where)),
        "bucket": bucket_seconds,
        "failure": f"({FAILURE_SQL})",
    }
    values["sums"] = _SUMS.format(**values)
    found = {name: text.format(**values) for name, text in _PANELS.items()}
    for column in ("model", "session_id", "user_id", "api_key_id", "client", "provider"):
        found[column] = _SPENDER.format(column=column, **values)
    return found


def conditions(where: LogFilter) -> list[str]:
    """Return the conditions of *where* as SQL with its values in it; at least one."""
    return [_filled(*each.sql(value)) for each, value in where.asked()] or ["true"]


def _filled(text: str, values: list[Any]) -> str:
    """Put *values* in the place of the marks of a *text* of ours, which has no others."""
    first, *rest = text.split("?")
    return first + "".join(_literal(value) + part for value, part in zip(values, rest, strict=True))


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        return f"TIMESTAMP '{moment.isoformat(' ', 'seconds')}'"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"

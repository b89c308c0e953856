"""Statements to begin with on the page for SQL. Pure."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .page_query import PageQuery

_EXAMPLES = {
    "Cost by model and day": """
SELECT date_trunc('day', timestamp) AS day, model,
       count(*) AS requests, sum(cost_usd) AS cost
FROM access_logs
WHERE timestamp >= '{since}'
GROUP BY ALL ORDER BY day DESC, cost DESC
""",
    "Sessions that cost most": """
SELECT session_id, count(*) AS requests, sum(cost_usd) AS cost,
       min(timestamp) AS first, max(timestamp) AS last
FROM access_logs
WHERE timestamp >= '{since}' AND session_id IS NOT NULL
GROUP BY session_id ORDER BY cost DESC LIMIT 20
""",
    "Errors by type and message": """
SELECT error_type, error_message, count(*) AS times,
       min(timestamp) AS first, max(timestamp) AS last
FROM access_logs
WHERE timestamp >= '{since}' AND error_type IS NOT NULL
GROUP BY ALL ORDER BY times DESC LIMIT 50
""",
    "Slowest first tokens": """
SELECT request_id, timestamp, model, ttft_ms, duration_ms
FROM access_logs
WHERE timestamp >= '{since}' AND ttft_ms IS NOT NULL
ORDER BY ttft_ms DESC LIMIT 20
""",
}


def sql_examples(query: PageQuery) -> dict[str, str]:
    """Return statements by title, for the range of the page."""
    since = f"{query.start.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return {title: text.strip().format(since=since) for title, text in _EXAMPLES.items()}

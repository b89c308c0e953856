"""Which statements ``/logs/sql`` answers, and the JSON of their cells. Pure.

What keeps a statement from doing harm is the process that runs it (``sql_process``). This says
early and clearly what is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES = ("access_logs", "rate_limits")
_SHOWN = " and ".join(TABLES)
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})


def check(tree: dict[str, Any]) -> None:
    """Raise QueryRefused where *tree*, made by DuckDB's ``json_serialize_sql``, reads anything but
    the tables that there are and what it defines itself."""
    if tree.get("error"):
        raise not_allowed("only one SELECT is answered")
    nodes = list(_nodes(tree))
    streamed = {id(node["function"]) for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    names = set(TABLES)
    for node in nodes:
        for entry in (node.get("cte_map") or {}).get("map", ()):
            names.add(entry["key"].lower())
    for node in nodes:
        if id(node) not in streamed:
            _check_node(node, names)


def _check_node(node: dict[str, Any], tables: set[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        name = node["table_name"].lower()
        if name not in tables or node.get("catalog_name") or node.get("schema_name"):
            raise not_allowed(f"there is no table {node['table_name']!r}, only {_SHOWN}")
    elif kind == "TABLE_FUNCTION":
        name = (node.get("function") or {}).get("function_name", "").lower()
        if name not in _TABLE_FUNCTIONS:
            raise not_allowed(f"the table function {name!r} is not allowed")
    elif kind == "SHOW_REF" and not node.get("query"):
        raise not_allowed(f"only tables are shown: DESCRIBE {TABLES[0]}")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


def not_allowed(message: str) -> QueryRefused:
    """Return what to raise where a statement may not be answered."""
    return QueryRefused("sql_not_allowed", message)


def cell(position: int, kind: str) -> str:
    """Return the SQL that makes the JSON text of column *position*, of DuckDB's type *kind*."""
    name = f"c{position}"
    if kind == "TIMESTAMP WITH TIME ZONE":
        shown = f"strftime({name} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
    elif kind.startswith("TIMESTAMP") and kind.isidentifier():
        shown = f"strftime({name}::TIMESTAMP, '%Y-%m-%dT%H:%M:%S.%fZ')"
    elif kind in ("DOUBLE", "FLOAT"):
        shown = f"CASE WHEN isfinite({name}) THEN {name} END"
    elif "DOUBLE" in kind or "FLOAT" in kind:  # may hold NaN, which JSON has not
        shown = f"{name}::VARCHAR"
    else:
        shown = name
    return f"coalesce(to_json({shown})::VARCHAR, 'null')"

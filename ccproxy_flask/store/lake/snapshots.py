"""The lake's snapshots: the states of nodes that came with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .engine import LAKE
from .state import NodeState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .engine import Cursor


def newest_states(cursor: Cursor, known: Mapping[str, str]) -> dict[str, NodeState]:
    """Return the newest state of each node: as *known*, or as a snapshot has it.

    *known* is to be read after the transaction of *cursor* began: before snapshots expire, what
    they say is written there.
    """
    found = {node_id: NodeState.from_text(text) for node_id, text in known.items()}
    rows = cursor.execute(
        f"SELECT author, arg_max(commit_extra_info, snapshot_id) FROM {LAKE}.snapshots() "  # noqa: S608  our names
        "WHERE commit_message = 'records' GROUP BY author"
    ).fetchall()
    for node_id, text in rows:
        state = NodeState.from_text(text)
        if node_id not in found or state.number > found[node_id].number:
            found[node_id] = state
    return found

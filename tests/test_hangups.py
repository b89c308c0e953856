"""Clients that hang up at random, and strangers on the same upstream connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from conftest import Server

from benchmarks.hangups import Clients, Upstream, ledger


def test_nobody_is_hurt_by_hangups_of_others(start_server: Callable[..., Server]) -> None:
    """Whenever and however clients leave: strangers get every byte, and each request its row."""

    async def run() -> Clients:
        upstream = Upstream()
        server = start_server(upstream_url=await upstream.start(), LOGGING__ACCESS_LOG="false")
        clients = Clients(server.port, seed=7)
        await clients.run(200, strangers=10)
        assert await asyncio.to_thread(ledger, server.port, clients.outcome) == []
        assert await upstream.left_over() == 0
        await upstream.stop()
        assert "Traceback" not in server.log_path.read_text()
        return clients

    outcome = asyncio.run(run()).outcome
    assert outcome.broken == []
    assert len(outcome.strangers) >= 10

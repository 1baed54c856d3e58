"""Cuts the wait of a loop short. Only ever a hint: without any, every loop comes round by itself."""

import asyncio
import logging
from collections.abc import Iterable

import psycopg

from service.storage.transitions import CHANNEL

logger = logging.getLogger(__name__)

_RECONNECT_S = 5.0


async def listen(database_url: str, wakeups: Iterable[asyncio.Event]) -> None:
    """Sets `wakeups` whenever the database announces a change; runs until cancelled, over lost connections."""
    conninfo = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                conninfo, autocommit=True, connect_timeout=10
            ) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                async for _ in connection.notifies():
                    for wakeup in wakeups:
                        wakeup.set()
        except psycopg.OperationalError as error:
            logger.warning("database cannot be listened to", extra={"error": str(error)})
        await asyncio.sleep(_RECONNECT_S)


async def wait_for_any(events: Iterable[asyncio.Event], timeout_s: float) -> None:
    """Returns when one of the events is set, or after `timeout_s`."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()

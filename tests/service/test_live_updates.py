"""Hints arrive after a notification, bundled, after a broken connection, and without any at the polling interval."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from service.live_updates import LiveUpdates, Subscription
from service.storage.database import Sessions
from service.storage.transitions import notify

pytestmark = pytest.mark.anyio

LISTENING = text(
    "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database() AND pid <> :known"
)


async def wait_for_listener(sessions: Sessions, *, other_than: int = 0) -> int:
    """Process id of the listening connection."""
    async with asyncio.timeout(20):
        while True:
            async with sessions() as session:
                if pid := await session.scalar(LISTENING, {"known": other_than}):
                    return int(pid)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(database_url: str, sessions: Sessions, *, poll_s: float = 60.0) -> AsyncIterator[LiveUpdates]:
    live = LiveUpdates(database_url, debounce_s=0.2, poll_s=poll_s)
    live.start()
    try:
        await wait_for_listener(sessions)
        yield live
    finally:
        await live.stop()


async def send(sessions: Sessions, *experiment_ids: str) -> None:
    for experiment_id in experiment_ids:
        async with sessions.begin() as session:
            await notify(session, experiment_id)


async def is_hinted(subscription: Subscription, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await subscription.wait()
    except TimeoutError:
        return False
    return True


async def test_a_notification_hints_only_those_who_watch_its_experiment(database_url: str, sessions: Sessions) -> None:
    async with running(database_url, sessions) as live:
        with live.subscribe("exp-a") as first, live.subscribe("exp-b") as second:
            await send(sessions, "exp-a")
            assert await is_hinted(first, 10)
            assert not await is_hinted(second, 0.05)


async def test_hints_of_an_experiment_are_at_least_the_debounce_time_apart(
    database_url: str, sessions: Sessions
) -> None:
    async with running(database_url, sessions) as live:
        with live.subscribe("exp-a") as subscription:
            started = time.monotonic()
            sending = asyncio.create_task(send(sessions, *["exp-a"] * 40))
            num_hints = 0
            while await is_hinted(subscription, 1.0):
                num_hints += 1
                last_hint_s = time.monotonic() - started
            await sending
    assert 1 <= num_hints <= 1 + last_hint_s / 0.2


async def test_without_notification_a_hint_comes_at_the_polling_interval(database_url: str, sessions: Sessions) -> None:
    async with running(database_url, sessions, poll_s=0.05) as live:
        with live.subscribe("exp-a") as subscription:
            assert await is_hinted(subscription, 5)


async def test_a_broken_connection_is_made_again(database_url: str, sessions: Sessions) -> None:
    async with running(database_url, sessions) as live:
        with live.subscribe("exp-a") as subscription:
            pid = await wait_for_listener(sessions)
            async with sessions.begin() as session:
                await session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await wait_for_listener(sessions, other_than=pid)
            while await is_hinted(subscription, 0.5):
                pass  # the hint that follows a new connection
            await send(sessions, "exp-a")
            assert await is_hinted(subscription, 10)


async def test_stopping_ends_subscriptions(database_url: str, sessions: Sessions) -> None:
    async with running(database_url, sessions) as live:
        with live.subscribe("exp-a") as subscription:
            hints = subscription.__aiter__()
            await anext(hints)
            await live.stop()
            assert [hint async for hint in hints] == []


async def test_leaving_forgets_the_experiment(database_url: str) -> None:
    live = LiveUpdates(database_url)
    with live.subscribe("exp-a"):
        pass
    assert live.watched() == []

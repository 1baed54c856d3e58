"""The lease: one holder, and nothing written by the one before."""

import asyncio

import pytest
from sqlalchemy import text

from service.errors import LeaseLost
from service.scheduler.lease import Lease, acquire_lease, hold_lease, renew_lease, resign_lease
from service.storage.database import Sessions

pytestmark = pytest.mark.anyio


async def acquire(sessions: Sessions, holder: str, ttl_s: float = 60) -> Lease | None:
    async with sessions.begin() as session:
        return await acquire_lease(session, holder, ttl_s)


async def test_one_holder_at_a_time(sessions: Sessions) -> None:
    candidates = await asyncio.gather(*(acquire(sessions, f"s{number}") for number in range(5)))
    assert sum(lease is not None for lease in candidates) == 1


async def test_an_expired_lease_is_taken_over_with_a_higher_token(sessions: Sessions) -> None:
    first = await acquire(sessions, "a", ttl_s=0)
    second = await acquire(sessions, "b")
    assert first is not None and second is not None
    assert second.token == first.token + 1
    for use in (hold_lease, resign_lease):
        with pytest.raises(LeaseLost):
            async with sessions.begin() as session:
                await use(session, first)
    with pytest.raises(LeaseLost):
        async with sessions.begin() as session:
            await renew_lease(session, first, 60)


async def test_a_resigned_lease_is_free_at_once(sessions: Sessions, lease: Lease) -> None:
    assert await acquire(sessions, "b") is None
    async with sessions.begin() as session:
        await resign_lease(session, lease)
    assert await acquire(sessions, "b") is not None


async def test_an_expired_lease_that_nobody_took_is_renewed(sessions: Sessions) -> None:
    lease = await acquire(sessions, "a", ttl_s=0)
    assert lease is not None
    async with sessions.begin() as session:
        await renew_lease(session, lease, 60)
    assert await acquire(sessions, "b") is None


async def test_a_takeover_waits_for_a_transaction_that_holds_the_lease(sessions: Sessions) -> None:
    lease = await acquire(sessions, "a", ttl_s=0)
    assert lease is not None
    async with sessions.begin() as session:
        await hold_lease(session, lease)
        takeover = asyncio.create_task(acquire(sessions, "b"))
        async with asyncio.timeout(30):
            while not await waits_for_a_lock(sessions):
                await asyncio.sleep(0.01)
        assert not takeover.done()
    assert await takeover is not None


async def waits_for_a_lock(sessions: Sessions) -> bool:
    """Asked in a transaction of its own: within one, PostgreSQL tells the activity that it saw at first."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with sessions.begin() as session:
        return bool(await session.scalar(waiting))

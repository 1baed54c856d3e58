"""Signs of life of several processes of one role."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from service.storage.database import Sessions
from service.storage.processes import record_life, uptime_of
from service.storage.tables import ServiceProcess

pytestmark = pytest.mark.anyio


async def earlier(sessions: Sessions, instance: str, seconds: float) -> None:
    """All that this process wrote was so much earlier."""
    ago = timedelta(seconds=seconds)
    async with sessions.begin() as session:
        values = {"started_at": ServiceProcess.started_at - ago, "seen_at": ServiceProcess.seen_at - ago}
        await session.execute(update(ServiceProcess).where(ServiceProcess.instance == instance).values(values))


async def test_a_role_is_up_as_long_as_its_oldest_living_process(sessions: Sessions) -> None:
    for instance in ("old", "new"):
        async with sessions.begin() as session:
            await record_life(session, "api", instance, detail={})
    await earlier(sessions, "old", 600)
    async with sessions.begin() as session:
        await record_life(session, "api", "old", detail={})
        old = await session.get_one(ServiceProcess, ("api", "old"), populate_existing=True)
        uptime = await uptime_of(session, "api")
    assert uptime is not None and uptime.started_at == old.started_at


async def test_a_replica_that_keeps_crashing_shortens_nobodys_uptime(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await record_life(session, "api", "steady", detail={})
    await earlier(sessions, "steady", 10)
    for number in range(3):
        async with sessions.begin() as session:
            await record_life(session, "api", f"crashing-{number}", detail={})
    async with sessions() as session:
        steady = await session.get_one(ServiceProcess, ("api", "steady"))
        uptime = await uptime_of(session, "api")
    assert uptime is not None and uptime.started_at == steady.started_at


async def test_silent_processes_are_not_up_and_long_dead_ones_are_forgotten(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await record_life(session, "api", "dead", detail={})
    await earlier(sessions, "dead", 16)
    async with sessions() as session:
        assert await uptime_of(session, "api") is None
    await earlier(sessions, "dead", 90_000)
    async with sessions.begin() as session:
        await record_life(session, "scheduler", "other", detail={})
        assert await session.scalar(select(func.count()).select_from(ServiceProcess)) == 1

"""The process as a whole: turns, takeover, clean stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select

from service.scheduler.process import SchedulerProcess
from service.scheduler.ray_gateway import RayDashboard
from service.scheduler.wakeups import listen
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from service.storage.tables import Attempt, ClusterState, SchedulerLease, ServiceProcess
from service.storage.transitions import notify
from tests.factories import make_experiment
from tests.fakes import FakeRay

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits for it, 20 s at most."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(process: SchedulerProcess) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(process.run())
    try:
        yield task
    finally:
        process.stop()
        await task


async def holder_of(sessions: Sessions) -> str | None:
    async with sessions() as session:
        return await session.scalar(select(SchedulerLease.holder))


async def test_an_experiment_reaches_ray_and_the_process_is_seen_alive(
    sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings, ray: FakeRay
) -> None:
    async def submitted() -> bool:
        async with sessions() as session:
            return await session.scalar(select(Attempt.status)) == "submitted"

    async with running(SchedulerProcess(sessions, gateway, settings)):
        async with sessions.begin() as session:
            await make_experiment(session)
        await until(submitted)
        async with sessions() as session:
            assert (await session.get_one(ClusterState, 1)).num_cpus == 2.0
            alive = (await session.scalars(select(ServiceProcess))).one()
            assert (alive.role, alive.detail["leads"]) == ("scheduler", True)
    assert len(ray.accepted) == 1


async def test_a_stop_is_quick_even_while_ray_hangs_and_frees_the_lease(
    sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings, ray: FakeRay
) -> None:
    hanging = asyncio.Event()

    async def hang(_: str) -> None:
        hanging.set()
        await asyncio.sleep(60)

    ray.meanwhile = hang
    first = SchedulerProcess(sessions, gateway, settings)
    async with running(first):
        await hanging.wait()
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    async with sessions() as session:
        row = (await session.scalars(select(SchedulerLease))).one()
    async with running(SchedulerProcess(sessions, gateway, settings)):
        await until(lambda: _is_not(sessions, row.holder))


async def test_a_standby_takes_over_from_one_that_died(
    sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings
) -> None:
    first = asyncio.create_task(SchedulerProcess(sessions, gateway, settings).run())
    await until(lambda: holder_of(sessions))
    dead = await holder_of(sessions)
    assert dead is not None
    async with running(SchedulerProcess(sessions, gateway, settings)):
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await until(lambda: _is_not(sessions, dead))


async def test_a_holder_that_lost_its_lease_stands_by_and_returns(
    sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings
) -> None:
    async with running(SchedulerProcess(sessions, gateway, settings)):
        await until(lambda: holder_of(sessions))
        mine = await holder_of(sessions)
        async with sessions.begin() as session:
            row = (await session.scalars(select(SchedulerLease).with_for_update())).one()
            row.holder, row.token = "thief", row.token + 1
        await until(lambda: _is_not(sessions, "thief"))
        assert await holder_of(sessions) == mine


async def _is_not(sessions: Sessions, holder: str) -> bool:
    return await holder_of(sessions) != holder


async def test_a_change_in_the_database_wakes_the_loops(sessions: Sessions, database_url: str) -> None:
    wakeup = asyncio.Event()
    listening = asyncio.create_task(listen(database_url, [wakeup]))

    async def woken() -> bool:
        async with sessions.begin() as session:
            await notify(session, "exp-1")
        return wakeup.is_set()

    await until(woken)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening

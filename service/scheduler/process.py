"""The scheduler's loops, and the turns in which it may run them.

standby ──lease acquired──> reconcile once ──> loops: renew, admit, launch, reconcile ──stop──> resign
   ^                                                         │
   └──────────────────────── lease lost ─────────────────────┘
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import LeaseLost
from service.scheduler.admission_pass import run_admission
from service.scheduler.figure_gauges import clear_gauges, update_gauges
from service.scheduler.launch import Launcher
from service.scheduler.lease import Lease, acquire_lease, renew_lease, resign_lease
from service.scheduler.output_census import measure_outputs
from service.scheduler.ray_jobs import RayGateway
from service.scheduler.reconcile import Reconciler
from service.scheduler.sightings import ApiWatch
from service.scheduler.situation import policy_of
from service.scheduler.stage_contents import StageContents
from service.scheduler.study_pass import watch_studies
from service.scheduler.upkeep import Upkeep
from service.scheduler.wakeups import wait_for_any
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from service.storage.processes import new_instance, record_life
from service.telemetry import LEADS, timed_pass
from service.tracing import span
from service.versions import sedray_version

logger = logging.getLogger(__name__)

_SETTLE_S = 0.2
"""Reports of running attempts wake the loops too; so many a second are enough."""
_RETRY_LAUNCH_S = 2.0
_CENSUS_S = 60.0
_STOP_PATIENCE_S = 3.0
"""On a stop, a request that is on its way may still end: a submission that is cut off leaves an orphan in Ray."""


class SchedulerProcess:
    """One candidate for scheduling; as many may run as one likes, and one of them works."""

    def __init__(self, sessions: Sessions, gateway: RayGateway, settings: SchedulerSettings) -> None:
        self._sessions = sessions
        self._gateway = gateway
        self._settings = settings
        self._launcher = Launcher(sessions, gateway, settings)
        self._upkeep = Upkeep(sessions, settings)
        self._holder = new_instance()
        self._stop = asyncio.Event()
        self.changed = asyncio.Event()
        """Set by whoever knows that the queue or an attempt changed."""
        self._claimed = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` within a few seconds."""
        self._stop.set()

    async def run(self) -> None:
        """Stands by, works, resigns; until `stop`."""
        while not self._stop.is_set():
            try:
                lease = await self._acquire()
                if lease is not None:
                    await self._work(lease)
            except LeaseLost:
                logger.warning("lease lost, standing by", extra={"holder": self._holder})
            except SQLAlchemyError as error:
                logger.warning("database not usable, standing by", extra={"error": str(error)})
            await wait_for_any([self._stop], self._settings.lease_ttl_s / 5)

    async def _acquire(self) -> Lease | None:
        async with self._sessions.begin() as session:
            lease = await acquire_lease(session, self._holder, self._settings.lease_ttl_s)
            await self._show_alive(session, leads=lease is not None)
        if lease is not None:
            logger.info("lease acquired", extra={"holder": lease.holder, "token": lease.token})
        return lease

    async def _work(self, lease: Lease) -> None:
        """Runs the loops until a stop, or until one of them finds that the lease is lost."""
        reconciler = Reconciler(self._sessions, self._gateway, self._settings, ApiWatch())
        renewing = asyncio.create_task(self._repeat("renew", lambda: self._renew(lease), self._renew_s()))
        working = asyncio.create_task(self._run_loops(lease, reconciler))
        tasks = {renewing, working}
        stopping = asyncio.create_task(self._stop.wait())
        LEADS.set(1)
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                await asyncio.wait(tasks, timeout=_STOP_PATIENCE_S)
        finally:
            LEADS.set(0)
            clear_gauges()
            await _cancel(*tasks, stopping)
        _raise_first(tasks)
        await self._resign(lease)

    async def _run_loops(self, lease: Lease, reconciler: Reconciler) -> None:
        async def reconcile() -> None:
            await reconciler.run_once(lease)

        policy, contents = policy_of(self._settings), StageContents()

        async def admit() -> None:
            if await run_admission(self._sessions, lease, policy, contents):
                self._claimed.set()

        async def launch() -> None:
            if await self._launcher.launch_all(lease):
                await wait_for_any([self._stop], _RETRY_LAUNCH_S)

        async def measure() -> None:
            await measure_outputs(self._sessions, lease, self._settings.output_dir)

        async def watch() -> None:
            await watch_studies(self._sessions, lease)

        async def show_figures() -> None:
            await update_gauges(self._sessions)

        # What the last scheduler saw of Ray may be of another cluster: look before anybody is admitted.
        await self._once("reconcile", reconcile)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("reconcile", reconcile, self._settings.reconcile_s))
            group.create_task(self._repeat("admit", admit, self._settings.tick_s, self.changed))
            group.create_task(self._repeat("census", measure, _CENSUS_S))
            group.create_task(self._repeat("launch", launch, self._settings.tick_s, self._claimed))
            group.create_task(self._repeat("studies", watch, self._settings.studies_s))
            group.create_task(self._repeat("upkeep", self._upkeep.run_once, self._settings.upkeep_s))
            if self._settings.metrics_port is not None:
                group.create_task(self._repeat("figures", show_figures, self._settings.figures_s))

    async def _repeat(
        self, name: str, body: Callable[[], Awaitable[None]], interval_s: float, wakeup: asyncio.Event | None = None
    ) -> None:
        """Runs `body` every `interval_s` seconds, sooner when `wakeup` is set, until a stop or LeaseLost."""
        while not self._stop.is_set():
            if wakeup is not None:
                wakeup.clear()
            await self._once(name, body)
            settle_s = min(_SETTLE_S, interval_s)
            await wait_for_any([self._stop], settle_s)
            await wait_for_any([self._stop, *([wakeup] if wakeup else [])], interval_s - settle_s)

    async def _once(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        try:
            with timed_pass(name), span(f"scheduler {name}"):
                await body()
        except LeaseLost:
            raise
        except Exception:
            logger.exception("pass failed, the next one tries again", extra={"loop": name})

    def _renew_s(self) -> float:
        return min(self._settings.lease_ttl_s / 3, 5.0)

    async def _renew(self, lease: Lease) -> None:
        async with self._sessions.begin() as session:
            await renew_lease(session, lease, self._settings.lease_ttl_s)
            await self._show_alive(session, leads=True)

    async def _show_alive(self, session: AsyncSession, *, leads: bool) -> None:
        detail = {"leads": leads, "version": sedray_version()}
        await record_life(session, "scheduler", self._holder, detail=detail)

    async def _resign(self, lease: Lease) -> None:
        with suppress(LeaseLost):
            async with self._sessions.begin() as session:
                await resign_lease(session, lease)
        logger.info("lease resigned", extra={"holder": lease.holder, "token": lease.token})


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _raise_first(tasks: set[asyncio.Task[None]]) -> None:
    """What ended the loops: LeaseLost, perhaps out of the group in which they ran; nothing after a stop."""
    for task in tasks:
        if task.cancelled() or (error := task.exception()) is None:
            continue
        if isinstance(error, BaseExceptionGroup) and error.subgroup(LeaseLost):
            raise LeaseLost("another scheduler has taken over") from error
        raise error

"""Ends what hard ends leave behind on the cluster: detached actors, placement groups, processes such as a vLLM engine.

    attempts to sweep ──> one Ray job for all of them ──> its report, or its deadline ──> they are released

One sweep at a time. A scheduler that takes over begins another: what is swept twice is only gone already.
"""

import asyncio
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from service.contract.sweeping import ORDERS_VARIABLE, REPORT_MARK, NamedActor, SweepOrders, SweepReport
from service.errors import RayUnreachable
from service.scheduler.ray_jobs import (
    SUPERVISOR_NAMESPACE,
    SUPERVISOR_PREFIX,
    RayGateway,
    RayJobRequest,
    RayJobStatus,
    SubmitRefused,
)
from service.storage.identifiers import new_id
from service.storage.tables import Attempt

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 50
DEADLINE = timedelta(seconds=120)
_REPORT_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweep:
    """A sweep under way."""

    submission_id: str
    attempt_ids: tuple[str, ...]
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A sweep that is over."""

    attempt_ids: tuple[str, ...]
    report: SweepReport | None
    problem: str = ""
    """Why it is not known whether anything is left."""

    def note(self, attempt_id: str) -> str:
        """What people should know of it; empty if the nodes were clean."""
        if self.report is None:
            return f"the cluster could not be searched for what the attempt left behind: {self.problem}"
        left = self.report.describe(attempt_id)
        missed = (
            f"; nodes not searched: {', '.join(self.report.unreached_nodes)}" if self.report.unreached_nodes else ""
        )
        return f"ended what the attempt had left behind: {left}{missed}" if left else missed.removeprefix("; ")


class Sweeper:
    """One for the time in which this process holds the lease."""

    def __init__(self, gateway: RayGateway, worker_python: str) -> None:
        self._gateway = gateway
        self._worker_python = worker_python
        self._current: _Sweep | None = None

    async def step(self, wanted: Sequence[Attempt], now: datetime) -> Swept | None:
        """Begins a sweep, or looks after the one under way; returns it once it is over. Raises RayUnreachable."""
        if self._current is None:
            if wanted:
                self._current = await self._begin(wanted[:MOST_AT_ONCE], now)
            return None
        swept = await self._look(self._current, now)
        if swept is not None:
            self._current = None
        return swept

    async def _begin(self, attempts: Sequence[Attempt], now: datetime) -> _Sweep | None:
        orders = await self._orders(attempts)
        submission_id = f"sedray-{new_id('sweep')}"
        request = RayJobRequest(
            submission_id=submission_id,
            entrypoint=f"{shlex.quote(self._worker_python)} -m workers.sweeper",
            env_vars={ORDERS_VARIABLE: orders.model_dump_json(), "PYTHONUNBUFFERED": "1"},
            metadata={"attempt": submission_id, "spec_sha256": ""},
        )
        try:
            await self._gateway.submit(request)
        except SubmitRefused as error:
            logger.warning("sweep refused, will be tried again", extra={"error": str(error)})
            return None
        logger.info("sweep begun", extra={"submission_id": submission_id, "attempts": orders.attempt_ids})
        return _Sweep(submission_id=submission_id, attempt_ids=tuple(orders.attempt_ids), since=now)

    async def _orders(self, attempts: Sequence[Attempt]) -> SweepOrders:
        """Also the supervisors that still wait for a place: a stop does nothing to them."""
        known = {attempt.ray_job_id for attempt in attempts if attempt.ray_job_id}
        actors = [actor for found in await asyncio.gather(*map(self._gateway.actors, known)) for actor in found]
        groups = await asyncio.gather(*map(self._gateway.placement_groups, known))
        waiting = (await self._gateway.cluster()).supervisors
        return SweepOrders(
            attempt_ids=[attempt.id for attempt in attempts],
            actors=[
                *(NamedActor(name=one.name, namespace=one.namespace) for one in actors if one.name and not one.is_dead),
                *_supervisors(attempts, waiting),
            ],
            placement_groups=[group for found in groups for group in found],
        )

    async def _look(self, sweep: _Sweep, now: datetime) -> Swept | None:
        job = await self._gateway.get(sweep.submission_id)
        if job is not None and not job.status.is_terminal and now - sweep.since < DEADLINE:
            return None
        report, problem = None, "its job was lost"
        if job is not None:
            problem = f"its job is {job.status.value}: {job.message[:300]}"
        if job is not None and job.status is RayJobStatus.SUCCEEDED:
            report = _read_report(await self._gateway.logs_tail(job, _REPORT_LINES))
            problem = "its job left no report"
        if job is not None and not job.status.is_terminal:
            await self._stop_late(sweep.submission_id)
        logger.info("sweep over", extra={"submission_id": sweep.submission_id, "report": report, "problem": problem})
        return Swept(attempt_ids=sweep.attempt_ids, report=report, problem=problem)

    async def _stop_late(self, submission_id: str) -> None:
        try:
            await self._gateway.stop(submission_id)
        except RayUnreachable:
            logger.info("sweep job not stopped", extra={"submission_id": submission_id})


def _supervisors(attempts: Sequence[Attempt], waiting: Mapping[str, str]) -> list[NamedActor]:
    ids = [one.ray_submission_id for one in attempts if waiting.get(one.ray_submission_id) == "PENDING_CREATION"]
    return [NamedActor(name=f"{SUPERVISOR_PREFIX}{one}", namespace=SUPERVISOR_NAMESPACE) for one in ids]


def _read_report(lines: Sequence[str]) -> SweepReport | None:
    for line in reversed(lines):
        if line.startswith(REPORT_MARK):
            try:
                return SweepReport.model_validate_json(line.removeprefix(REPORT_MARK))
            except ValidationError:
                return None
    return None

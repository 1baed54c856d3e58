"""Brings rows and reality together: looks at Ray, judges every unreleased attempt, and does what follows.

Each act is safe to repeat, and none depends on the one before: a scheduler that dies in the middle leaves only work
that the next pass does.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, log_store
from service.contract.messages import LogLine
from service.contract.status import AttemptStatus, ExperimentStatus
from service.errors import NotAllowedNow, RayUnreachable, StaleAttempt
from service.scheduler import ledger
from service.scheduler.capacity import Bounds, database_now, record_sight, record_silence
from service.scheduler.launch import remove_token
from service.scheduler.lease import Lease, hold_lease
from service.scheduler.ray_jobs import ClusterView, RayGateway, RayJob
from service.scheduler.sightings import ApiWatch, Sightings
from service.scheduler.situation import policy_of
from service.scheduler.verdict import (
    AskToStop,
    AttemptFacts,
    End,
    Limits,
    Observation,
    Present,
    Release,
    Verdict,
    Wait,
    judge,
)
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, Experiment, ServiceProcess
from service.storage.transitions import lock_experiment, record_event

logger = logging.getLogger(__name__)

LOG_TAIL_LINES = 200
_AT_ONCE = 8
"""Requests to Ray at the same time; its dashboard is one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One attempt in one pass."""

    attempt: Attempt
    facts: AttemptFacts
    seen: Observation
    now: datetime
    api_up_since: datetime | None


class Reconciler:
    """One for the time in which this process holds the lease: what it has seen before is part of its judgement."""

    def __init__(
        self,
        sessions: Sessions,
        gateway: RayGateway,
        settings: SchedulerSettings,
        api_watch: ApiWatch,
    ) -> None:
        self._sessions = sessions
        self._gateway = gateway
        self._worker_dir = settings.worker_dir
        self._bounds = Bounds(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus)
        self._limits = limits_of(settings)
        self._policy = policy_of(settings)
        self._sightings = Sightings()
        self._api = api_watch
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run_once(self, lease: Lease) -> None:
        """One pass. Raises LeaseLost. An attempt that cannot be looked at or changed now is left to the next pass."""
        view = await self._look_at_cluster(lease)
        cases = await self._load(view)
        for case in cases:
            try:
                await self._carry_out(lease, case, self._judge(case))
            except (StaleAttempt, NotAllowedNow, RayUnreachable) as error:
                logger.info("verdict not carried out", extra={"attempt_id": case.attempt.id, "error": error.message})
            except SQLAlchemyError:
                # One row's trouble must not keep the others from being looked after.
                logger.exception("verdict not written", extra={"attempt_id": case.attempt.id})

    async def _look_at_cluster(self, lease: Lease) -> ClusterView | None:
        view, message = None, ""
        try:
            view = await self._gateway.cluster()
        except RayUnreachable as error:
            message = error.message
            logger.warning("ray unreachable", extra={"error": message})
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            now = await database_now(session)
            if view is None:
                await record_silence(session, message, now)
            else:
                await record_sight(session, view, self._bounds, now)
        return view

    async def _load(self, view: ClusterView | None) -> list[_Case]:
        async with self._sessions() as session:
            now = await database_now(session)
            rows = (await session.execute(_UNRELEASED)).all()
            api = await session.get(ServiceProcess, "api")
        up_since = self._api.up_since(api.started_at if api else None, api.seen_at if api else None, now)
        self._sightings.keep_only({attempt.id for attempt, *_ in rows})
        looks = await asyncio.gather(*(self._look(attempt, view, now) for attempt, *_ in rows))
        return [
            _Case(
                attempt=attempt, facts=_facts(attempt, experiment, holding), seen=seen, now=now, api_up_since=up_since
            )
            for (attempt, experiment, holding), seen in zip(rows, looks, strict=True)
        ]

    async def _look(self, attempt: Attempt, view: ClusterView | None, now: datetime) -> Observation:
        if view is None:
            return self._sightings.unreachable(now)
        try:
            async with self._places:
                job = await self._gateway.get(attempt.ray_submission_id)
        except RayUnreachable:
            return self._sightings.unreachable(now)
        return self._sightings.saw(attempt.id, job, view.session_name, now)

    def _judge(self, case: _Case, facts: AttemptFacts | None = None) -> Verdict:
        return judge(facts or case.facts, case.seen, case.now, self._limits, case.api_up_since)

    async def _carry_out(self, lease: Lease, case: _Case, verdict: Verdict) -> None:
        match verdict:
            case Wait():
                return
            case End():
                if await self._end(lease, case, verdict) and verdict.stop:
                    await self._ask_to_stop(lease, case, verdict.message)
            case AskToStop():
                await self._ask_to_stop(lease, case, verdict.why)
            case Release():
                await self._release(lease, case)
            case _:
                assert_never(verdict)

    async def _end(self, lease: Lease, case: _Case, verdict: End) -> bool:
        """Ends the attempt if the same follows from what its row says now; returns whether it did."""
        job = case.seen.job if isinstance(case.seen, Present) else None
        tail = await self._tail(job) if job else []
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            attempt, facts = await _reread(session, case.attempt)
            if self._judge(case, facts) != verdict:
                return False
            lines = [LogLine(ts=case.now, source="scheduler", text=line) for line in tail]
            await log_store.append_lines(session, attempt, lines)
            await attempts.end_attempt(session, attempt, verdict.reason, verdict.message, _evidence(job, tail))
        logger.warning(
            "attempt ended by the scheduler",
            extra={"attempt_id": attempt.id, "reason": verdict.reason, "why": verdict.message},
        )
        return True

    async def _tail(self, job: RayJob) -> list[str]:
        """Evidence is worth a request, not a delay of the verdict."""
        try:
            lines = await self._gateway.logs_tail(job, LOG_TAIL_LINES)
        except RayUnreachable:
            return []
        return [line[:4000] for line in lines]

    async def _ask_to_stop(self, lease: Lease, case: _Case, why: str) -> None:
        await self._gateway.stop(case.attempt.ray_submission_id)
        logger.info("ray asked to stop a job", extra={"attempt_id": case.attempt.id, "why": why})
        if case.facts.stop_requested_at is not None:
            return
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            message = f"asked Ray to stop the job: {why}"
            await record_event(session, case.attempt.experiment_id, "note", message, attempt_id=case.attempt.id)
            await attempts.mark_stop_requested(session, case.attempt, await database_now(session))

    async def _release(self, lease: Lease, case: _Case) -> None:
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            now = await database_now(session)
            await attempts.release(session, case.attempt, now)
            await ledger.charge(session, case.attempt, self._policy, now)
        await asyncio.to_thread(remove_token, self._worker_dir, case.attempt.id)
        logger.info("resources released", extra={"attempt_id": case.attempt.id})


def limits_of(settings: SchedulerSettings) -> Limits:
    """The deadlines that follow from the settings."""
    return Limits(
        start_deadline_s=settings.start_deadline_s,
        heartbeat_lease_s=settings.heartbeat_lease_s,
        cancel_grace_s=settings.cancel_grace_s,
        preempt_grace_s=settings.preempt_grace_s,
        stop_wait_s=float(settings.stop_wait_s),
        # A submission is up to three requests to Ray, one after the other.
        submit_grace_s=3 * settings.ray_timeout_s,
    )


_UNRELEASED = (
    select(Attempt, Experiment, AttemptHolding)
    .join(Experiment, Experiment.id == Attempt.experiment_id)
    .outerjoin(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
    .where(Attempt.released_at.is_(None))
    .order_by(Attempt.created_at, Attempt.id)
)


async def _reread(session: AsyncSession, attempt: Attempt) -> tuple[Attempt, AttemptFacts]:
    """The attempt as it is now, with its experiment locked against other changes of status."""
    experiment = await lock_experiment(session, attempt.experiment_id)
    assert experiment is not None, "experiments are never deleted"
    current = await session.get_one(Attempt, attempt.id)
    return current, _facts(current, experiment, await session.get(AttemptHolding, attempt.id))


def _facts(attempt: Attempt, experiment: Experiment, holding: AttemptHolding | None) -> AttemptFacts:
    cancelling = experiment.status == ExperimentStatus.CANCELLING
    return AttemptFacts(
        status=AttemptStatus(attempt.status),
        cancel_requested_at=experiment.cancel_requested_at if cancelling else None,
        max_runtime_s=float(experiment.spec["max_runtime_s"]),
        ray_session=attempt.ray_session,
        created_at=attempt.created_at,
        submitted_at=attempt.submitted_at,
        started_at=attempt.started_at,
        heartbeat_at=attempt.heartbeat_at,
        stop_requested_at=attempt.stop_requested_at,
        ended_at=attempt.ended_at,
        preempt_requested_at=holding.preempt_requested_at if holding else None,
    )


def _evidence(job: RayJob | None, tail: list[str]) -> dict[str, Any]:
    if job is None:
        return {}
    return {
        "ray_status": job.status.value,
        "ray_message": job.message[:20_000],
        "ray_error_type": job.error_type,
        "driver_exit_code": job.driver_exit_code,
        "log_tail": tail,
    }

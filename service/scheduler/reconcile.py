"""Brings rows and reality together: looks at Ray, judges every unreleased attempt, and does what follows.

Each act is safe to repeat, and none depends on the one before: a scheduler that dies in the middle leaves only work
that the next pass does.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, certificates, log_store
from service.contract.messages import LogLine
from service.contract.status import AttemptStatus, ExperimentStatus
from service.errors import NotAllowedNow, RayUnreachable, StaleAttempt
from service.scheduler import ledger
from service.scheduler.autopsy import examine, job_facts, refine
from service.scheduler.capacity import Bounds, record_sight, record_silence
from service.scheduler.launch import remove_token
from service.scheduler.lease import Lease, hold_lease
from service.scheduler.ray_jobs import ClusterView, RayGateway
from service.scheduler.sightings import ApiWatch, Sightings
from service.scheduler.situation import policy_of
from service.scheduler.sweeping import Sweeper
from service.scheduler.verdict import (
    AskToStop,
    AttemptFacts,
    End,
    Limits,
    Observation,
    Poke,
    Present,
    Release,
    Sweep,
    Verdict,
    Wait,
    judge,
)
from service.settings import SchedulerSettings
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.processes import uptime_of
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import lock_experiment, record_event

logger = logging.getLogger(__name__)

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
        self._closed: tuple[str, frozenset[str]] | None = None
        """Session and nodes that were seen to refuse strangers."""
        self._sweeper = Sweeper(gateway, settings.worker_python)

    async def run_once(self, lease: Lease) -> None:
        """One pass. Raises LeaseLost. An attempt that cannot be looked at or changed now is left to the next pass."""
        view = await self._look_at_cluster(lease)
        cases = await self._load(view)
        verdicts = [(case, self._judge(case)) for case in cases]
        for case, verdict in verdicts:
            try:
                await self._note_ray_job(lease, case)
                await self._carry_out(lease, case, verdict)
            except (StaleAttempt, NotAllowedNow, RayUnreachable) as error:
                logger.info("verdict not carried out", extra={"attempt_id": case.attempt.id, "error": error.message})
            except SQLAlchemyError:
                # One row's trouble must not keep the others from being looked after.
                logger.exception("verdict not written", extra={"attempt_id": case.attempt.id})
        await self._poke([verdict.why for _, verdict in verdicts if isinstance(verdict, Poke)])
        await self._sweep(lease, [case.attempt for case, verdict in verdicts if isinstance(verdict, Sweep)])

    async def _look_at_cluster(self, lease: Lease) -> ClusterView | None:
        view, message = None, ""
        try:
            view = await self._gateway.cluster()
            await self._refuse_open(view)
        except RayUnreachable as error:
            view = None
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

    async def _refuse_open(self, view: ClusterView) -> None:
        """A cluster that takes orders from anybody gets none from us: looked at once for each of its sessions."""
        known = (view.session_name, view.node_ips)
        if known == self._closed:
            return
        if doors := await self._gateway.open_doors(view):
            raise RayUnreachable(
                f"Ray is open to anybody who reaches it: {'; '.join(doors)}. Start every node with "
                "RAY_AUTH_MODE=token; until then nothing is started or concluded"
            )
        self._closed = known

    async def _load(self, view: ClusterView | None) -> list[_Case]:
        async with self._sessions() as session:
            now = await database_now(session)
            rows = (await session.execute(_UNRELEASED)).all()
            up_since = self._api.up_since(await uptime_of(session, "api"), now)
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
        return self._sightings.saw(attempt.id, job, view, now)

    def _judge(self, case: _Case, facts: AttemptFacts | None = None) -> Verdict:
        return judge(facts or case.facts, case.seen, case.now, self._limits, case.api_up_since)

    async def _carry_out(self, lease: Lease, case: _Case, verdict: Verdict) -> None:
        match verdict:
            case Wait() | Poke() | Sweep():
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
        evidence = await examine(self._gateway, job, with_stacks=verdict.stands_still) if job else {}
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            attempt, facts = await _reread(session, case.attempt)
            if self._judge(case, facts) != verdict:
                return False
            lines = [LogLine(ts=case.now, source="scheduler", text=line) for line in evidence.get("log_tail", [])]
            await log_store.append_lines(session, attempt, lines)
            reason = refine(verdict.reason, evidence)
            await attempts.end_attempt(session, attempt, reason, verdict.message, evidence)
        logger.warning(
            "attempt ended by the scheduler",
            extra={"attempt_id": attempt.id, "reason": reason, "why": verdict.message},
        )
        return True

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

    async def _note_ray_job(self, lease: Lease, case: _Case) -> None:
        """Ray's number of the driver outlives the job's entry there: by it what the driver made is found."""
        seen = case.seen.job.ray_job_id if isinstance(case.seen, Present) else None
        if seen is None or seen == case.attempt.ray_job_id:
            return
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            await attempts.note_ray_job(session, case.attempt, seen)

    async def _poke(self, reasons: list[str]) -> None:
        if not reasons:
            return
        logger.warning("ray's word is old, poking it", extra={"why": reasons[0], "jobs": len(reasons)})
        try:
            await self._gateway.poke()
        except RayUnreachable as error:
            logger.info("ray not poked", extra={"error": error.message})

    async def _sweep(self, lease: Lease, wanted: list[Attempt]) -> None:
        """Looks after what hard ends have left; a sweep that is over lets its attempts be released in the next pass."""
        async with self._sessions() as session:
            now = await database_now(session)
        try:
            swept = await self._sweeper.step(wanted, now)
        except RayUnreachable as error:
            logger.info("sweep waits for ray", extra={"error": error.message})
            return
        if swept is None:
            return
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            for attempt_id in swept.attempt_ids:
                await attempts.mark_swept(session, attempt_id, now, swept.note(attempt_id))

    async def _release(self, lease: Lease, case: _Case) -> None:
        facts = job_facts(case.seen.job) if isinstance(case.seen, Present) else {}
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            now = await database_now(session)
            await attempts.add_evidence(session, case.attempt, facts)
            await certificates.issue(session, await attempts.release(session, case.attempt, now), now)
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
        no_progress_timeout_s=experiment.spec.get("no_progress_timeout_s"),
        ray_session=attempt.ray_session,
        created_at=attempt.created_at,
        submitted_at=attempt.submitted_at,
        started_at=attempt.started_at,
        heartbeat_at=attempt.heartbeat_at,
        progress_at=attempt.progress_at,
        stop_requested_at=attempt.stop_requested_at,
        ended_at=attempt.ended_at,
        preempt_requested_at=holding.preempt_requested_at if holding else None,
        to_sweep=attempt.swept_at is None and attempts.ended_hard(attempt),
    )

"""One look at a study by the service itself: what it has used, what it knows, and whether that is enough.

read (short session) ──> intervals (a thread, no session) ──> apply (lock, only where something follows)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.contract.status import EndReason, ExperimentStatus
from service.contract.studies import StudySpec, num_planned_runs
from service.contract.study_changes import StudyState
from service.storage.database import Sessions
from service.storage.scheduling_tables import AttemptHolding, QueueEntry, UsageRecord
from service.storage.study_tables import Study, StudyRun
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import lock_experiment, move_experiment
from service.studies.counts import POINTS, RunCounts, read_counts
from service.studies.orders import hold_paused
from service.studies.reading import amendments, spec_and_amendments
from service.studies.rows import experiments_of, lock_study, set_state, state_of, target_of
from service.studies.stopping import StudyFacts, Verdict, half_widths, judge

logger = logging.getLogger(__name__)

Fence = Callable[[AsyncSession, bool], Awaitable[None]]
"""Called first in each transaction that writes, and whether it changes many experiments at once; raises if somebody
else looks after studies by now."""
_HOUR_S = 3600.0
_LIVE = (ExperimentStatus.ADMITTED, ExperimentStatus.RUNNING, ExperimentStatus.CANCELLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What was read of a study."""

    spec: StudySpec
    num_amendments: int
    facts: StudyFacts
    state: StudyState
    num_unheld: int
    """Of those that wait."""
    counted: str
    """Names the runs that say something: intervals are computed anew when it changes."""
    runs: list[RunCounts] | None
    """Read only then, and only where intervals are asked for."""
    last_check: dict[str, Any] | None
    """What the look before has left in the row."""


async def open_studies(session: AsyncSession) -> list[str]:
    """Ids of those that may need a look: open ones, and finished ones of which somebody retried a run."""
    retried = (
        select(StudyRun.study_id)
        .join(Experiment, Experiment.id == StudyRun.experiment_id)
        .where(Experiment.status == ExperimentStatus.QUEUED.value)
    )
    is_open = Study.state.in_([state.value for state in StudyState if state.is_open])
    taken_up = (Study.state == StudyState.FINISHED.value) & Study.id.in_(retried)
    return list(await session.scalars(select(Study.id).where(is_open | taken_up).order_by(Study.id)))


async def look_after(sessions: Sessions, study_id: str, fence: Fence) -> Verdict | None:
    """Judges the study and does what follows; returns the verdict if it came to its end."""
    async with sessions() as session:
        seen = await _see(session, study_id)
    widths = await _widths(study_id, seen)
    facts = seen.facts if widths is None else replace(seen.facts, half_widths=widths)
    verdict = judge(seen.spec, facts)
    check = {"counted": seen.counted, "half_widths": facts.as_evidence()["half_widths"]}
    changes = _changes(seen, verdict)
    if not changes and check == seen.last_check:
        return None
    async with sessions.begin() as session:
        await fence(session, changes)
        if not changes:
            await session.execute(update(Study).where(Study.id == study_id).values(last_check=check))
            return None
        study = await lock_study(session, study_id)
        if len(await amendments(session, study_id)) != seen.num_amendments:
            return None  # Judged by what it no longer is; the next look will tell.
        study.last_check = check
        await session.flush()
        return await _apply(session, study, verdict, facts)


def _changes(seen: _Seen, verdict: Verdict | None) -> bool:
    """Whether experiments or the state change. Only then a lock is taken, which keeps admission waiting."""
    if seen.state is StudyState.FINISHED:
        return seen.facts.num_waiting > 0
    return verdict is not None or (seen.state is StudyState.PAUSED and seen.num_unheld > 0)


async def _apply(session: AsyncSession, study: Study, verdict: Verdict | None, facts: StudyFacts) -> Verdict | None:
    state = StudyState(study.state)
    if state is StudyState.FINISHED and facts.num_waiting:
        await set_state(session, study, StudyState.RUNNING)
        return None
    if not state.is_open:
        return None
    if verdict is None:
        if state is StudyState.PAUSED:
            await hold_paused(session, study.id, by="the study")
        return None
    cancelled = await _cancel_waiting(session, study, verdict) if verdict.state is StudyState.STOPPED else 0
    before = state_of(study)
    evidence = {
        **facts.as_evidence(),
        "experiments_cancelled": cancelled,
        "by_status": await _by_status(session, study),
    }
    await set_state(session, study, verdict.state, reason=verdict.reason, message=verdict.message, evidence=evidence)
    verb = "stop" if verdict.state is StudyState.STOPPED else "finish"
    await audit.record(session, None, verb, target_of(study), before=before, after={**state_of(study), **evidence})
    logger.info("study ended", extra={"study_id": study.id, "state": verdict.state, "reason": verdict.reason})
    return verdict


async def _cancel_waiting(session: AsyncSession, study: Study, verdict: Verdict) -> int:
    cancelled = 0
    for experiment_id in await experiments_of(session, study.id, ExperimentStatus.QUEUED):
        experiment = await lock_experiment(session, experiment_id)
        if experiment is None or experiment.status != ExperimentStatus.QUEUED.value:
            continue
        await move_experiment(
            session,
            experiment_id,
            ExperimentStatus.CANCELLED,
            message=f"study {study.id} was stopped: {verdict.message}",
            reason=EndReason.STUDY_STOPPED,
            detail={"study_id": study.id, "study_reason": verdict.reason.value},
            values={"waiting_reason": None, "not_before": None},
        )
        cancelled += 1
    return cancelled


async def _by_status(session: AsyncSession, study: Study) -> dict[str, int]:
    rows = await session.execute(
        select(Experiment.status, func.count().label("number"))
        .join(StudyRun, StudyRun.experiment_id == Experiment.id)
        .where(StudyRun.study_id == study.id)
        .group_by(Experiment.status)
    )
    return {row.status: row.number for row in rows}


async def _see(session: AsyncSession, study_id: str) -> _Seen:
    study = await session.get_one(Study, study_id, populate_existing=True)
    spec, changes = await spec_and_amendments(session, study)
    counted = await _count(session, study_id)
    gpu_hours, cpu_hours = await used_hours(session, study_id)
    basis = f"{counted['succeeded']}/{counted['excluded']}/{counted['last_excluded']}/{len(changes)}"
    last = study.last_check or {}
    needs_counts = spec.budget.half_width is not None and last.get("counted") != basis
    points = POINTS[: POINTS.index(spec.primary.point) + 1]
    return _Seen(
        spec=spec,
        num_amendments=len(changes),
        state=StudyState(study.state),
        num_unheld=counted["unheld"],
        counted=basis,
        runs=await read_counts(session, study_id, points=points) if needs_counts else None,
        last_check=study.last_check,
        facts=StudyFacts(
            num_planned=num_planned_runs(spec),
            num_made=counted["made"],
            num_waiting=counted["waiting"],
            num_live=counted["live"],
            num_started=counted["started"],
            gpu_hours=gpu_hours,
            cpu_hours=cpu_hours,
            half_widths=None if needs_counts else last.get("half_widths"),
        ),
    )


async def _count(session: AsyncSession, study_id: str) -> dict[str, Any]:
    status = Experiment.status
    waits = status == ExperimentStatus.QUEUED.value
    row = (
        await session.execute(
            select(
                func.count().label("made"),
                func.count(case((waits, 1))).label("waiting"),
                func.count(case((waits & QueueEntry.held_by.is_(None), 1))).label("unheld"),
                func.count(case((status.in_([one.value for one in _LIVE]), 1))).label("live"),
                func.count(case((status == ExperimentStatus.SUCCEEDED.value, 1))).label("succeeded"),
                func.count(case((Experiment.num_attempts > 0, 1))).label("started"),
                func.count(StudyRun.excluded_at).label("excluded"),
                func.max(StudyRun.excluded_at).label("last_excluded"),
            )
            .select_from(StudyRun)
            .join(Experiment, Experiment.id == StudyRun.experiment_id)
            .join(QueueEntry, QueueEntry.experiment_id == Experiment.id)
            .where(StudyRun.study_id == study_id)
        )
    ).one()
    return dict(row._mapping)


async def used_hours(session: AsyncSession, study_id: str) -> tuple[float, float]:
    """GPU-hours and CPU-hours that the study's attempts have held, failed ones too, up to now."""
    mine = (
        select(Attempt.id)
        .join(StudyRun, StudyRun.experiment_id == Attempt.experiment_id)
        .where(StudyRun.study_id == study_id)
    )
    past_s = func.extract("epoch", UsageRecord.ended_at - UsageRecord.started_at)
    past = (
        await session.execute(
            select(func.sum(past_s * UsageRecord.num_gpus), func.sum(past_s * UsageRecord.num_cpus)).where(
                UsageRecord.attempt_id.in_(mine)
            )
        )
    ).one()
    since = func.coalesce(AttemptHolding.charged_until, Attempt.created_at)
    going_s = func.greatest(func.extract("epoch", func.clock_timestamp() - since), 0)
    going = (
        await session.execute(
            select(func.sum(going_s * Attempt.num_gpus), func.sum(going_s * Attempt.num_cpus))
            .outerjoin(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
            .where(Attempt.id.in_(mine), Attempt.released_at.is_(None))
        )
    ).one()
    gpu_s, cpu_s = (float(before or 0) + float(now or 0) for before, now in zip(past, going, strict=True))
    return gpu_s / _HOUR_S, cpu_s / _HOUR_S


async def _widths(study_id: str, seen: _Seen) -> dict[str, float | None] | None:
    """None where they are not asked for, not to be computed anew, or not to be had."""
    if seen.runs is None:
        return None
    try:
        return await asyncio.to_thread(half_widths, seen.spec, seen.runs)
    except ValueError as error:
        logger.warning("intervals of a study cannot be told", extra={"study_id": study_id, "error": str(error)})
        return {}

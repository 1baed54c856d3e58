"""What people order about a study as a whole: pause, resume, cancel; and about one of its runs: exclude, include."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit, experiments
from service.access import Actor
from service.contract.status import ExperimentStatus
from service.contract.study_changes import StudyReason, StudyState
from service.errors import NotAllowedNow, NotFound
from service.queue.group_holds import hold_waiting, release_held
from service.storage.clock import database_now
from service.storage.study_tables import Study, StudyRun
from service.studies.rows import experiments_of, lock_study, refuse_unless, set_state, state_of, target_of

_OPEN = (StudyState.RUNNING, StudyState.PAUSED)


def pause_mark(study_id: str) -> str:
    """How the reason of a hold begins that comes from a pause: by it a resume knows which are its own."""
    return f"study {study_id} is paused"


async def pause(session: AsyncSession, study_id: str, *, user: Actor, reason: str) -> Study:
    """Holds everything that waits; what runs goes on. Pausing again replaces the reason. Raises NotAllowedNow."""
    study = await lock_study(session, study_id)
    refuse_unless(study, _OPEN, "paused")
    before = state_of(study)
    held = await hold_paused(session, study_id, by=user.name, reason=reason)
    await set_state(
        session,
        study,
        StudyState.PAUSED,
        reason=StudyReason.PAUSED_BY_USER,
        message=f"paused by {user.name}" + (f": {reason}" if reason else ""),
    )
    await audit.record(
        session, user, "pause", target_of(study), before=before, after={**state_of(study), "held": len(held)}
    )
    return study


async def hold_paused(session: AsyncSession, study_id: str, *, by: str, reason: str = "") -> list[str]:
    """Holds what waits of a paused study, also what came back to the queue since. The caller holds its lock."""
    waiting = await experiments_of(session, study_id, ExperimentStatus.QUEUED)
    words = pause_mark(study_id) + (f": {reason}" if reason else "")
    return await hold_waiting(session, waiting, by=by, reason=words)


async def resume(session: AsyncSession, study_id: str, *, user: Actor) -> Study:
    """Releases what the pause held; what somebody held by hand stays held. Raises NotAllowedNow unless it is paused."""
    study = await lock_study(session, study_id)
    refuse_unless(study, (StudyState.PAUSED,), "resumed")
    before = state_of(study)
    waiting = await experiments_of(session, study_id, ExperimentStatus.QUEUED)
    released = await release_held(session, waiting, by=user.name, reason_begins=pause_mark(study_id))
    await set_state(session, study, StudyState.RUNNING)
    after = {**state_of(study), "released": len(released)}
    await audit.record(session, user, "resume", target_of(study), before=before, after=after)
    return study


async def cancel(session: AsyncSession, study_id: str, *, user: Actor, reason: str) -> Study:
    """Cancels every experiment that has not ended; those that run stop with their next report. There is no way back.

    Raises NotAllowedNow where nothing is left to cancel.
    """
    study = await lock_study(session, study_id)
    going = await experiments_of(session, study_id)
    if study.state == StudyState.CANCELLED.value or (not StudyState(study.state).is_open and not going):
        raise NotAllowedNow(f"study {study_id} is {study.state}; nothing of it is left to cancel", state=study.state)
    before, cancelled = state_of(study), 0
    for experiment_id in going:
        try:
            await experiments.cancel(session, experiment_id, user=user)
            cancelled += 1
        except NotAllowedNow:
            continue  # It ended meanwhile.
    await set_state(
        session,
        study,
        StudyState.CANCELLED,
        reason=StudyReason.CANCELLED_BY_USER,
        message=f"cancelled by {user.name}" + (f": {reason}" if reason else ""),
        evidence={"experiments_cancelled": cancelled},
    )
    after = {**state_of(study), "experiments": cancelled}
    await audit.record(session, user, "cancel", target_of(study), before=before, after=after)
    return study


async def exclude(session: AsyncSession, study_id: str, experiment_id: str, *, user: Actor, reason: str) -> StudyRun:
    """Takes a run out of everything that is said about its arm; the report lists it with the reason.

    Raises NotFound; NotAllowedNow for one that is out already.
    """
    study, run = await _run(session, study_id, experiment_id)
    if run.excluded_at is not None:
        raise NotAllowedNow(
            f"experiment {experiment_id} was excluded by {run.excluded_by}: {run.excluded_reason}; include it first to "
            "give another reason"
        )
    run.excluded_at = await database_now(session)
    run.excluded_by, run.excluded_reason = user.name, reason
    await session.flush()
    await audit.record(session, user, "exclude_run", target_of(study), after=_exclusion(run))
    return run


async def include(session: AsyncSession, study_id: str, experiment_id: str, *, user: Actor) -> StudyRun:
    """Takes an exclusion back. Raises NotFound; NotAllowedNow for a run that is not excluded."""
    study, run = await _run(session, study_id, experiment_id)
    if run.excluded_at is None:
        raise NotAllowedNow(f"experiment {experiment_id} is not excluded from study {study_id}")
    before = _exclusion(run)
    run.excluded_at = run.excluded_by = run.excluded_reason = None
    await session.flush()
    await audit.record(session, user, "include_run", target_of(study), before=before)
    return run


async def _run(session: AsyncSession, study_id: str, experiment_id: str) -> tuple[Study, StudyRun]:
    study = await lock_study(session, study_id)
    mine = (StudyRun.study_id == study_id, StudyRun.experiment_id == experiment_id)
    run = await session.scalar(select(StudyRun).where(*mine).execution_options(populate_existing=True))
    if run is None:
        raise NotFound(f"study {study_id} has no experiment {experiment_id!r}; list its runs to find the id")
    return study, run


def _exclusion(run: StudyRun) -> dict[str, Any]:
    return {"experiment_id": run.experiment_id, "arm": run.arm, "reason": run.excluded_reason}

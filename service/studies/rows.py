"""What every order on a study begins and ends with: its lock, its experiments, its new state."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import no_study
from service.contract.status import ExperimentStatus
from service.contract.study_changes import StudyReason, StudyState
from service.errors import NotAllowedNow
from service.storage.clock import database_now
from service.storage.study_tables import Study, StudyRun
from service.storage.tables import Experiment, SchedulerLease

_TERMINAL = [status.value for status in ExperimentStatus if status.is_terminal]


async def lock_study(session: AsyncSession, study_id: str) -> Study:
    """The study's row, nobody else's until the transaction ends. Raises NotFound.

    First the scheduler's lease: what it claims one by one and what an order changes all at once would else be locked
    in two different orders.
    """
    await session.execute(select(SchedulerLease.token).with_for_update())
    study = await session.scalar(
        select(Study).where(Study.id == study_id).with_for_update().execution_options(populate_existing=True)
    )
    if study is None:
        raise no_study(study_id)
    return study


def refuse_unless(study: Study, allowed: Sequence[StudyState], done: str) -> None:
    """Raises NotAllowedNow from any other state."""
    if study.state not in [state.value for state in allowed]:
        states = " or ".join(state.value for state in allowed)
        raise NotAllowedNow(
            f"study {study.id} is {study.state}; only one that is {states} can be {done}", state=study.state
        )


async def experiments_of(session: AsyncSession, study_id: str, *statuses: ExperimentStatus) -> list[str]:
    """Ids of the study's experiments that have not ended, or have one of the statuses; in the order of locks."""
    wanted = Experiment.status.in_([status.value for status in statuses])
    rows = await session.scalars(
        select(Experiment.id)
        .join(StudyRun, StudyRun.experiment_id == Experiment.id)
        .where(StudyRun.study_id == study_id, wanted if statuses else Experiment.status.not_in(_TERMINAL))
        .order_by(Experiment.id)
    )
    return list(rows)


async def set_state(
    session: AsyncSession,
    study: Study,
    state: StudyState,
    *,
    reason: StudyReason | None = None,
    message: str = "",
    evidence: dict[str, Any] | None = None,
) -> None:
    """The study is in this state from now on. The caller holds its lock."""
    study.state, study.state_reason = state.value, reason.value if reason else None
    study.message, study.evidence = message, evidence or {}
    study.state_at = await database_now(session)
    await session.flush()


def target_of(study: Study) -> audit.Target:
    """For the audit log."""
    return audit.Target(kind="study", id=study.id, name=study.name, project_id=study.project_id)


def state_of(study: Study) -> dict[str, Any]:
    """For the audit log, before and after."""
    return {"state": study.state, "state_reason": study.state_reason}

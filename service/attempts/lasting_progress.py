"""Whether what attempts did lasts, so that the next failure is counted as the first again.

An hour of work alone says little: a run that dies every hour before its first checkpoint would be tried for ever. It
counts once its stage's result is written, or once the attempt after it was seen to go on further than it had itself.
"""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.failures import PROGRESS_THAT_RESETS
from service.storage.tables import Attempt, ExperimentEvent, StageResultRow

RESUMED_KIND = "resumed"
"""The event by which a driver says from which checkpoint it goes on: `stage` and `step` are in its detail."""


async def made_lasting_progress(session: AsyncSession, attempt: Attempt) -> bool:
    """Whether this attempt, or what it took over from the one before it, is an hour's work that is not lost."""
    if _worked_long(attempt) and await _left_result(session, attempt):
        return True
    before = await session.scalar(
        select(Attempt).where(Attempt.experiment_id == attempt.experiment_id, Attempt.number == attempt.number - 1)
    )
    if before is None or not _worked_long(before):
        return False
    return await _left_result(session, before) or await _goes_on_further(session, before, attempt)


def _worked_long(attempt: Attempt) -> bool:
    started, moved = attempt.started_at, attempt.progress_at
    return started is not None and moved is not None and moved - started >= PROGRESS_THAT_RESETS


async def _left_result(session: AsyncSession, attempt: Attempt) -> bool:
    results = select(StageResultRow.stage).where(StageResultRow.attempt_id == attempt.id).limit(1)
    return await session.scalar(results) is not None


async def _goes_on_further(session: AsyncSession, before: Attempt, after: Attempt) -> bool:
    first, second = await _resumed_at(session, before), await _resumed_at(session, after)
    return any(step > first.get(stage, 0) for stage, step in second.items())


async def _resumed_at(session: AsyncSession, attempt: Attempt) -> Mapping[str, int]:
    """Step of the checkpoint that the attempt began with, by stage."""
    told = select(ExperimentEvent.detail).where(
        ExperimentEvent.attempt_id == attempt.id, ExperimentEvent.kind == RESUMED_KIND
    )
    return {
        str(detail["stage"]): step
        for detail in await session.scalars(told.order_by(ExperimentEvent.id))
        if isinstance(step := detail.get("step"), int) and "stage" in detail
    }

"""The rows behind an attempt, locked in the one order that everybody keeps: the experiment's before the attempt's."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.spec import ExperimentSpec
from service.contract.status import AttemptStatus
from service.errors import StaleAttempt
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import lock_experiment


async def lock_both(session: AsyncSession, attempt: Attempt) -> tuple[Experiment, Attempt]:
    """Both rows as they are now, locked until the transaction ends."""
    experiment = await lock_known_experiment(session, attempt.experiment_id)
    return experiment, await lock_attempt(session, attempt)


async def lock_known_experiment(session: AsyncSession, experiment_id: str) -> Experiment:
    """The row of an experiment that is known to exist, locked until the transaction ends."""
    experiment = await lock_experiment(session, experiment_id)
    assert experiment is not None, "experiments are never deleted"
    return experiment


async def lock_attempt(session: AsyncSession, attempt: Attempt) -> Attempt:
    """The attempt's row alone. Who needs the experiment's too takes `lock_both`, which keeps the order."""
    return (
        await session.scalars(
            select(Attempt)
            .where(Attempt.id == attempt.id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
    ).one()


async def update_attempt(session: AsyncSession, attempt: Attempt, values: dict[str, Any]) -> Attempt:
    """Writes columns that are no status."""
    updated = update(Attempt).where(Attempt.id == attempt.id).values(values).returning(Attempt)
    return (await session.scalars(updated.execution_options(populate_existing=True))).one()


def refuse_ended(attempt: Attempt) -> None:
    """Raises StaleAttempt if the attempt is over."""
    if attempt.status == AttemptStatus.ENDED.value:
        raise StaleAttempt(
            f"attempt {attempt.id} ended ({attempt.end_reason}); its driver must stop and write nothing more",
            attempt_id=attempt.id,
            end_reason=attempt.end_reason,
        )


def stage_names(experiment: Experiment) -> list[str]:
    """The stages that the specification has, in their order."""
    return [*ExperimentSpec.model_validate(experiment.spec).stage_names()]

"""An experiment that starts takes over the finished stages that another one of its project has run already."""

import logging

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import StageResult
from service.contract.spec import ExperimentSpec
from service.storage.clock import database_now
from service.storage.scheduling_tables import QueueEntry, StageKey
from service.storage.stage_results import read_stage_results
from service.storage.tables import Attempt, Experiment, StageResultRow
from service.storage.transitions import record_event

logger = logging.getLogger(__name__)


async def adopt_stages(session: AsyncSession, experiment: Experiment, attempt: Attempt) -> list[str]:
    """Writes their results as the experiment's own, with where they come from; returns the stages.

    Belongs into the transaction in which the attempt is opened. What an earlier attempt has done is kept.
    """
    entry = await session.get_one(QueueEntry, experiment.id)
    if not entry.reuse:
        return []
    done = {result.stage for result in await read_stage_results(session, experiment.id)}
    adopted: list[str] = []
    for stage in ExperimentSpec.model_validate(experiment.spec).stage_names():
        follows_sft = stage == "evaluate_after_sft"
        if stage in done or (follows_sft and "sft" not in {*done, *adopted}):
            continue
        source = await _finished_elsewhere(session, experiment, stage)
        if source is not None:
            await _adopt(session, experiment, attempt, source)
            adopted.append(stage)
    return adopted


async def _finished_elsewhere(session: AsyncSession, experiment: Experiment, stage: str) -> StageResultRow | None:
    """The oldest result of the same stage that its experiment has itself computed."""
    mine = (
        select(StageKey.settings_key, StageKey.content_key)
        .where(StageKey.experiment_id == experiment.id, StageKey.stage == stage, StageKey.content_key > "")
        .subquery()
    )
    same = (StageKey.settings_key == mine.c.settings_key) & (StageKey.content_key == mine.c.content_key)
    has_result = (StageResultRow.experiment_id == StageKey.experiment_id) & (StageResultRow.stage == StageKey.stage)
    return await session.scalar(
        select(StageResultRow)
        .join(StageKey, has_result)
        .join(mine, same)
        .where(
            StageKey.project_id == experiment.project_id,
            StageKey.stage == stage,
            StageKey.experiment_id != experiment.id,
            ~StageResultRow.result["detail"].has_key("reused_from"),
        )
        .order_by(StageResultRow.created_at)
        .limit(1)
    )


async def _adopt(session: AsyncSession, experiment: Experiment, attempt: Attempt, source: StageResultRow) -> None:
    result = StageResult.model_validate(source.result)
    lineage = {
        "experiment_id": source.experiment_id,
        "attempt_id": source.attempt_id,
        "finished_at": source.created_at.isoformat(),
    }
    taken = result.model_copy(update={"detail": result.detail | {"reused_from": lineage}})
    session.add(
        StageResultRow(
            experiment_id=experiment.id,
            stage=source.stage,
            attempt_id=attempt.id,
            result=taken.model_dump(mode="json"),
            created_at=await database_now(session),
        )
    )
    await session.flush()
    message = f"stage {source.stage} is reused: {source.experiment_id} has run the same"
    await record_event(session, experiment.id, "stage_reused", message, attempt_id=attempt.id, detail=lineage)
    logger.info(
        "stage reused", extra={"experiment_id": experiment.id, "stage": source.stage, "from": source.experiment_id}
    )

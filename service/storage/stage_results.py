"""Results of finished stages, read back as the contract's model."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import StageResult
from service.storage.tables import StageResultRow


async def read_stage_results(session: AsyncSession, experiment_id: str) -> list[StageResult]:
    """The experiment's finished stages, of whichever attempt, in the order in which their results were written."""
    rows = await session.scalars(
        select(StageResultRow.result)
        .where(StageResultRow.experiment_id == experiment_id)
        .order_by(StageResultRow.created_at, StageResultRow.stage)
    )
    return [StageResult.model_validate(row) for row in rows]

"""Token views: held-out samples token by token, as they were measured between steps.

A run may measure far more often than anybody looks. A stage keeps the views of at most 128 steps: beyond, every second
step goes, but never the first nor the newest, so that what is left spans the whole run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import TokenView
from service.contract.stages import StageName
from service.errors import NotFound
from service.storage.json_values import storable_text
from service.storage.tables import Attempt, TokenViewRow

MAX_STEPS = 128
_PLACE = ("experiment_id", "stage", "step", "sample_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenViewEntry:
    """That a view exists, without its tokens."""

    id: int
    stage: StageName
    step: int
    sample_index: int
    num_tokens: int


async def store_views(session: AsyncSession, attempt: Attempt, views: Sequence[TokenView]) -> None:
    """Stores views in their order; one of the same stage, step and sample from an earlier attempt is replaced.

    Belongs behind the `accept_report` of the report that holds them: it keeps earlier attempts out.
    """
    for view in views:
        values = _values(attempt, view)
        written = insert(TokenViewRow).values(values)
        measured = {name: written.excluded[name] for name in values if name not in _PLACE}
        await session.execute(written.on_conflict_do_update(index_elements=_PLACE, set_=measured))
    for stage in {view.stage for view in views}:
        await thin_out(session, attempt.experiment_id, stage)


async def thin_out(session: AsyncSession, experiment_id: str, stage: StageName, *, max_steps: int = MAX_STEPS) -> None:
    """Removes every second step's views if there are more than `max_steps` steps."""
    of_stage = (TokenViewRow.experiment_id == experiment_id, TokenViewRow.stage == stage)
    distinct = select(TokenViewRow.step).where(*of_stage).distinct().order_by(TokenViewRow.step)
    steps = (await session.scalars(distinct)).all()
    if len(steps) > max_steps:
        await session.execute(delete(TokenViewRow).where(*of_stage, TokenViewRow.step.in_(steps[1:-1:2])))


async def entries_after(
    session: AsyncSession,
    experiment_id: str,
    *,
    stage: StageName | None = None,
    step: int | None = None,
    sample_index: int | None = None,
    after: int = 0,
    limit: int,
) -> list[TokenViewEntry]:
    """Which views exist, oldest first, with ids above `after`; of one stage, step and sample where given."""
    columns = (TokenViewRow.id, TokenViewRow.stage, TokenViewRow.step, TokenViewRow.sample_index)
    rows = select(*columns, func.cardinality(TokenViewRow.tokens).label("num_tokens")).where(
        TokenViewRow.experiment_id == experiment_id, TokenViewRow.id > after
    )
    if stage is not None:
        rows = rows.where(TokenViewRow.stage == stage)
    if step is not None:
        rows = rows.where(TokenViewRow.step == step)
    if sample_index is not None:
        rows = rows.where(TokenViewRow.sample_index == sample_index)
    found = await session.execute(rows.order_by(TokenViewRow.id).limit(limit))
    return [TokenViewEntry(**row._mapping) for row in found]


async def read_view(
    session: AsyncSession, experiment_id: str, *, stage: StageName, step: int, sample_index: int
) -> TokenView:
    """One view. Raises NotFound, naming the steps that there are."""
    of_sample = (
        TokenViewRow.experiment_id == experiment_id,
        TokenViewRow.stage == stage,
        TokenViewRow.sample_index == sample_index,
    )
    row = await session.scalar(select(TokenViewRow).where(*of_sample, TokenViewRow.step == step))
    if row is None:
        steps = (await session.scalars(select(TokenViewRow.step).where(*of_sample).order_by(TokenViewRow.step))).all()
        there = f"it was viewed after the steps {', '.join(map(str, steps))}" if steps else "it was never viewed"
        raise NotFound(f"there is no token view of sample {sample_index} after step {step} of stage {stage}; {there}")
    return TokenView.model_validate({name: getattr(row, name) for name in TokenView.model_fields})


def _values(attempt: Attempt, view: TokenView) -> dict[str, object]:
    return {
        **view.model_dump(),
        "experiment_id": attempt.experiment_id,
        "attempt_id": attempt.id,
        "tokens": [storable_text(token) for token in view.tokens],
    }

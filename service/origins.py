"""Where experiments come from and what came of them: submissions, copies, studies, and stages that others took over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, and_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from service.contract.studies import StudySpec, baseline_of
from service.storage.origin_tables import ExperimentOrigin
from service.storage.rows_together import Rows
from service.storage.scheduling_tables import StageKey
from service.storage.study_tables import Study, StudyRun
from service.storage.tables import Experiment, StageResultRow

_MOST = 200
_ORIGINS = cast(Table, ExperimentOrigin.__table__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlace:
    """An experiment's place in its study."""

    study_id: str
    study_name: str
    arm: str
    sft_seed: int
    rl_seed: int
    baseline: str
    """The arm that its own is compared with."""
    baseline_id: str | None
    """That arm's experiment with the same seeds; None if there is none, or it is this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """Another experiment, and which stage binds it to this one."""

    experiment_id: str
    name: str
    stage: str


def rows_of(experiment: Experiment, *, submitted: Mapping[str, Any], cloned_from: str | None) -> Rows:
    """Keep the words of a submission, beside the experiment that was made of it."""
    return {_ORIGINS: {"experiment_id": experiment.id, "submitted": dict(submitted), "cloned_from": cloned_from}}


async def read(session: AsyncSession, experiment_id: str) -> ExperimentOrigin | None:
    """None for one of a study, and for one from before submissions were kept."""
    return await session.get(ExperimentOrigin, experiment_id)


async def copies_of(session: AsyncSession, experiment_id: str) -> Sequence[tuple[str, str]]:
    """Id and name of the experiments that were made from it as a copy, oldest first."""
    rows = (
        select(Experiment.id, Experiment.name)
        .join(ExperimentOrigin, ExperimentOrigin.experiment_id == Experiment.id)
        .where(ExperimentOrigin.cloned_from == experiment_id)
        .order_by(Experiment.submitted_at)
        .limit(_MOST)
    )
    return [(row.id, row.name) for row in await session.execute(rows)]


async def place_in_study(session: AsyncSession, experiment_id: str) -> StudyPlace | None:
    """None for an experiment that belongs to no study."""
    rows = select(StudyRun, Study.name, Study.spec).join(Study, Study.id == StudyRun.study_id)
    found = (await session.execute(rows.where(StudyRun.experiment_id == experiment_id))).one_or_none()
    if found is None:
        return None
    run, name, spec = found
    # Amendments add arms and seeds; the baseline stays what was stated.
    baseline = baseline_of(StudySpec.model_validate(spec), run.arm)
    counterpart = select(StudyRun.experiment_id).where(
        StudyRun.study_id == run.study_id,
        StudyRun.arm == baseline,
        StudyRun.sft_seed == run.sft_seed,
        StudyRun.rl_seed == run.rl_seed,
        StudyRun.experiment_id != experiment_id,
    )
    return StudyPlace(
        study_id=run.study_id,
        study_name=name,
        arm=run.arm,
        sft_seed=run.sft_seed,
        rl_seed=run.rl_seed,
        baseline=baseline,
        baseline_id=await session.scalar(counterpart),
    )


async def takers_of(session: AsyncSession, experiment_id: str) -> list[Relative]:
    """Who took over which of its stages. Only who has the same key of a stage can have done so: those are looked at."""
    own, other = aliased(StageKey), aliased(StageKey)
    same = and_(
        other.project_id == own.project_id,
        other.stage == own.stage,
        other.settings_key == own.settings_key,
        other.experiment_id != own.experiment_id,
    )
    source = StageResultRow.result["detail"]["reused_from"]["experiment_id"].astext
    result = and_(StageResultRow.experiment_id == other.experiment_id, StageResultRow.stage == other.stage)
    rows = (
        select(Experiment.id, Experiment.name, other.stage)
        .select_from(own)
        .join(other, same)
        .join(StageResultRow, result)
        .join(Experiment, Experiment.id == other.experiment_id)
        .where(own.experiment_id == experiment_id, source == experiment_id)
        .order_by(Experiment.submitted_at, other.stage)
        .limit(_MOST)
    )
    return [Relative(experiment_id=row.id, name=row.name, stage=row.stage) for row in await session.execute(rows)]


async def names_of(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, str]:
    """By id; one that is gone is left out."""
    rows = await session.execute(select(Experiment.id, Experiment.name).where(Experiment.id.in_(experiment_ids)))
    return {row.id: row.name for row in rows}

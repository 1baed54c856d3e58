"""Reads what is compared: who may be seen of those chosen, their results, and their series, each table once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from service import access
from service.access import Action, Principal, no_experiment
from service.comparison.facts import ComparedRun, Selection
from service.contract.comparison import MAX_EXPERIMENTS
from service.contract.spec import ExperimentSpec
from service.contract.status import ExperimentStatus
from service.errors import InvalidRequest
from service.storage.study_tables import StudyRun
from service.storage.tables import Experiment, MetricSeries, Project
from service.study_report.run_facts import conditions_of, training_data
from service.study_report.step_series import read_step_series
from service.study_report.stored_stages import stored_stages

_MAX_POINTS = 2000
_Rows = Select[str, str, str, dict[str, object], str, str | None]


async def read_runs(session: AsyncSession, user: Principal, wanted: Selection) -> list[ComparedRun]:
    """Those chosen, without their series: named ones in that order, else the oldest first.

    Raises NotFound for one that the user may not see, InvalidRequest for none or too many.
    """
    rows = await session.execute(await _statement(session, user, wanted))
    found = [
        _run(id=one.id, name=one.name, project=one.project, status=one.status, spec=one.spec, arm=one.arm)
        for one in rows
    ]
    if missing := [one for one in wanted.ids if one not in {run.id for run in found}]:
        raise no_experiment(missing[0])
    if len(found) > MAX_EXPERIMENTS:
        raise _refused(
            f"more than {MAX_EXPERIMENTS} experiments match", "narrow it by tag, name or project, or name them"
        )
    if wanted.ids:
        found.sort(key=lambda run: list(wanted.ids).index(run.id))
    return await _with_results(session, found)


async def read_series(session: AsyncSession, runs: Sequence[ComparedRun], names: Collection[str]) -> list[ComparedRun]:
    """The same runs with these series."""
    series = await read_step_series(session, [run.id for run in runs], names, _MAX_POINTS)
    return [replace(run, series=series.get(run.id, {})) for run in runs]


async def metric_names(session: AsyncSession, runs: Sequence[ComparedRun]) -> list[str]:
    """All series that one of them has, names sorted."""
    ids = [run.id for run in runs]
    found = select(MetricSeries.name).where(MetricSeries.experiment_id.in_(ids)).distinct().order_by(MetricSeries.name)
    return list(await session.scalars(found))


async def _statement(session: AsyncSession, user: Principal, wanted: Selection) -> _Rows:
    if wanted.is_empty:
        raise _refused("nothing is chosen", "give ids, or one of study, tag and name")
    if len(set(wanted.ids)) > MAX_EXPERIMENTS:
        raise _refused(f"{len(set(wanted.ids))} ids", f"at most {MAX_EXPERIMENTS} experiments can be compared at once")
    rows = (
        select(Experiment.id, Experiment.name, Project.name.label("project"), Experiment.spec, Experiment.status)
        .add_columns(StudyRun.arm)
        .join(Project, Project.id == Experiment.project_id)
        .outerjoin(StudyRun, StudyRun.experiment_id == Experiment.id)
        .where(user.visible.where(Experiment.project_id))
        .order_by(StudyRun.position, Experiment.submitted_at, Experiment.id)
        .limit(MAX_EXPERIMENTS + 1)
    )
    if wanted.ids:
        rows = rows.where(Experiment.id.in_(wanted.ids))
    if wanted.study is not None:
        await access.require_study(session, user, wanted.study, Action.READ)
        rows = rows.where(StudyRun.study_id == wanted.study, StudyRun.excluded_at.is_(None))
    if wanted.tag is not None:
        rows = rows.where(Experiment.tags.contains([wanted.tag]))
    if wanted.name is not None:
        rows = rows.where(Experiment.name.icontains(wanted.name, autoescape=True))
    return rows if wanted.project is None else rows.where(Project.name == wanted.project)


def _run(*, id: str, name: str, project: str, status: str, spec: Mapping[str, object], arm: str | None) -> ComparedRun:
    read = ExperimentSpec.model_validate(spec)
    return ComparedRun(
        id=id,
        name=name,
        project=project,
        status=ExperimentStatus(status),
        seed=read.seed,
        rl_seed=read.rl_seed,
        has_sft=read.sft is not None,
        spec=read.model_dump(mode="json"),
        study_arm=arm,
    )


async def _with_results(session: AsyncSession, runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    stages = await stored_stages(session, [run.id for run in runs])
    found = []
    for run in runs:
        stored, spec = stages.get(run.id, []), ExperimentSpec.model_validate(run.spec)
        found.append(
            replace(
                run,
                results={one.stage: one.metrics for one in stored},
                conditions=conditions_of(spec, stored),
                training_data=training_data(spec, stored),
            )
        )
    return found


def _refused(problem: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{problem}; {hint}", errors=[{"field": "(query)", "problem": problem, "hint": hint}])

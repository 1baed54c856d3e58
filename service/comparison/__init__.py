"""Any set of experiments side by side, on read: groups by fields of the specification, over seeds within a group.

Selection ──> reading ──> ComparedRun ──> grouping ──> figures, curves, warnings ──> Comparison ──> rendering
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from service.access import Principal
from service.comparison.curves import COSTS, favourites, metric_curves
from service.comparison.facts import ComparedRun, Selection, Wanted
from service.comparison.figures import result_rows
from service.comparison.grouping import ARM, differences, fields_that_differ, group, telling_fields
from service.comparison.reading import metric_names, read_runs, read_series
from service.comparison.rendering import comparison_csv, comparison_markdown
from service.comparison.warnings import warnings_of
from service.contract.comparison import MAX_METRICS, ComparedExperiment, ComparedGroup, Comparison
from service.errors import InvalidRequest

__all__ = ["Selection", "Wanted", "compare", "comparison_csv", "comparison_markdown", "make_comparison"]


async def compare(session: AsyncSession, user: Principal, selection: Selection, wanted: Wanted) -> Comparison:
    """The comparison as of now. Raises NotFound for what the user may not see, and InvalidRequest."""
    if wanted.metrics is not None and len(wanted.metrics) > MAX_METRICS:
        problem = f"{len(wanted.metrics)} metrics; at most {MAX_METRICS} can be read at once"
        raise InvalidRequest(problem, errors=[{"field": "metric", "problem": problem}])
    runs = await read_runs(session, user, selection)
    present = await metric_names(session, runs)
    metrics = favourites(present) if wanted.metrics is None else list(dict.fromkeys(wanted.metrics))
    if metrics:
        runs = await read_series(session, runs, {*metrics, *COSTS})
    return await asyncio.to_thread(make_comparison, runs, wanted.by, metrics, present)


def make_comparison(
    runs: Sequence[ComparedRun], by: Sequence[str] | None, metrics: Sequence[str], present: Sequence[str]
) -> Comparison:
    """Pure: the same for the same runs. Raises InvalidRequest for a field that none of them has."""
    chosen = _default(runs) if by is None else list(dict.fromkeys(by))
    groups = group(runs, chosen)
    differing = fields_that_differ(runs)
    arms = [ARM] if any(run.study_arm for run in runs) else []
    return Comparison(
        by=chosen,
        fields=[*arms, *(path for path in differing if path not in ("name", "description")), *_named(differing)],
        experiments=[_experiment(run, one.label) for one in groups for run in one.runs],
        groups=[
            ComparedGroup(label=one.label, values=dict(one.values), experiment_ids=[run.id for run in one.runs])
            for one in groups
        ],
        differing=differences(groups),
        warnings=warnings_of(groups),
        results=result_rows(groups),
        metrics=list(present),
        curves=metric_curves(groups, metrics),
    )


def _default(runs: Sequence[ComparedRun]) -> list[str]:
    """Arms, where all are runs of studies; else what tells them apart; where only seeds do, all are one group."""
    return [ARM] if runs and all(run.study_arm for run in runs) else telling_fields(runs)


def _named(differing: Sequence[str]) -> list[str]:
    return ["name"] if "name" in differing else []


def _experiment(run: ComparedRun, label: str) -> ComparedExperiment:
    return ComparedExperiment(
        id=run.id,
        name=run.name,
        project=run.project,
        status=run.status,
        seed=run.seed,
        rl_seed=run.rl_seed,
        group=label,
    )

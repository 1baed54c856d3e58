"""Series of many runs as arrays over steps, read together: a few statements for every block of runs."""

from collections.abc import Collection
from datetime import datetime

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from service import metric_store
from service.statistics.scores import Array
from service.study_report.facts import StepSeries

MAX_POINTS = 4000
"""Of each series; longer ones come as the means of neighbouring points."""
_RUNS_AT_ONCE = 32
"""Bounds what is held as Python's own numbers before it becomes arrays."""


async def read_step_series(
    session: AsyncSession, experiment_ids: Collection[str], names: Collection[str], max_points: int = MAX_POINTS
) -> dict[str, dict[str, StepSeries]]:
    """By experiment and name, of those named; what was never measured is left out."""
    found: dict[str, dict[str, StepSeries]] = {}
    wanted = sorted(experiment_ids)
    for start in range(0, len(wanted), _RUNS_AT_ONCE):
        block = await metric_store.read_many(session, wanted[start : start + _RUNS_AT_ONCE], names, max_points)
        found |= {name: {one.name: _as_steps(one) for one in series} for name, series in block.items()}
    return found


async def read_sums(session: AsyncSession, experiment_ids: Collection[str], name: str) -> dict[str, float]:
    """The sum over all steps of a series, by experiment; 0 where it was not measured."""
    series = await read_step_series(session, experiment_ids, [name])
    return {one: _sum_of(series[one][name]) if one in series else 0.0 for one in experiment_ids}


def _sum_of(series: StepSeries) -> float:
    return float(np.nansum(series.values * series.weights))


def _as_steps(series: metric_store.Series) -> StepSeries:
    if series.points is not None:
        points = series.points
        return StepSeries(
            steps=np.array(points.steps),
            values=np.array(points.values, dtype=float),
            seconds=_working_seconds(points.ts, points.steps, [one.first_step for one in series.attempts]),
        )
    known = [bucket for bucket in series.envelope if bucket.mean is not None]
    return StepSeries(
        steps=np.array([bucket.last_step for bucket in known]),
        values=np.array([bucket.mean for bucket in known], dtype=float),
        num_points=np.array([bucket.num_points for bucket in known]),
    )


def _working_seconds(ts: Collection[datetime], steps: Collection[int], starts: Collection[int]) -> Array:
    """Since the first point. Between two attempts nothing was done: that gap counts as long as the usual one."""
    times = np.array([at.timestamp() for at in ts])
    gaps = np.diff(times, prepend=times[:1])
    is_splice = np.isin(np.array(steps), np.array(list(starts)))
    usual = float(np.median(gaps[1:])) if len(gaps) > 1 else 0.0
    gaps[is_splice | (gaps < 0)] = usual
    gaps[:1] = 0.0
    seconds: Array = np.cumsum(gaps)
    return seconds

"""Metrics over RL steps by arm: the mean over seeds, its interval, and what the steps had cost by then.

Units are seeds; runs of one SFT are averaged. How steps become bins and seeds a band stands in
`service.statistics.step_curves`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.study_report import StepCurve
from service.statistics.scores import Array
from service.statistics.step_curves import band, bin_edges, bin_means, bin_totals
from service.study_report.facts import RunFacts, StepSeries
from service.study_report.main_table import CONFIDENCE, by_arm

CURVE_METRICS = ("reward/mean", "actor/entropy")
STEP_SECONDS = "timing_s/step"
TOKENS = "training/num_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binned:
    """One run: a value and the costs at the end of each bin."""

    unit: int
    values_B: Array
    tokens_B: Array
    seconds_B: Array


def step_curves(runs: Sequence[RunFacts]) -> list[StepCurve]:
    """For every arm with RL; of steps that all of its runs have reached."""
    found = []
    for arm, members in by_arm(runs).items():
        for metric in CURVE_METRICS:
            present = [run for run in members if metric in run.series and run.has_rl]
            if present and (curve := _curve(arm, metric, present)) is not None:
                found.append(curve)
    return found


def _curve(arm: str, metric: str, runs: Sequence[RunFacts]) -> StepCurve | None:
    last = int(min(run.series[metric].steps[-1] for run in runs))
    if last < 1:
        return None
    edges_B = bin_edges(last)
    binned = [_binned(run, metric, edges_B) for run in runs]
    values_UB = _by_unit(binned)
    low, high = band(values_UB, CONFIDENCE)
    first = runs[0]
    hours_B = np.mean([one.seconds_B for one in binned], axis=0) / 3600
    return StepCurve(
        arm=arm,
        metric=metric,
        num_units=len(values_UB),
        num_runs=len(runs),
        steps=edges_B.tolist(),
        mean=values_UB.mean(axis=0).tolist(),
        low=low,
        high=high,
        updates=(edges_B * first.updates_per_step).tolist(),
        tokens=np.mean([one.tokens_B for one in binned], axis=0).tolist(),
        gpu_hours=(hours_B * first.num_gpus).tolist(),
        cpu_hours=(hours_B * first.num_cpus).tolist(),
    )


def _binned(run: RunFacts, metric: str, edges_B: Array) -> _Binned:
    return _Binned(
        unit=run.sft_seed if run.has_sft else run.rl_seed,
        values_B=bin_means(run.series[metric].steps, run.series[metric].values, edges_B),
        tokens_B=_reached(run.series, TOKENS, edges_B),
        seconds_B=_summed(run.series, edges_B),
    )


def _reached(series: Mapping[str, StepSeries], name: str, edges_B: Array) -> Array:
    """A count that rises over steps, at the end of each bin; 0 where it was not measured."""
    one = series.get(name)
    reached_B: Array = np.zeros(len(edges_B)) if one is None else np.interp(edges_B, one.steps, one.values)
    return reached_B


def _summed(series: Mapping[str, StepSeries], edges_B: Array) -> Array:
    """Seconds of all steps up to the end of each bin."""
    one = series.get(STEP_SECONDS)
    if one is None:
        return np.zeros(len(edges_B))
    return bin_totals(one.steps, one.values, edges_B)


def _by_unit(binned: Sequence[_Binned]) -> Array:
    shares_sft = len({one.unit for one in binned}) == 1
    members: dict[int, list[Array]] = {}
    for place, one in enumerate(binned):
        # Where all share their SFT, RL seeds are the units.
        members.setdefault(place if shares_sft else one.unit, []).append(one.values_B)
    return np.stack([np.mean(values, axis=0) for values in members.values()])

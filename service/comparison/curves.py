"""Series of groups over steps, with what the steps had cost by then: mean, band over seeds, and each run. Pure.

A group's mean stands at the steps that all of its runs have reached: else it would jump where a run ends. Runs that
failed or were cancelled take part only where a group has no others; their own lines are always there.
"""

from collections.abc import Callable, Sequence
from math import isfinite

import numpy as np

from service.comparison.facts import BinnedRun, ComparedRun, Group
from service.comparison.figures import CONFIDENCE
from service.contract.comparison import GroupCurve, MetricCurves, RunLine
from service.contract.metric_names import describe_metric
from service.contract.stages import StageName
from service.statistics.scores import Array, RunScores, arm_scores
from service.statistics.step_curves import band, bin_edges, bin_means, bin_totals

STEP_SECONDS = "timing_s/step"
RL_TOKENS = "training/num_tokens"
SFT_TOKENS = "sft/num_tokens"
COSTS = (STEP_SECONDS, RL_TOKENS, SFT_TOKENS)
"""Read beside the metrics asked for."""
FAVOURITES = (
    "reward/mean",
    "actor/entropy",
    "completions/mean_length",
    "sft/eval/nll",
    "sft/nll",
    "sft/entropy",
)
"""The first four that are there are shown if nobody asks for others."""


def favourites(present: Sequence[str]) -> list[str]:
    """What is shown where nobody asked for anything."""
    return [name for name in FAVOURITES if name in present][:4]


def metric_curves(groups: Sequence[Group], metrics: Sequence[str]) -> list[MetricCurves]:
    """One entry a metric, in the order asked for; empty where no run has it."""
    found = []
    for metric in metrics:
        known = describe_metric(metric)
        curves = [curve for one in groups if (curve := _curve(metric, one)) is not None]
        meaning = known.meaning if known else ""
        found.append(MetricCurves(metric=metric, unit=known.unit if known else "", meaning=meaning, curves=curves))
    return found


def _curve(metric: str, group: Group) -> GroupCurve | None:
    having = [run for run in group.runs if metric in run.series and len(run.series[metric].steps)]
    counted = [run for run in having if not run.has_ended_badly] or having
    if not counted:
        return None
    last = min(_last_step(run, metric) for run in counted)
    if last < 1:
        return None
    edges_B = bin_edges(last)
    binned = [one for run in counted if np.isfinite((one := _binned(run, metric, edges_B)).values_B).all()]
    if not binned:
        return None
    values_UB = _by_unit(metric, binned)
    low, high = band(values_UB, CONFIDENCE)
    return GroupCurve(
        group=group.label,
        num_units=len(values_UB),
        num_runs=len(binned),
        steps=edges_B.tolist(),
        mean=_listed(values_UB.mean(axis=0)),
        low=low,
        high=high,
        seconds=_mean_cost(binned, lambda one: one.seconds_B),
        tokens=_mean_cost(binned, lambda one: one.tokens_B),
        runs=[_line(run, metric) for run in having],
    )


def _last_step(run: ComparedRun, metric: str) -> int:
    return int(run.series[metric].steps[-1])


def _binned(run: ComparedRun, metric: str, edges_B: Array) -> BinnedRun:
    one = run.series[metric]
    seconds_B = None if one.seconds is None else np.interp(edges_B, one.steps, one.seconds)
    tokens_B = None
    if not metric.startswith(("sft/", "eval/", "diversity/")):
        seconds_B = _total(run, STEP_SECONDS, edges_B, seconds_B)
        if (counted := run.series.get(RL_TOKENS)) is not None:
            tokens_B = np.interp(edges_B, counted.steps, counted.values)
    elif metric.startswith("sft/"):
        tokens_B = _total(run, SFT_TOKENS, edges_B, None)
    values_B = bin_means(one.steps, one.values, edges_B)
    return BinnedRun(run=run, values_B=values_B, seconds_B=seconds_B, tokens_B=tokens_B)


def _total(run: ComparedRun, name: str, edges_B: Array, otherwise: Array | None) -> Array | None:
    one = run.series.get(name)
    return otherwise if one is None else bin_totals(one.steps, one.values, edges_B)


def _by_unit(metric: str, binned: Sequence[BinnedRun]) -> Array:
    """One row a seed; runs of one SFT seed are averaged."""
    stage: StageName = "sft" if metric.startswith("sft/") else "rl"
    scores = []
    for one in binned:
        sft_seed, rl_seed = one.run.seeds_of(stage)
        scores.append(RunScores(sft_seed=sft_seed, rl_seed=rl_seed, values_P=one.values_B))
    return arm_scores(scores).values_UP


def _mean_cost(binned: Sequence[BinnedRun], cost: Callable[[BinnedRun], Array | None]) -> list[float] | None:
    """Over runs; None where one of them does not tell it."""
    found = [known for one in binned if (known := cost(one)) is not None]
    if len(found) < len(binned) or not np.isfinite(found).all():
        return None
    means: list[float] = np.mean(found, axis=0).tolist()
    return means


def _line(run: ComparedRun, metric: str) -> RunLine:
    one, last = run.series[metric], _last_step(run, metric)
    edges_B = bin_edges(last) if last >= 1 else np.array([last])
    values = bin_means(one.steps, one.values, edges_B)
    return RunLine(experiment_id=run.id, steps=edges_B.tolist(), values=_listed(values))


def _listed(values_B: Array) -> list[float | None]:
    return [float(value) if isfinite(value) else None for value in values_B]

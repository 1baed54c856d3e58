"""Results of groups: each metric of each finished stage, with its mean and interval over seeds. Pure."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from service.comparison.facts import ComparedRun, Group
from service.contract.comparison import ResultRow
from service.contract.metric_names import describe_metric
from service.contract.stages import StageName
from service.contract.study_report import Figure
from service.statistics.scores import RunScores, arm_scores
from service.statistics.two_way import mean_interval

CONFIDENCE = 0.95
STAGES: tuple[StageName, ...] = ("evaluate_after_rl", "evaluate_after_sft", "evaluate_base", "rl", "sft")
"""What people look for first comes first."""


def result_rows(groups: Sequence[Group]) -> list[ResultRow]:
    """Evaluations first, the last one at the top."""
    runs = [run for one in groups for run in one.runs]
    return [
        _row(stage, metric, groups)
        for stage in STAGES
        for metric in dict.fromkeys(name for run in runs for name in run.results.get(stage, {}))
    ]


def _row(stage: StageName, metric: str, groups: Sequence[Group]) -> ResultRow:
    known = describe_metric(metric)
    return ResultRow(
        stage=stage,
        metric=metric,
        unit=known.unit if known else "",
        better=known.better if known else "neither",
        meaning=known.meaning if known else "",
        figures=[_figure(stage, metric, one.runs) for one in groups],
    )


def _figure(stage: StageName, metric: str, runs: Sequence[ComparedRun]) -> Figure | None:
    scores = []
    for run in runs:
        value = run.results.get(stage, {}).get(metric)
        if value is not None and isfinite(value):
            sft_seed, rl_seed = run.seeds_of(stage)
            scores.append(RunScores(sft_seed=sft_seed, rl_seed=rl_seed, values_P=np.array([value])))
    if not scores:
        return None
    found = mean_interval(arm_scores(scores).values_UP, confidence=CONFIDENCE, over_prompts=False)
    return Figure(mean=found.mean, low=found.low, high=found.high, num_units=found.num_units, num_runs=len(scores))

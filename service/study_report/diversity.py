"""How different a policy's attempts are, before and after RL, and whether that goes with what RL gains.

pass@k of k samples of n is the unbiased estimate for each prompt; its intervals, as those of the other metrics, are
over seeds.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.contract.metric_names import describe_metric
from service.contract.stages import EvaluationPoint
from service.contract.studies import StudySpec
from service.contract.study_report import AssociationRow, Bounds, DiversityRow, PassCurve, RunPoint
from service.statistics.association import Association, Estimate, associate
from service.statistics.scores import arm_scores
from service.studies.counts import POINTS, SetCounts
from service.study_report.facts import RunFacts
from service.study_report.main_table import by_arm, figure_of
from service.study_report.scoring import Scored, ScoredSet, run_scores, score_column, values_of

SHOWN_METRICS = (
    "distinct_answers@{k}",
    "distinct_correct@{k}",
    "self_bleu",
    "token_entropy",
    "sequence_entropy",
    "frac_mixed_groups",
)
"""Of `diversity/{set}/…`, in the order of the report."""
_EXPLAINING = ("frac_mixed_groups", "distinct_answers@{k}", "self_bleu", "token_entropy")
_MIXED = "frac_mixed_groups"


def pass_curves(runs: Sequence[RunFacts], sets: Sequence[ScoredSet]) -> list[PassCurve]:
    """pass@1, 2, 4, … up to n, for every arm, set and point that has figures."""
    found = []
    for arm, members in by_arm(runs).items():
        for one in sets:
            ks = [2**power for power in range(one.num_samples.bit_length())]
            for point in POINTS:
                scored = [_scored_at(members, one, k, point) for k in ks]
                if known := [item for item in scored if item is not None]:
                    figures = [figure_of(item) for item in known]
                    found.append(PassCurve(arm=arm, column=one.name, point=point, ks=ks, figures=figures))
    return found


def _scored_at(members: Sequence[RunFacts], one: ScoredSet, k: int, point: EvaluationPoint) -> Scored | None:
    return score_column(members, [replace(one, metric=f"pass@{k}")], one.name, point)


def diversity_rows(runs: Sequence[RunFacts], sets: Sequence[ScoredSet]) -> list[DiversityRow]:
    """By arm, set, metric and point."""
    found = []
    for arm, members in by_arm(runs).items():
        for one in sets:
            for template in SHOWN_METRICS:
                metric = _metric_name(template, one)
                known = describe_metric(metric)
                for point in POINTS:
                    if (scored := _of_metric(members, one, metric, point)) is not None:
                        found.append(
                            DiversityRow(
                                arm=arm,
                                column=one.name,
                                point=point,
                                metric=metric,
                                unit=known.unit if known else "",
                                figure=figure_of(scored),
                            )
                        )
    return found


def _metric_name(template: str, one: ScoredSet) -> str:
    return f"diversity/{one.name}/{template.replace('{k}', str(one.num_samples))}"


def _of_metric(members: Sequence[RunFacts], one: ScoredSet, metric: str, point: EvaluationPoint) -> Scored | None:
    """A run's own figure as a table of one column."""
    rows = [(run, value) for run in members if (value := run.metrics.get(point, {}).get(metric)) is not None]
    if not rows:
        return None
    scores = arm_scores([run_scores(run, point, np.array([value])) for run, value in rows])
    num_runs = len({(run.sft_seed, run.rl_seed if point == "after_rl" else None) for run, _ in rows})
    return Scored(scores=scores, num_runs=num_runs)


def associations(runs: Sequence[RunFacts], sets: Sequence[ScoredSet], spec: StudySpec) -> list[AssociationRow]:
    """What a policy was before RL against what RL gained, and mixed groups against where RL ended."""
    trained = [run for run in runs if run.has_rl and "after_rl" in run.points]
    found = []
    for template in _EXPLAINING:
        rows = [row for run in trained if (row := _explained(run, sets, template)) is not None]
        if len(rows) < 2:
            continue
        names = f"{template.replace('{k}', str(sets[0].num_samples))}"
        found.append(_association(names, "RL gain", rows, [after - before for _, _, before, after in rows], spec))
        if template == _MIXED:
            found.append(_association(names, "after RL", rows, [after for _, _, _, after in rows], spec))
    return found


_Explained = tuple[RunFacts, float, float, float]
"""A run, the metric of the policy that RL began with, and the primary metric before and after RL."""


def _explained(run: RunFacts, sets: Sequence[ScoredSet], template: str) -> _Explained | None:
    """Means over the sets; None where something is missing."""
    begin: EvaluationPoint = "after_sft" if run.has_sft else "base"
    xs, befores, afters = [], [], []
    for one in sets:
        before, after = run.exactly_at(begin, one.name), run.exactly_at("after_rl", one.name)
        x = run.metrics.get(begin, {}).get(_metric_name(template, one))
        if before is None or after is None or x is None:
            return None
        xs.append(x)
        befores.append(_mean(before, one))
        afters.append(_mean(after, one))
    return run, float(np.mean(xs)), float(np.mean(befores)), float(np.mean(afters))


def _mean(counts: SetCounts, one: ScoredSet) -> float:
    return float(values_of(counts, one).mean())


def _association(
    x: str, y: str, rows: Sequence[_Explained], values: Sequence[float], spec: StudySpec
) -> AssociationRow:
    clusters = [run.sft_key or run.model for run, *_ in rows]
    found: Association = associate([row[1] for row in rows], values, clusters, confidence=1 - spec.alpha)
    return AssociationRow.model_validate(
        {
            "x": x,
            "y": y,
            "num_runs": found.num_runs,
            "num_clusters": found.num_clusters,
            "pearson": _bounds(found.pearson),
            "spearman": _bounds(found.spearman),
            "slope": _bounds(found.slope),
            "points": [
                RunPoint(arm=run.arm, sft_seed=run.sft_seed, rl_seed=run.rl_seed, x=x_value, y=value)
                for (run, x_value, _, _), value in zip(rows, values, strict=True)
            ],
        }
    )


def _bounds(estimate: Estimate) -> Bounds:
    return Bounds(value=estimate.value, low=estimate.low, high=estimate.high)

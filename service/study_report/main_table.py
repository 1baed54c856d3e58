"""The table of a study: every arm at every point on every evaluation set, and on their average.

Intervals are over seeds, for these prompts. The best of a stage is marked only where chance would give its lead over
the second in no more than `alpha` of all studies (the p-value of `compare`, of this one pair).
"""

from collections.abc import Mapping, Sequence

from service.contract.stages import EvaluationPoint
from service.contract.studies import StudySpec
from service.contract.study_report import Cell, Column, Figure, MainTable, Row
from service.statistics.comparison import permutation_p
from service.statistics.two_way import mean_interval
from service.studies.counts import POINTS
from service.study_report.facts import RunFacts
from service.study_report.published_rows import published_rows
from service.study_report.scoring import Scored, ScoredSet, columns_of, score_column

CONFIDENCE = 0.95
BASE_MODEL = "base model"

Lines = Mapping[str, Sequence[RunFacts]]
"""Runs by the name of their row."""


def main_table(runs: Sequence[RunFacts], sets: Sequence[ScoredSet], spec: StudySpec) -> MainTable:
    """Rows by point, then in the order of the arms, then a paper's; a row without any figure is left out."""
    columns = columns_of(sets)
    published = published_rows(spec.published, columns)
    rows: list[Row] = []
    for point in POINTS:
        lines = _base_lines(runs) if point == "base" else by_arm(runs)
        rows += _rows_at(point, lines, sets, columns, spec.alpha)
        rows += [row for row in published if row.point == point]
    return MainTable(columns=columns, rows=rows)


def by_arm(runs: Sequence[RunFacts]) -> Lines:
    """The runs of each arm, arms in the order of the runs."""
    return {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}


def figure_of(scored: Scored, *, confidence: float = CONFIDENCE) -> Figure:
    """The mean with its interval over seeds."""
    found = mean_interval(scored.scores.values_UP, confidence=confidence, over_prompts=False)
    return Figure(mean=found.mean, low=found.low, high=found.high, num_units=found.num_units, num_runs=scored.num_runs)


def _base_lines(runs: Sequence[RunFacts]) -> Lines:
    """Untouched models: one row each, whichever arms have sampled them."""
    models = list(dict.fromkeys(run.model for run in runs))
    named = {model: BASE_MODEL if len(models) == 1 else f"{BASE_MODEL} {model}" for model in models}
    return {name: [run for run in runs if run.model == model] for model, name in named.items()}


def _rows_at(
    point: EvaluationPoint, lines: Lines, sets: Sequence[ScoredSet], columns: Sequence[Column], alpha: float
) -> list[Row]:
    scored = {
        name: [score_column(members, sets, column.key, point) for column in columns] for name, members in lines.items()
    }
    present = {name: row for name, row in scored.items() if any(row)}
    best = [_clear_best({name: row[place] for name, row in present.items()}, alpha) for place in range(len(columns))]
    return [
        Row(
            point=point,
            arm=name,
            cells=[
                Cell(figure=figure_of(one) if one else None, is_best=best[place] == name)
                for place, one in enumerate(row)
            ],
        )
        for name, row in present.items()
    ]


def _clear_best(scored: Mapping[str, Scored | None], alpha: float) -> str | None:
    """The name of the highest, if it can be told from the second."""
    known = sorted(((name, one) for name, one in scored.items() if one), key=lambda pair: -pair[1].scores.mean)
    if len(known) < 2:
        return None
    (name, first), (_, second) = known[:2]
    p_value = permutation_p(first.scores, second.scores)
    return name if p_value is not None and p_value <= alpha else None

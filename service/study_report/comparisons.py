"""Every arm against its baseline: the difference, how sure it is, and what it would take to be sure.

Arms are compared on the same prompts, seeds that both ran as pairs. Holm's correction is over the arms that one column
shows at one point; the study's answer is the primary column at the primary point, everything else is to be read beside
it. An interval is that of one comparison alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.contract.stages import EvaluationPoint
from service.contract.studies import StudySpec, baseline_of
from service.contract.study_report import ArmComparison, Column, Figure
from service.statistics.comparison import Comparison, compare, holm, smallest_p
from service.statistics.power import MAX_UNITS, Wanted, further_units
from service.study_report.facts import RunFacts
from service.study_report.main_table import by_arm
from service.study_report.scoring import Scored, ScoredSet, columns_of, score_column
from service.study_report.wording import Verdict, sentence

COMPARED_POINTS: tuple[EvaluationPoint, ...] = ("after_sft", "after_rl")


def primary_key(columns: Sequence[Column], spec: StudySpec) -> str:
    """The column that decides: the set that the specification names, else the first."""
    return spec.primary.set or columns[0].key


def arm_comparisons(runs: Sequence[RunFacts], sets: Sequence[ScoredSet], spec: StudySpec) -> list[ArmComparison]:
    """The primary ones first, then by point and column; arms in the order of the runs."""
    columns = columns_of(sets)
    if not columns:
        return []
    primary = (spec.primary.point, primary_key(columns, spec))
    places = [(point, column) for point in (*COMPARED_POINTS, "base") for column in columns]
    wanted = [(point, column) for point, column in places if point in (*COMPARED_POINTS, spec.primary.point)]
    wanted.sort(key=lambda place: (place[0], place[1].key) != primary)
    return [
        row
        for point, column in wanted
        for row in _family(runs, sets, spec, column, point, is_primary=(point, column.key) == primary)
    ]


def _family(
    runs: Sequence[RunFacts],
    sets: Sequence[ScoredSet],
    spec: StudySpec,
    column: Column,
    point: EvaluationPoint,
    *,
    is_primary: bool,
) -> list[ArmComparison]:
    """All arms in one column at one point. Only where it decides, an arm stands in at a point before."""
    arms = by_arm(runs)
    scored = {
        name: one
        for name, members in arms.items()
        if (one := score_column(members, sets, column.key, point, falls_back=is_primary)) is not None
    }
    pairs = {name: against for name in scored if (against := baseline_of(spec, name)) in scored and against != name}
    found = {
        name: compare(scored[name].scores, scored[against].scores, alpha=spec.alpha) for name, against in pairs.items()
    }
    adjusted = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    place = _Place(column=column, point=point, is_primary=is_primary, num_arms=len(found), spec=spec)
    return [_row(place, name, pairs[name], scored, comparison, adjusted[name]) for name, comparison in found.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    column: Column
    point: EvaluationPoint
    is_primary: bool
    num_arms: int
    spec: StudySpec


def _row(
    place: _Place,
    arm: str,
    baseline: str,
    scored: Mapping[str, Scored],
    found: Comparison,
    p_adjusted: float | None,
) -> ArmComparison:
    alpha, wanted = place.spec.alpha, place.spec.smallest_difference if place.is_primary else None
    difference = found.difference.mean if wanted is None else wanted
    verdict = Verdict(
        arm=arm,
        baseline=baseline,
        difference=found.difference,
        p_adjusted=p_adjusted,
        alpha=alpha,
        wanted_difference=abs(difference),
        further_seeds=_further_seeds(found, abs(difference), alpha / place.num_arms),
    )
    return ArmComparison(
        arm=arm,
        baseline=baseline,
        column=place.column.key,
        metric=place.column.metric,
        point=place.point,
        is_primary=place.is_primary,
        difference=Figure(
            mean=found.difference.mean,
            low=found.difference.low,
            high=found.difference.high,
            num_units=found.difference.num_units,
            num_runs=scored[arm].num_runs + scored[baseline].num_runs,
        ),
        p_value=found.p_value,
        p_adjusted=p_adjusted,
        method=found.method,
        is_distinguishable=verdict.is_distinguishable,
        wanted_difference=verdict.wanted_difference,
        further_seeds=verdict.further_seeds,
        sentence=sentence(verdict),
    )


def _further_seeds(found: Comparison, difference: float, alpha: float) -> int | None:
    """Seeds of each arm beyond those run, at the level that Holm's strictest step asks for.

    No fewer than permutations need to reach that level at all.
    """
    if found.spread is None:
        return None
    num_units = found.difference.num_units
    paired = found.method == "signs of pairs"
    more = further_units(found.spread, num_units, Wanted(difference=difference, alpha=alpha, paired=paired))
    if more is None:
        return None
    while smallest_p(num_units + more) > alpha and num_units + more < MAX_UNITS:
        more += 1
    return more

"""From the counts of runs to tables of units x prompts: one set, or the average over sets.

All runs of a part are scored on the same prompts: those that every one of them has answered in full.

The average over S sets counts each set alike. Its table puts the sets' prompts side by side; with m_s the mean of set
s, m the average, P_s the prompts of a set and P those of all,

    v'_up = P / (S P_s) (v_up - m_s) + m

has the mean of means as its mean, the seeds' averages as its units' means, and a variance over prompts that is that of
prompts drawn anew within each set.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from re import fullmatch

import numpy as np

from service.contract.stages import EvaluationPoint
from service.contract.study_report import Column
from service.statistics.scores import ArmScores, Array, RunScores, arm_scores
from service.studies.counts import SetCounts
from service.study_report.facts import RunFacts

AVERAGE = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A set, the metric that is read from it, and the prompts that count."""

    name: str
    metric: str
    """`pass@k`, `avg` or `maj`."""
    num_samples: int
    uids: tuple[int, ...]
    num_left_out: int

    @property
    def title(self) -> str:
        """The metric with its k."""
        return self.metric if "@" in self.metric else f"{self.metric}@{self.num_samples}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An arm's units in one column, and how many runs are behind them."""

    scores: ArmScores
    num_runs: int


def scored_sets(runs: Sequence[RunFacts], metric: str) -> tuple[list[ScoredSet], list[str]]:
    """The sets of the runs that the metric can be read from, and notes on what is left out."""
    counted: dict[str, list[SetCounts]] = {}
    for run in runs:
        for at_point in run.points.values():
            for name, counts in at_point.items():
                counted.setdefault(name, []).append(counts)
    found, notes = [], []
    for name, members in counted.items():
        one, note = _scored_set(name, members, metric)
        found += [one] if one is not None else []
        notes += [note] if note else []
    return found, notes


def _scored_set(name: str, counts: Sequence[SetCounts], metric: str) -> tuple[ScoredSet | None, str]:
    num_samples, k = counts[0].num_samples, k_of(metric)
    if k is not None and k > num_samples:
        return None, f"{name} has {num_samples} samples a prompt, too few for {metric}: it has no column"
    common = set(counts[0].uids).intersection(*(one.uids for one in counts))
    everywhere = set(counts[0].uids).union(*(one.uids for one in counts))
    if not common:
        return None, f"{name}: no prompt was judged in full in every run, so it has no column"
    num_left_out, note = len(everywhere) - len(common), ""
    if num_left_out:
        note = f"{name}: {num_left_out} of {len(everywhere)} prompts are left out: some run has no verdict on them"
    uids = tuple(sorted(common))
    return ScoredSet(name=name, metric=metric, num_samples=num_samples, uids=uids, num_left_out=num_left_out), note


def columns_of(sets: Sequence[ScoredSet]) -> list[Column]:
    """One for each set, and the average where there are several."""
    columns = [
        Column(key=one.name, metric=one.title, num_prompts=len(one.uids), num_left_out=one.num_left_out) for one in sets
    ]
    if len(sets) > 1:
        titles = sorted({one.title for one in sets})
        columns.append(
            Column(
                key=AVERAGE,
                metric=titles[0] if len(titles) == 1 else sets[0].metric,
                num_prompts=sum(len(one.uids) for one in sets),
                num_left_out=sum(one.num_left_out for one in sets),
            )
        )
    return columns


def score_column(
    runs: Iterable[RunFacts], sets: Sequence[ScoredSet], key: str, point: EvaluationPoint, *, falls_back: bool = False
) -> Scored | None:
    """The runs' units in a column; None where no run has the point. With `falls_back` at their last point before."""
    chosen = [one for one in sets if key in (AVERAGE, one.name)]
    rows: list[tuple[RunFacts, EvaluationPoint, list[SetCounts]]] = []
    for run in runs:
        at = run.last_point(point, chosen[0].name) if falls_back else point
        counts = [found for one in chosen if at and (found := run.exactly_at(at, one.name)) is not None]
        if at and len(counts) == len(chosen):
            rows.append((run, at, counts))
    if not rows:
        return None
    tables = [
        arm_scores([run_scores(run, at, values_of(counts[place], one)) for run, at, counts in rows])
        for place, one in enumerate(chosen)
    ]
    # What came before RL is one run for all RL seeds that began with it.
    num_runs = len({(run.sft_seed, run.rl_seed if at == "after_rl" else None) for run, at, _ in rows})
    return Scored(scores=tables[0] if len(tables) == 1 else average(tables), num_runs=num_runs)


def average(tables: Sequence[ArmScores]) -> ArmScores:
    """The average over sets; all tables are of the same units."""
    num_prompts = sum(table.values_UP.shape[1] for table in tables)
    mean = float(np.mean([table.mean for table in tables]))
    parts = [
        num_prompts / (len(tables) * table.values_UP.shape[1]) * (table.values_UP - table.mean) + mean
        for table in tables
    ]
    return ArmScores(units=tables[0].units, values_UP=np.concatenate(parts, axis=1))


def values_of(counts: SetCounts, wanted: ScoredSet) -> Array:
    """The value of each counted prompt, in the order of the uids."""
    values_P = counts.values(wanted.metric)
    if counts.uids == wanted.uids:
        return values_P
    place = {uid: index for index, uid in enumerate(counts.uids)}
    chosen_P: Array = values_P[[place[uid] for uid in wanted.uids]]
    return chosen_P


def k_of(metric: str) -> int | None:
    """Of pass@k; None for the metrics over all samples."""
    found = fullmatch(r"pass@(\d+)", metric)
    return int(found.group(1)) if found else None


def run_scores(run: RunFacts, point: EvaluationPoint, values_P: Array) -> RunScores:
    """With the seeds that the run's values at the point depend on."""
    sft_seed, rl_seed = run.units_at(point)
    return RunScores(sft_seed=sft_seed, rl_seed=rl_seed, values_P=values_P)

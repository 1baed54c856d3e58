"""What the runs of a study were counted: right samples by prompt, from the results of their evaluations.

One function for everybody who says something about arms, so that the stopping rule and the report see the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.stages import EvaluationPoint, StageName
from service.contract.status import ExperimentStatus
from service.contract.studies import PrimaryMetric
from service.statistics.scores import Array, RunScores, pass_at_k_values
from service.storage.study_tables import StudyRun
from service.storage.tables import Experiment, StageResultRow

POINTS: tuple[EvaluationPoint, ...] = ("base", "after_sft", "after_rl")
"""In the order of a run."""
STAGES: Mapping[EvaluationPoint, StageName] = {
    "base": "evaluate_base",
    "after_sft": "evaluate_after_sft",
    "after_rl": "evaluate_after_rl",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCounts:
    """One evaluation set at one point of one run; the columns have one entry for each prompt, by rising uid."""

    num_samples: int
    """n, of each prompt."""
    uids: tuple[int, ...]
    """Lines of the set, from 0."""
    columns: Mapping[str, tuple[float, ...]]
    """`num_correct`, `mean_reward`, `majority`, `num_answers`, `num_clipped`, `num_tokens`."""
    prompts_sha256: str | None = None
    """Of uids, token ids and gold answers; None in results of workers that did not tell it."""

    def values(self, metric: str) -> Array:
        """The value of `pass@k`, `avg` or `maj` for each prompt. Raises ValueError for a k beyond the samples."""
        match metric.split("@"):
            case ["pass", k]:
                return pass_at_k_values([int(count) for count in self.columns["num_correct"]], self.num_samples, int(k))
            case ["avg"]:
                return np.asarray(self.columns["mean_reward"], dtype=np.float64)
            case ["maj"]:
                return np.asarray(self.columns["majority"], dtype=np.float64)
            case _:
                raise ValueError(f"no metric {metric!r}; there are pass@k, avg and maj")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """One run of a study and what its evaluations counted so far."""

    position: int
    arm: str
    sft_seed: int
    rl_seed: int
    experiment_id: str
    status: ExperimentStatus
    end_reason: str | None
    message: str
    has_sft: bool
    has_rl: bool
    first_set: str | None
    """Name of the set that `evaluation` itself describes; None without evaluation."""
    excluded_at: datetime | None
    excluded_by: str | None
    excluded_reason: str | None
    points: Mapping[EvaluationPoint, Mapping[str, SetCounts]] = field(default_factory=dict)
    """By point and name of the set; only what was evaluated."""

    @property
    def counts(self) -> bool:
        """Whether the run is part of what is said about its arm: it succeeded, and nobody took it out."""
        return self.status is ExperimentStatus.SUCCEEDED and self.excluded_at is None

    def at(self, point: EvaluationPoint, name: str | None = None) -> SetCounts | None:
        """A set at the point, or at the last one before it; without a name the run's first set. None: not evaluated."""
        wanted = name or self.first_set
        for earlier in reversed(POINTS[: POINTS.index(point) + 1]):
            found = self.points.get(earlier, {}).get(wanted or "")
            if found is not None:
                return found
        return None

    def scores(self, values_P: Array) -> RunScores:
        """As the statistics want it: without SFT the seed of SFT is nobody's chance."""
        return RunScores(sft_seed=self.sft_seed if self.has_sft else None, rl_seed=self.rl_seed, values_P=values_P)


async def read_counts(
    session: AsyncSession, study_id: str, *, points: Sequence[EvaluationPoint] = POINTS
) -> list[RunCounts]:
    """All runs of the study in their order, those without results too, with what was counted at the points."""
    stages = await _evaluations(session, study_id, points)
    evaluation = Experiment.spec["evaluation"]
    rows = await session.execute(
        select(
            StudyRun,
            Experiment.status,
            Experiment.end_reason,
            Experiment.message,
            Experiment.spec["sft"].label("sft"),
            Experiment.spec["rl"].label("rl"),
            evaluation["name"].astext.label("first_set"),
        )
        .join(Experiment, Experiment.id == StudyRun.experiment_id)
        .where(StudyRun.study_id == study_id)
        .order_by(StudyRun.position)
        .execution_options(populate_existing=True)
    )
    return [
        RunCounts(
            position=row.StudyRun.position,
            arm=row.StudyRun.arm,
            sft_seed=row.StudyRun.sft_seed,
            rl_seed=row.StudyRun.rl_seed,
            experiment_id=row.StudyRun.experiment_id,
            status=ExperimentStatus(row.status),
            end_reason=row.end_reason,
            message=row.message,
            has_sft=row.sft is not None,
            has_rl=row.rl is not None,
            first_set=row.first_set,
            excluded_at=row.StudyRun.excluded_at,
            excluded_by=row.StudyRun.excluded_by,
            excluded_reason=row.StudyRun.excluded_reason,
            points=_points(stages.get(row.StudyRun.experiment_id, {}), row.first_set),
        )
        for row in rows
    ]


def primary_scores(runs: Sequence[RunCounts], arm: str, primary: PrimaryMetric) -> list[RunScores]:
    """The primary metric of an arm's runs that count and were evaluated.

    Raises ValueError if they were evaluated on different prompts, or with fewer samples than the metric needs.
    """
    found = [(run, run.at(primary.point, primary.set)) for run in runs if run.arm == arm and run.counts]
    counted = [(run, counts) for run, counts in found if counts is not None]
    if len({counts.uids for _, counts in counted}) > 1:
        raise ValueError(f"the runs of arm {arm!r} were evaluated on different prompts; they cannot be averaged")
    return [run.scores(counts.values(primary.metric)) for run, counts in counted]


async def _evaluations(
    session: AsyncSession, study_id: str, points: Sequence[EvaluationPoint]
) -> dict[str, dict[EvaluationPoint, dict[str, Any]]]:
    point_of = {STAGES[point]: point for point in points}
    rows = await session.execute(
        select(StageResultRow.experiment_id, StageResultRow.stage, StageResultRow.result["detail"])
        .join(StudyRun, StudyRun.experiment_id == StageResultRow.experiment_id)
        .where(StudyRun.study_id == study_id, StageResultRow.stage.in_(point_of))
    )
    found: dict[str, dict[EvaluationPoint, dict[str, Any]]] = {}
    for experiment_id, stage, detail in rows:
        found.setdefault(experiment_id, {})[point_of[stage]] = detail or {}
    return found


def _points(
    details: Mapping[EvaluationPoint, dict[str, Any]], first_set: str | None
) -> dict[EvaluationPoint, dict[str, SetCounts]]:
    return {
        point: {
            name: _set_counts(detail)
            for name, detail in {first_set or "": whole, **whole.get("further_sets", {})}.items()
            if "per_prompt" in detail
        }
        for point, whole in details.items()
    }


def _set_counts(detail: Mapping[str, Any]) -> SetCounts:
    columns: dict[str, list[float]] = dict(detail["per_prompt"])
    uids = columns.pop("uid")
    order = sorted(range(len(uids)), key=uids.__getitem__)
    return SetCounts(
        num_samples=int(detail["num_generations"]),
        uids=tuple(int(uids[place]) for place in order),
        columns={name: tuple(column[place] for place in order) for name, column in columns.items()},
        prompts_sha256=detail.get("prompts_sha256"),
    )

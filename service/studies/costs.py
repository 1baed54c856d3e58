"""What a study may cost: bounds that follow from it, and an estimate from stages of the project that have finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.plan import ExperimentPlan
from service.contract.stages import StageName
from service.contract.study_plan import StudyPlan
from service.storage.tables import Experiment, Project, StageResultRow
from service.studies.drafting import DraftRun, StudyDraft, by_arm, stage_identities, stage_shares

_NEWEST = 400
_HOUR_S = 3600.0
Pace = Mapping[tuple[StageName, str], float]
"""Seconds of a step by stage and kind of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the idle cluster would have."""

    num_cpus: float
    num_gpus: float


async def read_pace(session: AsyncSession, project: str, draft: StudyDraft) -> tuple[Pace, int]:
    """From the newest finished stages of the project with one of the draft's models; and how many there were."""
    paths = {run.spec.model.path for run in draft.representatives().values()}
    rows = await session.execute(
        select(StageResultRow.stage, StageResultRow.result, Experiment.spec)
        .join(Experiment, Experiment.id == StageResultRow.experiment_id)
        .join(Project, Project.id == Experiment.project_id)
        .where(Project.name == project, Experiment.spec["model"]["path"].astext.in_(paths))
        .order_by(StageResultRow.created_at.desc())
        .limit(_NEWEST)
    )
    seconds: dict[tuple[StageName, str], list[float]] = {}
    for stage, result, body in rows:
        if result["steps_done"] and "reused_from" not in result["detail"]:
            kind = stage, kind_of_work(stage, body)
            seconds.setdefault(kind, []).append(result["duration_s"] / result["steps_done"])
    return {kind: median(found) for kind, found in seconds.items()}, sum(map(len, seconds.values()))


def plan_study(
    draft: StudyDraft, plans: Mapping[str, ExperimentPlan], pace: Pace, num_records: int, room: Room | None
) -> StudyPlan:
    """`plans` by arm. Nothing is said of what is not known."""
    runs = draft.runs
    spent = _Estimate.of(runs, plans, pace)
    unknown = [*spent.unknown, *_never_known(draft)]
    duration_s = None
    if spent.is_known and room is None:
        unknown.append("when it ends: the cluster was not seen yet")
    elif spent.is_known and room is not None:
        duration_s = spent.seconds / max(1, _at_once(draft, room))
    return StudyPlan(
        num_planned=draft.num_planned,
        num_experiments=len(runs),
        arms=list(draft.representatives()),
        stages=stage_shares(runs),
        max_gpu_hours=sum(run.spec.max_runtime_s * run.spec.held_resources.num_gpus for run in runs) / _HOUR_S,
        max_cpu_hours=sum(run.spec.max_runtime_s * run.spec.held_resources.num_cpus for run in runs) / _HOUR_S,
        gpu_hours=spent.gpu_s / _HOUR_S if spent.is_known else None,
        cpu_hours=spent.cpu_s / _HOUR_S if spent.is_known else None,
        duration_s=duration_s,
        basis=f"{num_records} finished stages of the project with the same model, resources and sizes"
        if spent.is_known
        else "",
        unknown=unknown,
        warnings=_warnings(draft, plans),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimate:
    """Over all runs; each stage that is equal in several of them counts once."""

    seconds: float
    cpu_s: float
    gpu_s: float
    unknown: list[str]

    @property
    def is_known(self) -> bool:
        return not self.unknown

    @classmethod
    def of(cls, runs: Sequence[DraftRun], plans: Mapping[str, ExperimentPlan], pace: Pace) -> "_Estimate":
        seen: set[object] = set()
        missing: set[str] = set()
        seconds = cpu_s = gpu_s = 0.0
        for number, run in enumerate(runs):
            steps = {stage.stage: stage.num_steps for stage in plans[run.arm].stages}
            body = run.spec.model_dump(mode="json")
            for stage, identity in stage_identities(run, number).items():
                if (stage, identity) in seen:
                    continue
                seen.add((stage, identity))
                of_step = pace.get((stage, kind_of_work(stage, body)))
                if of_step is None or not steps.get(stage):
                    missing.add(stage)
                    continue
                took = of_step * steps[stage]
                seconds += took
                cpu_s += took * run.spec.held_resources.num_cpus
                gpu_s += took * run.spec.held_resources.num_gpus
        unknown = [
            f"the time of {stage}: no finished stage of the project has its model, resources and sizes"
            for stage in sorted(missing)
        ]
        return cls(seconds=seconds, cpu_s=cpu_s, gpu_s=gpu_s, unknown=unknown)


def kind_of_work(stage: StageName, body: Mapping[str, Any]) -> str:
    """What the time of a step depends on most: model, resources and sizes. Same kind, about the same time."""
    match stage:
        case "sft":
            sizes = [body["sft"].get(key) for key in ("batch_size", "max_length")]
        case "rl":
            keys = ("num_prompts_per_step", "num_generations", "max_completion_length", "num_iterations")
            sizes = [body["rl"].get(key) for key in keys]
        case _:
            sizes = [body["evaluation"].get(key) for key in ("num_generations", "max_completion_length")]
    resources = {role: body["resources"][role] for role in ("trainer", "rollout")}
    return repr((body["model"]["path"], body["model"]["dtype"], sorted(resources.items(), key=str), sizes))


def _at_once(draft: StudyDraft, room: Room) -> int:
    """As many of the largest experiments as fit side by side, and as the study lets run."""
    largest = [run.spec.held_resources for run in draft.representatives().values()]
    fits = [len(draft.runs), draft.spec.max_running or len(draft.runs)]
    if cpus := max((one.num_cpus for one in largest), default=0.0):
        fits.append(int(room.num_cpus // cpus))
    if gpus := max((one.num_gpus for one in largest), default=0.0):
        fits.append(int(room.num_gpus // gpus))
    return min(fits)


def _never_known(draft: StudyDraft) -> list[str]:
    found = ["how long starting up, waiting for others and failures take; none of them is in the estimates"]
    if draft.spec.budget.half_width is not None:
        found.append("after how many seeds the intervals are as narrow as budget.half_width asks for")
    return found


def _warnings(draft: StudyDraft, plans: Mapping[str, ExperimentPlan]) -> list[str]:
    notes = {arm: [{"field": "warning", "problem": text} for text in plan.warnings] for arm, plan in plans.items()}
    said = [_said(entry) for entry in by_arm(draft.spec, notes)]
    if draft.num_planned > len(draft.runs) and draft.spec.budget.max_experiments is not None:
        said.append(
            f"budget.max_experiments {draft.spec.budget.max_experiments}: of {draft.num_planned} planned experiments "
            f"{len(draft.runs)} are made, seed after seed"
        )
    return said


def _said(entry: Mapping[str, Any]) -> str:
    where = str(entry["field"]).removesuffix("warning").removesuffix(".").removesuffix(": ")
    return str(entry["problem"]) if where == "base" else f"{where}: {entry['problem']}"

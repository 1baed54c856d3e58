"""What the experiment's page shows, worked out from the API's answer."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from api.results import POINT_LABELS, evaluations_of, metric_names_of, shown_number
from api.schemas import Event, Experiment
from api.web.charts import (
    OFF_POLICY_CHARTS,
    POLICY_CHARTS,
    SED_CHARTS,
    Chart,
    chances_of_success,
    reward_charts,
    sft_charts,
    time_charts,
)
from service.contract.metric_names import describe_metric
from service.contract.objectives import SedObjective
from service.contract.stages import StageName

LABELS: dict[StageName, str] = {
    "sft": "SFT",
    "evaluate_base": "Evaluation of the base model",
    "evaluate_after_sft": "Evaluation after SFT",
    "rl": "RL",
    "evaluate_after_rl": "Evaluation after RL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage on the time line."""

    name: StageName
    label: str
    num_steps: int
    done: int
    phase: str
    duration_s: float | None
    taken_from: str | None
    """The experiment that ran it, where it was taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One metric at every point."""

    name: str
    values: list[str]
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The evaluations side by side."""

    points: list[str]
    rows: list[ResultRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownChart:
    """A chart on the page."""

    chart: Chart
    is_hidden: bool
    """Until it has a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartGroup:
    """Charts that are looked at together."""

    key: str
    title: str
    charts: tuple[ShownChart, ...]
    calibration: dict[str, Any] | None = None
    """The histogram of top-k masses with tau and k; empty until tau is calibrated, None where it never is."""

    @property
    def is_hidden(self) -> bool:
        """Whether there is nothing in it yet."""
        return self.calibration is None and all(shown.is_hidden for shown in self.charts)


def stage_rows(experiment: Experiment) -> list[StageRow]:
    """The planned stages with what is done of each."""
    results = {result.stage: result for result in experiment.stage_results}
    progress = experiment.progress
    rows = []
    for plan in experiment.plan.stages:
        result = results.get(plan.stage)
        now = progress if progress is not None and progress.stage == plan.stage and result is None else None
        rows.append(
            StageRow(
                name=plan.stage,
                label=LABELS[plan.stage],
                num_steps=result.steps_planned if result else now.num_steps if now else plan.num_steps,
                done=result.steps_done if result else now.step if now else 0,
                phase="done" if result else now.phase if now else "",
                duration_s=result.duration_s if result else None,
                taken_from=result.detail.get("reused_from", {}).get("experiment_id") if result else None,
            )
        )
    return rows


def result_rows(experiment: Experiment) -> Results:
    """One column an evaluation, one row a metric."""
    evaluations = evaluations_of(experiment)
    results = list(evaluations.values())
    rows = [
        ResultRow(name=name, values=[shown_number(one.metrics.get(name)) for one in results], meaning=_meaning(name))
        for name in metric_names_of(results)
        if name.startswith(("eval/", "diversity/"))
    ]
    return Results(points=[POINT_LABELS[stage] for stage in evaluations], rows=rows)


def chart_groups(experiment: Experiment, events: Sequence[Event], known: Set[str]) -> list[ChartGroup]:
    """Charts for the stages that the specification has. `known` metrics have values: charts without any are hidden."""
    spec, groups = experiment.spec, list[ChartGroup]()
    begun = _begun(experiment, known)

    def add(key: str, title: str, charts: Sequence[Chart], calibration: dict[str, Any] | None = None) -> None:
        shown = tuple(
            ShownChart(chart=one, is_hidden=not (known & {*one.names} or (one.is_core and one.stage in begun)))
            for one in charts
        )
        groups.append(ChartGroup(key=key, title=title, charts=shown, calibration=calibration))

    if spec.sft is not None:
        add("sft", "SFT", sft_charts(spec.sft.objective))
        if isinstance(spec.sft.objective, SedObjective):
            add("sed", "SED: which tokens are penalised", SED_CHARTS, _calibration(experiment, events))
    if spec.rl is not None:
        add("rl-reward", "RL: rewards", reward_charts(spec.rl))
        add("rl-policy", "RL: the policy", POLICY_CHARTS)
        add("rl-off-policy", "RL: trainer against rollout engine", OFF_POLICY_CHARTS)
        add("rl-time", "RL: time", time_charts(spec.rl))
    if spec.evaluation is not None and (spec.evaluation.sft_steps or spec.evaluation.rl_eval_steps):
        add("evaluation", "Evaluations on the way", chances_of_success(spec.evaluation.sets))
    return groups


def _begun(experiment: Experiment, known: Set[str]) -> set[str]:
    """Stages whose charts are waited for: those of a live experiment that have begun, and its first one."""
    if experiment.status.is_terminal:
        return set()
    stages = {metric.stage for metric in map(describe_metric, known) if metric}
    return {*stages, "sft" if experiment.spec.sft else "rl"}


def has_token_views(experiment: Experiment) -> bool:
    """Whether the specification has samples to look at token by token."""
    sft = experiment.spec.sft
    return sft is not None and sft.has_held_out and sft.num_token_view_samples > 0


def _calibration(experiment: Experiment, events: Sequence[Event]) -> dict[str, Any] | None:
    """What the driver told of the calibration."""
    objective = experiment.spec.sft.objective if experiment.spec.sft else None
    if not isinstance(objective, SedObjective) or objective.mask == "none" or objective.tau is not None:
        return None
    told = [event.detail for event in events if event.kind == "tau_calibrated"]
    return told[-1] if told else {}


def _meaning(name: str) -> str:
    metric = describe_metric(name)
    return f"{metric.meaning} ({metric.unit})" if metric else ""

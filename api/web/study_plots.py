"""The plots of a study's report, as data that the page's script draws."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.metric_names import describe_metric
from service.contract.study_report import ArmCost, AssociationRow, Figure, PassCurve, StepCurve, StudyPart
from service.study_report.costs import ALL
from service.study_report.wording import POINT_NAMES

STEP_AXES = {
    "steps": "RL steps",
    "updates": "updates",
    "tokens": "tokens trained",
    "gpu_hours": "GPU-hours of RL",
    "cpu_hours": "CPU-hours of RL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One picture."""

    title: str
    unit: str
    data: dict[str, Any]
    """`axes` by name, and `traces` with a name, `x` by axis, `mean`, `low` and `high`."""


def pass_plots(part: StudyPart) -> list[Plot]:
    """pass@k over k, for each set and point; all arms in one."""
    places = list(dict.fromkeys((curve.column, curve.point) for curve in part.pass_curves))
    return [
        Plot(
            title=f"pass@k, {column}, {POINT_NAMES[point]}",
            unit="fraction",
            data={
                "axes": {"k": "k"},
                "log_x": True,
                "traces": [
                    _pass_trace(curve) for curve in part.pass_curves if (curve.column, curve.point) == (column, point)
                ],
            },
        )
        for column, point in places
    ]


def step_plots(part: StudyPart) -> list[Plot]:
    """Reward and entropy over steps, or over what they cost."""
    metrics = list(dict.fromkeys(curve.metric for curve in part.step_curves))
    return [_step_plot(metric, [curve for curve in part.step_curves if curve.metric == metric]) for metric in metrics]


def scatter_plots(part: StudyPart) -> list[Plot]:
    """What goes with the gain, one point a run."""
    return [
        Plot(
            title=f"{row.y} over {row.x}",
            unit="",
            data={"axes": {"x": row.x}, "y": row.y, "traces": _scatter_traces(row)},
        )
        for row in part.associations
    ]


def cost_plots(costs: Sequence[ArmCost]) -> list[Plot]:
    """Device-hours of each arm by phase; of GPUs where some were used, else of CPUs."""
    costs = [cost for cost in costs if cost.arm != ALL]
    if not costs:
        return []
    on_gpu = any(phase.gpu_s for cost in costs for phase in cost.phases)
    phases = list(dict.fromkeys(phase.phase for cost in costs for phase in cost.phases))
    traces = [
        {
            "name": name.replace("_", " "),
            "mode": "bar",
            "x": {"arm": [cost.arm for cost in costs]},
            "mean": [
                sum(one.gpu_s if on_gpu else one.cpu_s for one in cost.phases if one.phase == name) / 3600
                for cost in costs
            ],
        }
        for name in phases
    ]
    unit = "GPU-hours" if on_gpu else "CPU-hours"
    return [Plot(title="What each arm's results cost", unit=unit, data={"axes": {"arm": unit}, "traces": traces})]


def has_gpus(part: StudyPart) -> bool:
    """Whether GPU-hours are an axis."""
    return any(hours for curve in part.step_curves for hours in curve.gpu_hours)


def _step_plot(metric: str, curves: Sequence[StepCurve]) -> Plot:
    known = describe_metric(metric)
    axes = {name: label for name, label in STEP_AXES.items() if any(any(getattr(curve, name)) for curve in curves)}
    traces = [
        {
            "name": curve.arm,
            "mode": "lines",
            "x": {name: getattr(curve, name) for name in axes},
            "mean": curve.mean,
            "low": curve.low,
            "high": curve.high,
        }
        for curve in curves
    ]
    return Plot(title=metric, unit=known.unit if known else "", data={"axes": axes, "traces": traces})


def _pass_trace(curve: PassCurve) -> dict[str, Any]:
    return {
        "name": curve.arm,
        "mode": "lines+markers",
        "x": {"k": curve.ks},
        "mean": _each(curve.figures, "mean"),
        "low": _each(curve.figures, "low"),
        "high": _each(curve.figures, "high"),
    }


def _each(figures: Iterable[Figure], name: str) -> list[float | None]:
    return [getattr(figure, name) for figure in figures]


def _scatter_traces(row: AssociationRow) -> list[dict[str, Any]]:
    arms = list(dict.fromkeys(point.arm for point in row.points))
    return [
        {
            "name": arm,
            "mode": "markers",
            "x": {"x": [point.x for point in row.points if point.arm == arm]},
            "mean": [point.y for point in row.points if point.arm == arm],
            "labels": [f"seeds {point.sft_seed}/{point.rl_seed}" for point in row.points if point.arm == arm],
        }
        for arm in arms
    ]

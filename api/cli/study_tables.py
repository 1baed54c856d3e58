"""What the command line prints about studies."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.tables import status_text
from api.study_schemas import StudyOut, StudyPlanReply, StudyRunOut, StudySummary
from service.contract.status import ExperimentStatus
from service.contract.study_changes import StudyState
from service.contract.study_plan import StudyPlan

_COLOURS = {
    StudyState.RUNNING: "blue",
    StudyState.PAUSED: "yellow",
    StudyState.STOPPED: "cyan",
    StudyState.CANCELLED: "magenta",
    StudyState.FINISHED: "green",
}


def state_text(state: StudyState) -> Text:
    """The state in its colour."""
    return Text(state.value, style=_COLOURS[state])


def studies_table(items: Sequence[StudySummary]) -> RenderableType:
    """One row a study."""
    table = Table(box=None, pad_edge=False)
    table.add_column("ID", no_wrap=True, min_width=22)
    table.add_column("NAME", overflow="ellipsis", no_wrap=True, min_width=10)
    for column, width in (("STATE", 9), ("ENDED", 7), ("FAILED", 6), ("CREATED", 11)):
        table.add_column(column, no_wrap=True, min_width=width)
    for item in items:
        failed = item.runs.get(ExperimentStatus.FAILED, 0)
        table.add_row(
            item.id,
            Text(item.name),
            state_text(item.state),
            f"{item.num_ended}/{item.num_runs}",
            Text(str(failed) if failed else "", style="red"),
            f"{item.created_at:%m-%d %H:%M}",
        )
    return table


def study_view(study: StudyOut, runs: Sequence[StudyRunOut]) -> RenderableType:
    """One study: what it asks, where it stands, what was amended, and its runs arm by arm."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("id", study.id)
    facts.add_row("name", Text(study.name))
    facts.add_row("question", Text(study.question))
    facts.add_row("decides", Text(_decides(study)))
    facts.add_row("state", state_text(study.state))
    if study.message:
        facts.add_row("why", Text(study.message))
    facts.add_row("used", f"{study.gpu_hours:.3g} GPU-hours, {study.cpu_hours:.3g} CPU-hours")
    for arm, width in (study.half_widths or {}).items():
        shown = "too few seeds" if width is None else f"± {width:.3g}"
        facts.add_row(Text(f"{arm} − baseline"), shown)
    parts: list[RenderableType] = [facts, Text(), arms_table(runs)]
    parts += [
        Text(f"amendment {one.number} by {one.by}, {one.at:%Y-%m-%d}: {one.kind.value.replace('_', ' ')}: {one.reason}")
        for one in study.amendments
    ]
    parts += [
        Text(f"{run.experiment_id} ({run.arm}, {_seeds(run)}) excluded by {run.excluded_by}: {run.excluded_reason}")
        for run in runs
        if run.excluded_at is not None
    ]
    return Group(*parts)


def arms_table(runs: Sequence[StudyRunOut]) -> RenderableType:
    """Arms by status of their runs."""
    statuses = [status for status in ExperimentStatus if any(run.status is status for run in runs)]
    table = Table(box=None, pad_edge=False)
    table.add_column("ARM", overflow="fold")
    table.add_column("RUNS", justify="right")
    for status in statuses:
        table.add_column(status_text(status), justify="right")
    for arm in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == arm]
        counts = [sum(run.status is status for run in mine) for status in statuses]
        table.add_row(Text(arm), str(len(mine)), *(str(count) if count else "" for count in counts))
    return table


def study_plan_view(reply: StudyPlanReply) -> RenderableType:
    """The dry run."""
    plan = reply.plan
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("experiments", _number_of(plan))
    facts.add_row("arms", Text(", ".join(plan.arms)))
    for share in plan.stages:
        facts.add_row(share.stage, f"{share.num_distinct} to run for {share.num_runs} experiments")
    facts.add_row("at most", f"{plan.max_gpu_hours:.3g} GPU-hours, {plan.max_cpu_hours:.3g} CPU-hours")
    if plan.gpu_hours is not None and plan.cpu_hours is not None:
        facts.add_row("about", f"{plan.gpu_hours:.3g} GPU-hours, {plan.cpu_hours:.3g} CPU-hours, from {plan.basis}")
    if plan.duration_s is not None:
        facts.add_row("takes", f"about {_span(plan.duration_s)}, if nobody else uses the cluster")
    unknown = [Text(f"not known: {text}", style="dim") for text in plan.unknown]
    return Group(facts, *unknown, *(Text(f"warning: {text}", style="yellow") for text in plan.warnings))


def progress_line(study: StudySummary) -> str:
    """Where it stands, in one line."""
    counts = ", ".join(f"{number} {status.value}" for status, number in study.runs.items())
    return f"{study.state.value}  {study.num_ended}/{study.num_runs} ended  ({counts})"


def _decides(study: StudyOut) -> str:
    primary = study.spec.primary
    where = f" on {primary.set}" if primary.set else ""
    return f"{primary.metric}{where}, {primary.point.replace('_', ' ')}, against {study.spec.baseline}"


def _seeds(run: StudyRunOut) -> str:
    return f"seed {run.sft_seed}" + (f".{run.rl_seed}" if run.rl_seed != run.sft_seed else "")


def _number_of(plan: StudyPlan) -> str:
    if plan.num_experiments == plan.num_planned:
        return str(plan.num_experiments)
    return f"{plan.num_experiments} of the {plan.num_planned} that the study stands for"


def _span(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"

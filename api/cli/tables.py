"""What the command line prints about experiments: lists, one experiment, and the table of results."""

from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.results import POINT_LABELS, evaluations_of, metric_names_of, sft_facts, shown_bytes, shown_number
from api.schemas import ClusterOut, Experiment, ExperimentPlanReply, ExperimentSummary, QueueOut
from service.contract.plan import MemoryPlan
from service.contract.spec import ExperimentSpec
from service.contract.status import EndReason, ExperimentStatus

_COLOURS = {
    ExperimentStatus.QUEUED: "yellow",
    ExperimentStatus.ADMITTED: "cyan",
    ExperimentStatus.RUNNING: "blue",
    ExperimentStatus.CANCELLING: "magenta",
    ExperimentStatus.SUCCEEDED: "green",
    ExperimentStatus.FAILED: "red",
    ExperimentStatus.CANCELLED: "magenta",
}
_PHASES = {"sft": "SFT", "rl": "RL", **{stage: f"evaluation {point}" for stage, point in POINT_LABELS.items()}}


def status_text(status: ExperimentStatus) -> Text:
    """The status in its colour."""
    return Text(status.value, style=_COLOURS[status])


def experiments_table(items: list[ExperimentSummary]) -> RenderableType:
    """One row an experiment; below, in words, why some wait or failed."""
    table = Table(box=None, pad_edge=False)
    table.add_column("ID", no_wrap=True, min_width=20)
    table.add_column("NAME", overflow="ellipsis", no_wrap=True, min_width=10)
    table.add_column("STATUS", no_wrap=True, min_width=10)
    table.add_column("CPU/GPU", no_wrap=True)
    table.add_column("SUBMITTED", no_wrap=True, min_width=10)
    table.add_column("TOOK", no_wrap=True, min_width=6)
    for item in items:
        table.add_row(
            item.id,
            Text(item.name),
            status_text(item.status),
            f"{item.num_cpus:g}/{item.num_gpus:g}",
            _ago(item.submitted_at),
            _took(item),
        )
    reasons = [Text(f"{item.id}  {why}", style="dim") for item in items if (why := _why(item))]
    return Group(table, *reasons)


def queue_table(queue: QueueOut) -> RenderableType:
    """Capacity, who runs and who waits."""
    return Group(capacity_line(queue.cluster), experiments_table([*queue.running, *queue.queued]))


def capacity_line(cluster: ClusterOut | None) -> Text:
    """What is taken of the whole cluster, or why nobody knows."""
    if cluster is None:
        return Text("The scheduler has not seen the cluster yet.", style="yellow")
    if not cluster.reachable:
        return Text(f"Ray does not answer: {cluster.message}", style="red")
    return Text(
        f"CPUs {cluster.num_cpus_taken:g} of {cluster.num_cpus:g} taken, "
        f"GPUs {cluster.num_gpus_taken:g} of {cluster.num_gpus:g} taken"
    )


def experiment_view(experiment: Experiment) -> RenderableType:
    """One experiment: status, attempts, results."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("id", experiment.id)
    facts.add_row("name", Text(experiment.name))
    facts.add_row("status", status_text(experiment.status))
    if why := _why(experiment):
        facts.add_row("why", Text(why))
    facts.add_row("took", _took(experiment))
    attempts = Table(box=None, pad_edge=False)
    for column in ("ATTEMPT", "STATUS", "END", "RAY JOB", "MESSAGE"):
        attempts.add_column(column, overflow="fold")
    for attempt in experiment.attempts:
        end = attempt.end_reason.value if attempt.end_reason else ""
        attempts.add_row(
            str(attempt.number), attempt.status.value, end, attempt.ray_submission_id, Text(attempt.message)
        )
    parts: list[RenderableType] = [facts]
    if experiment.attempts:
        parts += [Text(), attempts]
    if experiment.stage_results:
        parts += [Text(), results_table(experiment)]
    if known := sft_facts(experiment):
        learnt = Table.grid(padding=(0, 2))
        learnt.add_column(no_wrap=True)
        learnt.add_column(overflow="fold")
        for label, value in known.items():
            learnt.add_row(Text(label, style="dim"), Text(value))
        parts += [Text("\nSFT", style="italic"), learnt]
    return Group(*parts)


def results_table(experiment: Experiment) -> RenderableType:
    """The evaluations side by side, and what each phase took."""
    evaluations = evaluations_of(experiment)
    table = Table(title=Text(f"{experiment.name} (seed {experiment.spec.seed})"), title_justify="left")
    table.add_column("")
    names = _result_names(experiment)
    for name in names:
        table.add_column(_short(name, experiment.spec), justify="right")
    for stage, result in evaluations.items():
        table.add_row(POINT_LABELS[stage], *(shown_number(result.metrics.get(name)) for name in names))
    phases = Table(title="time per phase", title_justify="left")
    phases.add_column("phase")
    phases.add_column("steps", justify="right")
    phases.add_column("s", justify="right")
    phases.add_column("of it generating", justify="right")
    for result in experiment.stage_results:
        generating = result.detail.get("generation_s")
        shown = f"{generating:.1f}" if generating is not None else ""
        phases.add_row(_PHASES[result.stage], str(result.steps_done), f"{result.duration_s:.1f}", shown)
    if evaluations:
        phases.caption = "The first evaluation also waits for the rollout engine's start."
        phases.caption_justify = "left"
    return Group(table, phases) if evaluations else phases


def plan_view(reply: ExperimentPlanReply) -> RenderableType:
    """The derived numbers of a dry run, the memory that it needs, and its warnings."""
    table = Table(box=None, pad_edge=False)
    table.add_column("STAGE")
    table.add_column("STEPS", justify="right")
    table.add_column("NUMBERS")
    for stage in reply.plan.stages:
        numbers = ", ".join(f"{name} {value}" for name, value in stage.numbers.items())
        table.add_row(stage.stage, str(stage.num_steps), numbers)
    demand = Text(f"holds {reply.plan.num_cpus:g} CPUs and {reply.plan.num_gpus:g} GPUs")
    memory = [_memory_table(reply.plan.memory)] if reply.plan.memory else []
    warnings = (Text(f"warning: {warning}", style="yellow") for warning in reply.plan.warnings)
    return Group(table, demand, *memory, *warnings)


def _memory_table(plans: list[MemoryPlan]) -> RenderableType:
    """What one actor of each role needs at its peak."""
    table = Table(box=None, pad_edge=False)
    table.add_column("MEMORY")
    table.add_column("STAGE")
    table.add_column("NEEDS", justify="right", no_wrap=True)
    table.add_column("HAS", justify="right", no_wrap=True)
    table.add_column("OF IT")
    for plan in plans:
        has = "unknown" if plan.available_bytes is None else shown_bytes(plan.available_bytes)
        parts = ", ".join(f"{name.replace('_', ' ')} {shown_bytes(size)}" for name, size in plan.parts.items())
        too_large = plan.available_bytes is not None and plan.total_bytes > plan.available_bytes
        needs = Text(shown_bytes(plan.total_bytes), style="red" if too_large else "")
        table.add_row(Text(f"{plan.role} ({plan.device})"), plan.stage, needs, has, Text(parts))
    return table


def print_problem(console: Console, title: str, detail: str, errors: list[dict[str, object]]) -> None:
    """An error with its findings, one a line."""
    console.print(Text.assemble((f"{title}{': ' if not errors else ''}", "bold red"), "" if errors else detail))
    for error in errors:
        hint = f" ({error['hint']})" if error.get("hint") else ""
        console.print(Text(f"  {error.get('field')}: {error.get('problem')}{hint}"))


def _result_names(experiment: Experiment) -> list[str]:
    """Chance of success first, for the k that were asked for, then diversity; the page has all the others."""
    names = metric_names_of(list(evaluations_of(experiment).values()))
    asked = sorted({k for one in experiment.spec.evaluation_sets().values() for k in one.pass_at_k})
    wanted = (*(f"/pass@{k}" for k in asked), "/maj@", "/self_bleu", "/distinct_answers@", "/distinct_correct@")
    # The number after an `@` is the name's end: pass@1 is not pass@16.
    return [name for part in wanted for name in names if name.endswith(part) or (part[-1] == "@" and part in name)]


def _short(name: str, spec: ExperimentSpec) -> str:
    """Without the set's name where there is one set only."""
    *_, set_name, last = name.split("/")
    short = {"self_bleu": "Self-BLEU"}.get(last, last.replace("_", " "))
    return short if len(spec.evaluation_sets()) < 2 else f"{set_name} {short}"


def _why(item: ExperimentSummary) -> str:
    if item.status is ExperimentStatus.QUEUED:
        return item.waiting_reason or ""
    if item.end_reason is None or item.end_reason is EndReason.COMPLETED:
        return ""
    return f"{item.end_reason.value}: {item.message}" if item.message else item.end_reason.value


def _ago(moment: datetime) -> str:
    return f"{shown_duration((datetime.now(UTC) - moment).total_seconds())} ago"


def _took(item: ExperimentSummary) -> str:
    if item.started_at is None:
        return "–"
    return shown_duration(((item.ended_at or datetime.now(UTC)) - item.started_at).total_seconds())


def shown_duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"

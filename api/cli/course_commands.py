"""`sedray timeline`, `spec` and `lineage`: an experiment's course, what it runs, and where it comes from."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.arguments import ExperimentId
from api.cli.calling import client_of, console, errors
from api.cli.completion import experiment_ids
from api.cli.forms import AsJson, Commands, print_json
from api.cli.panels import LOOK
from api.cli.tables import shown_duration
from api.specification_schemas import Lineage, RelatedExperiment, SpecificationOut
from api.timeline_schemas import AttemptSpan, StageSpan, Timeline

_STYLES = {"problem": "red", "notice": "yellow", "milestone": ""}
_RELATIONS = {"chosen": "", "cloned_from": ", its pattern", "baseline": ", its study's baseline"}


def add_course_commands(app: Commands) -> None:
    """Makes them commands of `app`."""
    for command in (timeline, spec, lineage):
        app.command(rich_help_panel=LOOK)(command)


def timeline(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Show when it waited and ran, which attempt was at which stage, and what happened on the way."""
    with client_of(context) as client:
        found = client.timeline(experiment_id)
        console.print(timeline_view(found)) if not as_json else print_json(found)


def spec(
    context: typer.Context,
    experiment_id: ExperimentId,
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Show what differs from this experiment instead.", show_default=False, autocompletion=experiment_ids
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print an experiment's specification, ready to submit: what differs from the defaults."""
    if resolved and (as_json or against is not None):
        raise typer.BadParameter("--resolved goes alone: --json and --yaml have all forms, --against shows differences")
    with client_of(context) as client:
        found = client.specification(experiment_id, against=against)
        if as_json:
            print_json(found)
        elif against is not None:
            console.print(changes_view(found))
        else:
            _print_specification(found.resolved if resolved else found.chosen)
            if found.against is not None and found.changes:
                errors.print(Text(_differences(found), style="dim"), soft_wrap=True)


def lineage(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Show where an experiment comes from, what was made of it, and digests of its data and code."""
    with client_of(context) as client:
        found = client.lineage(experiment_id)
        console.print(lineage_view(found)) if not as_json else print_json(found)


def timeline_view(found: Timeline) -> RenderableType:
    """Everything in the order in which it began, one a line."""
    lines: list[tuple[datetime, Text]] = []
    for wait in found.waits:
        lines.append((wait.start, Text(f"waits {_took(wait.start, wait.end, found.now)}", style="dim")))
    for attempt in found.attempts:
        lines += _attempt_lines(attempt, found.now)
    for incident in found.incidents:
        which = f" (attempt {incident.attempt_number})" if incident.attempt_number else ""
        lines.append((incident.ts, Text(f"{incident.message}{which}", style=_STYLES[incident.weight])))
    # Sorting is stable: of one moment the wait comes before the attempt, that before its stages and incidents.
    lines.sort(key=lambda line: line[0])
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for taken in found.taken_over:
        table.add_row("", Text(f"{taken.stage} was taken over from {taken.experiment_id}"))
    for moment, text in lines:
        table.add_row(f"{moment.astimezone():%Y-%m-%d %H:%M:%S}", text)
    return table


def changes_view(found: SpecificationOut) -> RenderableType:
    """One row a setting that differs."""
    if not found.changes:
        return Text(_differences(found))
    table = Table(box=None, pad_edge=False)
    table.add_column("FIELD", overflow="fold")
    table.add_column(found.against.experiment_id if found.against else "", overflow="fold")
    table.add_column(found.experiment_id, overflow="fold")
    for change in found.changes:
        table.add_row(change.path, Text(_value(change.before)), Text(_value(change.after)))
    return table


def lineage_view(found: Lineage) -> RenderableType:
    """Its pattern, copies, study, shared stages, data and code."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    _add_related(facts, "cloned from", [found.cloned_from] if found.cloned_from else [])
    _add_related(facts, "copies", found.copies)
    if study := found.study:
        place = f"arm {study.arm}, SFT seed {study.sft_seed}, RL seed {study.rl_seed}"
        facts.add_row("study", Text(f"{study.study_id} {study.study_name}: {place}"))
        if study.baseline_id:
            facts.add_row("baseline", Text(f"{study.baseline_id} {study.baseline}"))
    _add_related(facts, "stages from", found.taken_from)
    _add_related(facts, "stages to", found.taken_by)
    for digest in found.data:
        facts.add_row(f"{digest.stage} {digest.what}", Text(digest.sha256))
    for name, value in found.code.items():
        facts.add_row(f"code {name}", Text(value))
    return facts if facts.row_count else Group(Text("It comes from nothing else, and no stage has finished yet."))


def _attempt_lines(attempt: AttemptSpan, now: datetime) -> list[tuple[datetime, Text]]:
    how = attempt.end_reason.value if attempt.end_reason else attempt.status.value
    message = f": {attempt.message}" if attempt.message else ""
    head = Text(f"attempt {attempt.number}, {how}, {_took(attempt.start, attempt.end, now)}{message}", style="bold")
    return [(attempt.start, head)] + [(span.start, Text(f"  {_span(span, now)}")) for span in attempt.spans]


def _span(span: StageSpan, now: datetime) -> str:
    steps = ""
    if span.steps_done is not None:
        steps = f", {span.steps_done}" + (f" of {span.steps_planned}" if span.steps_planned is not None else "")
        steps += " steps"
    return f"{span.stage or 'starting'} {span.state}, {_took(span.start, span.end, now)}{steps}"


def _took(start: datetime, end: datetime | None, now: datetime) -> str:
    return shown_duration(((end or now) - start).total_seconds()) + ("" if end else " so far")


def _print_specification(document: dict[str, Any]) -> None:
    sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))


def _differences(found: SpecificationOut) -> str:
    if found.against is None:
        return "there is nothing to compare with"
    other = f"{found.against.experiment_id}{_RELATIONS[found.against.relation]}"
    if not found.changes:
        return f"nothing differs from {other}"
    number = len(found.changes)
    differ = "1 setting differs" if number == 1 else f"{number} settings differ"
    return f"{differ} from {other}: see --against {found.against.experiment_id}"


def _value(value: Any) -> str:
    return "–" if value is None else str(value)


def _add_related(facts: Table, label: str, related: Sequence[RelatedExperiment]) -> None:
    for one in related:
        stage = f" ({one.stage})" if one.stage else ""
        facts.add_row(label, Text(f"{one.experiment_id} {one.name or '(gone)'}{stage}"))

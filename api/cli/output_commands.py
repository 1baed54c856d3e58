"""`sedray cost` and `sedray checkpoints`: what an experiment took, and what lies in its folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.arguments import ExperimentId
from api.cli.calling import ExitCode, client_of, console, errors, waiting
from api.cli.forms import AsJson, Commands, print_json
from api.cli.panels import LOOK
from api.cli.tables import print_problem, shown_duration
from api.client import SedrayClient
from api.output_schemas import OutputPage, Spend
from api.results import shown_bytes


def add_output_commands(app: Commands) -> None:
    """Makes them commands of `app`."""
    for command in (cost, checkpoints):
        app.command(rich_help_panel=LOOK)(command)


def cost(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Show what an experiment took: CPU- and GPU-hours by phase, and what was lost by failures."""
    with client_of(context) as client:
        found = client.spend(experiment_id)
        console.print(cost_view(found)) if not as_json else print_json(found)


def checkpoints(
    context: typer.Context,
    experiment_id: ExperimentId,
    download: Annotated[
        str | None, typer.Option(help="Download this one as a tar.", metavar="NAME", show_default=False)
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Of --download: only this file, as --json lists it.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the download.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List checkpoints and exported models, or download one.

    `export checkpoint` writes a model as a folder and goes on where it broke off.
    """
    if (download is None) != (output is None) or (file is not None and download is None):
        raise typer.BadParameter("--download NAME and --output FILE go together, and --file with them")
    if download is not None and as_json:
        raise typer.BadParameter("a download is written to --output; leave --json and --yaml out")
    with client_of(context) as client:
        if download is not None and output is not None:
            _download(client, experiment_id, download, file, output)
            return
        page = client.checkpoints(experiment_id)
        console.print(checkpoints_view(page)) if not as_json else print_json(page)


def cost_view(found: Spend) -> RenderableType:
    """By phase, parts of a phase indented below it, then the sums of all attempts."""
    table = Table(box=None, pad_edge=False)
    table.add_column("PHASE")
    for column in ("TOOK", "CPU-HOURS", "GPU-HOURS"):
        table.add_column(column, justify="right", no_wrap=True)
    for phase in found.phases:
        name = Text(f"{'  ' if phase.is_part else ''}{phase.phase}")
        table.add_row(name, shown_duration(phase.wall_s), _hours(phase.cpu_s), _hours(phase.gpu_s))
    table.add_row("held by all attempts", "", _hours(found.held_cpu_s), _hours(found.held_gpu_s), style="bold")
    table.add_row("lost by failures", "", _hours(found.lost_cpu_s), _hours(found.lost_gpu_s))
    return table


def checkpoints_view(page: OutputPage) -> RenderableType:
    """One row a checkpoint or model, and where they lie."""
    table = Table(box=None, pad_edge=False)
    for column in ("NAME", "KIND", "STAGE", "STEP", "SIZE", "FILES", "WRITTEN"):
        table.add_column(column, no_wrap=True)
    for item in page.items:
        written = "–" if item.modified_at is None else f"{item.modified_at.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(
            Text(item.id),
            item.kind,
            item.stage,
            "–" if item.step is None else str(item.step),
            shown_bytes(item.num_bytes),
            str(len(item.files)),
            written if item.is_whole else Text("not whole", style="yellow"),
        )
    where = Text(f"in {page.location}", style="dim")
    return Group(table, where) if page.items else Group(Text("nothing is there"), where)


def _download(client: SedrayClient, experiment_id: str, name: str, file: str | None, output: Path) -> None:
    try:
        with waiting(f"writing {output} …"):
            client.download_checkpoint(experiment_id, name, output, file=file)
    except OSError as error:
        print_problem(errors, "cannot write", f"{error.filename or output}: {error.strerror or error}", [])
        raise typer.Exit(ExitCode.FAILED) from error
    console.print(f"written to {output}", markup=False, soft_wrap=True)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3f}"

"""`sedray metrics`: which there are, their values as a table or CSV, or their curves in the terminal."""

import csv
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.arguments import ExperimentId
from api.cli.calling import ExitCode, client_of, console, errors
from api.cli.commands import app
from api.cli.completion import metric_names
from api.cli.forms import AsJson, print_json
from api.cli.panels import LOOK
from api.cli.plot import plot
from api.cli.tables import print_problem
from api.client import SedrayClient
from api.schemas import MetricName, MetricSeriesOut

_TABLE_ROWS = 20
_CSV_POINTS = 10_000


@app.command("metrics", rich_help_panel=LOOK)
def show_metrics(
    context: typer.Context,
    experiment_id: ExperimentId,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Metrics by name or pattern, such as 'reward/*'; none: list what there is.",
            autocompletion=metric_names,
            show_default=False,
        ),
    ] = None,
    as_plot: Annotated[bool, typer.Option("--plot", help="Draw each as a curve, as wide as the terminal.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every point as CSV: name,step,ts,value.")] = False,
    from_step: Annotated[int | None, typer.Option(min=0, help="From this step on.")] = None,
    to_step: Annotated[int | None, typer.Option(min=0, help="Up to this step, itself included.")] = None,
    max_points: Annotated[int, typer.Option(min=1, max=10_000, help="Of each series, with --json.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """List an experiment's metrics, or show some of them."""
    if as_plot + as_csv + as_json > 1:
        raise typer.BadParameter("--plot, --csv, --json and --yaml exclude each other")
    with client_of(context) as client:
        catalogue = client.metric_names(experiment_id)
        if not names and not (as_plot or as_csv):
            print_json(catalogue) if as_json else console.print(names_table(catalogue.items))
            return
        known = [one.name for one in catalogue.items]
        chosen = _chosen(known, names) if names else known
        if as_csv:
            _print_csv(client, experiment_id, chosen, from_step, to_step)
            return
        wanted = 2 * console.width if as_plot else max_points if as_json else _CSV_POINTS
        page = client.metrics(experiment_id, chosen, max_points=wanted, from_step=from_step, to_step=to_step)
        if as_json:
            print_json(page)
        elif as_plot:
            console.print(*(plot(one, width=console.width) for one in page.series), sep="\n")
        else:
            console.print(values_table(page.series))


def names_table(items: Sequence[MetricName]) -> RenderableType:
    """A line for each metric that there is."""
    table = Table(box=None, pad_edge=False)
    for title in ("METRIC", "VALUE", "UNIT", "STEP", "POINTS", "MEANING"):
        right = title in ("VALUE", "STEP", "POINTS")
        table.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=title != "MEANING")
    for one in items:
        numbers = f"{one.last_step}", f"{one.num_points}"
        table.add_row(Text(one.name), f"{one.last_value:.4g}", one.unit, *numbers, Text(one.meaning, style="dim"))
    return table if items else Text("no metric yet", style="dim")


def values_table(series: Sequence[MetricSeriesOut]) -> RenderableType:
    """The newest steps, a column a metric."""
    values = {(one.name, point.step): point.value for one in series for point in one.points}
    means = {(one.name, bucket.last_step): bucket.mean for one in series for bucket in one.envelope}
    values |= {place: mean for place, mean in means.items() if mean is not None}
    steps = sorted({step for _, step in values})
    table = Table(box=None, pad_edge=False)
    table.add_column("STEP", justify="right")
    for one in series:
        table.add_column(Text(one.name), justify="right", overflow="fold")
    for step in steps[-_TABLE_ROWS:]:
        row = [values.get((one.name, step)) for one in series]
        table.add_row(str(step), *("" if value is None else f"{value:.4g}" for value in row))
    if len(steps) > _TABLE_ROWS:
        table.caption = f"the last {_TABLE_ROWS} of {len(steps)} steps; all: --csv"
        table.caption_justify = "left"
    return table


def _chosen(known: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The metrics that fit any pattern; ends the command where one fits none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else "see them all without a name"
            print_problem(errors, "no such metric", f"{pattern}; {hint}", [])
            raise typer.Exit(ExitCode.USAGE)
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _print_csv(
    client: SedrayClient, experiment_id: str, names: Sequence[str], from_step: int | None, to_step: int | None
) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("name", "step", "ts", "value"))
    for point in client.metric_points(experiment_id, names, from_step=from_step, to_step=to_step):
        writer.writerow((point.name, point.step, point.ts.isoformat(), point.value))

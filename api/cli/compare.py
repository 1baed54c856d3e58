"""`sedray compare`: any experiments side by side."""

import sys
from typing import Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.calling import client_of, console, waiting
from api.cli.forms import AsJson, print_json
from service.contract.comparison import Comparison
from service.contract.study_report import Figure

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of experiments.", show_default=False)]
By = Annotated[
    list[str] | None,
    typer.Option(help="Group by this field of the specification, or by `arm` (repeatable); `none`: one group."),
]
Metric = Annotated[list[str] | None, typer.Option(help="Read this series too (repeatable); see --json and --format.")]


def compare(
    context: typer.Context,
    ids: Ids = None,
    study: Annotated[str | None, typer.Option(help="The runs of this study.", show_default=False)] = None,
    tag: Annotated[str | None, typer.Option(help="Those with this tag.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Those whose name contains this.", show_default=False)] = None,
    project: Annotated[str | None, typer.Option(help="Only those of this project.", show_default=False)] = None,
    by: By = None,
    metric: Metric = None,
    form: Annotated[
        Literal["csv", "md"] | None, typer.Option("--format", "-f", help="Print it as CSV or Markdown.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare experiments in groups: means and 95 % intervals over seeds."""
    if as_json and form is not None:
        raise typer.BadParameter("--json and --yaml print the comparison; with --format leave them out")
    if not (ids or study or tag or name):
        raise typer.BadParameter("give ids of experiments, or one of --study, --tag and --name")
    grouped = None if by is None else [one for one in by if one != "none"]
    options = {"study": study, "tag": tag, "name": name, "project": project}
    with client_of(context) as client, waiting("reading results and series …"):
        if form is not None:
            text = client.compare_text(form, ids or (), by=grouped, metrics=metric, **options)
            sys.stdout.write(text)
            return
        found = client.compare(ids or (), by=grouped, metrics=metric if metric or as_json else (), **options)
    print_json(found) if as_json else console.print(comparison_view(found))


def comparison_view(found: Comparison) -> RenderableType:
    """Groups, warnings, results, and what the specifications differ in."""
    by = ", ".join(found.by) or "nothing"
    parts: list[RenderableType] = [Text(f"{len(found.experiments)} experiments by {by}; 95 % intervals over seeds")]
    parts += [Text(f"! {text}", style="yellow") for text in found.warnings]
    results = _table(found, "STAGE", "METRIC")
    for row in found.results:
        if row.stage.startswith("evaluate"):
            results.add_row(row.stage.removeprefix("evaluate_"), row.metric, *map(_shown, row.figures))
    parts += ["", results] if results.row_count else ["", "no evaluation has finished yet"]
    for metric in found.curves:
        last = Table(box=None, pad_edge=False, title=f"{metric.metric} ({metric.unit})", title_justify="left")
        for column in ("GROUP", "AT STEP", "MEAN", "SEEDS"):
            last.add_column(column, justify="left" if column == "GROUP" else "right")
        for curve in metric.curves:
            figure = Figure(
                mean=curve.mean[-1] or 0.0,
                low=curve.low[-1],
                high=curve.high[-1],
                num_units=curve.num_units,
                num_runs=curve.num_runs,
            )
            last.add_row(Text(curve.group), str(curve.steps[-1]), _number(figure), str(curve.num_units))
        parts += ["", last]
    if found.differing:
        differing = _table(found, "FIELD")
        for one in found.differing:
            differing.add_row(one.path, *(Text(value) for value in one.values))
        parts += ["", differing]
    return Group(*parts)


def _table(found: Comparison, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for group in found.groups:
        table.add_column(Text(f"{group.label} ({len(group.experiment_ids)})"), overflow="fold")
    return table


def _shown(figure: Figure | None) -> str:
    return "–" if figure is None else f"{_number(figure)} n{figure.num_units}"


def _number(figure: Figure) -> str:
    reach = figure.half_width
    return f"{figure.mean:.3g}" + ("" if reach is None else f" ± {reach:.2g}")

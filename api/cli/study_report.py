"""Commands about what a study has found: its report, the counts behind it, its specification."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from api.cli.arguments import StudyId
from api.cli.calling import client_of, console, waiting
from api.cli.forms import AsJson, Commands, print_json
from api.client import SedrayClient

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write it to this file.", show_default=False, dir_okay=False)
]


def add_study_report_commands(study_app: Commands) -> None:
    """Makes them commands of `sedray study`."""
    for command in (report, counts, spec):
        study_app.command()(command)


def report(
    context: typer.Context,
    study_id: StudyId,
    form: Annotated[
        Literal["md", "tex", "csv", "json", "parquet"],
        typer.Option("--format", "-f", help="Markdown, LaTeX, figures as CSV or Parquet, or all of it as JSON."),
    ] = "md",
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study has found."""
    if as_json and (form != "md" or output is not None):
        raise typer.BadParameter("--json and --yaml print the report; with --output or --format leave them out")
    if form == "parquet" and output is None:
        raise typer.BadParameter("Parquet is no text; give a file with --output")
    with client_of(context) as client:
        if as_json:
            print_json(client.study_report(study_id))
        elif output is not None:
            with waiting("making the report …"):
                client.download_study_report(study_id, form, output)
            console.print(f"written to {output}", soft_wrap=True)
        elif form == "md":
            print_report(client, study_id)
        elif form != "parquet":
            sys.stdout.write(client.study_report_text(study_id, form))


def counts(
    context: typer.Context,
    study_id: StudyId,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File ending in .csv or .parquet.", show_default=False, dir_okay=False),
    ],
) -> None:
    """Write the counts of right samples, by run, point, set and prompt: all that the report follows from."""
    if output.suffix not in (".csv", ".parquet"):
        raise typer.BadParameter(f"--output {output} must end in .csv or .parquet, which says the form")
    with client_of(context) as client:
        with waiting(f"writing {output} …"):
            client.download_study_counts(study_id, "csv" if output.suffix == ".csv" else "parquet", output)
        console.print(f"written to {output}", soft_wrap=True)


def spec(
    context: typer.Context,
    study_id: StudyId,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.", dir_okay=False)],
) -> None:
    """Write a study's specification as it stands, so that `sedray study submit` can run it again."""
    with client_of(context) as client:
        client.download_study_spec(study_id, output)
        console.print(f"written to {output}", soft_wrap=True)


def print_report(client: SedrayClient, study_id: str) -> None:
    """For people in a terminal; as plain Markdown where the output is no terminal."""
    with waiting("making the report …"):
        text = client.study_report_text(study_id)
    if not console.is_terminal:
        sys.stdout.write(text)
        return
    # Brings a parser and a highlighter along, which every other command starts without.
    from rich.markdown import Markdown

    console.print(Markdown(text))

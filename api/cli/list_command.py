"""`sedray ls`: experiments, narrowed and in an order."""

from typing import Annotated, Literal

import typer
from rich.text import Text

from api.cli.calling import client_of, console
from api.cli.forms import AsJson, print_json
from api.cli.tables import experiments_table, status_text
from api.schemas import ExperimentCounts
from service.contract.status import ExperimentStatus

Order = Literal["newest", "oldest", "name", "started", "ended"]


def list_experiments(
    context: typer.Context,
    status: Annotated[
        list[ExperimentStatus] | None, typer.Option(help="Only experiments of this status (repeatable).")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only experiments of this project.")] = None,
    user: Annotated[str | None, typer.Option(help="Only experiments that this user submitted.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only experiments with this tag.")] = None,
    objective: Annotated[str | None, typer.Option(help="Only experiments with this SFT objective, as `sed`.")] = None,
    name: Annotated[str | None, typer.Option(help="Only experiments whose name contains this.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Only experiments whose name, description, id or tag contains this.")
    ] = None,
    order: Annotated[Order, typer.Option(help="By submission, by name, or the latest start or end first.")] = "newest",
    counts: Annotated[bool, typer.Option("--counts", help="Count them by status instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue where the last page ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List experiments, newest first, or count them."""
    wanted = {"project": project, "user": user, "tag": tag, "objective": objective, "name": name, "text": text}
    if counts and (status or cursor):
        raise typer.BadParameter("--counts counts all statuses; leave --status and --cursor out")
    with client_of(context) as client:
        if counts:
            found = client.experiment_counts(**wanted)
            print_json(found) if as_json else _print_counts(found)
            return
        page = client.experiments(status=status, order=order, limit=limit, cursor=cursor, **wanted)
        if as_json:
            print_json(page)
            return
        console.print(experiments_table(page.items))
        if page.next_cursor:
            console.print(f"more: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


def _print_counts(found: ExperimentCounts) -> None:
    for status, number in found.by_status.items():
        console.print(Text(f"{number:6} "), status_text(status), sep="")
    console.print(Text(f"{found.total:6} in all"))

"""`sedray events`: what happened to an experiment."""

from typing import Annotated

import typer
from rich.text import Text

from api.cli.arguments import ExperimentId
from api.cli.calling import client_of, console
from api.cli.commands import app
from api.cli.forms import AsJson, plain, print_entry
from api.cli.panels import LOOK
from api.schemas import Event


@app.command("events", rich_help_panel=LOOK)
def show_events(
    context: typer.Context,
    experiment_id: ExperimentId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the experiment has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what happened, oldest first."""
    with client_of(context) as client:
        if follow:
            for event in client.follow_events(experiment_id):
                _show(event, as_json)
            return
        page = client.events(experiment_id)
        while True:
            for event in page.items:
                _show(event, as_json)
            if page.next_after is None:
                return
            page = client.events(experiment_id, after=page.next_after)


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        print_entry(plain(event))
    else:
        when = f"{event.ts.astimezone():%Y-%m-%d %H:%M:%S}"
        console.print(Text.assemble((f"{when}  {event.kind:<10}  ", "dim"), event.message), soft_wrap=True)

"""`sedray open`: the page of an experiment or a study in the browser."""

import os
import sys
import webbrowser
from typing import Annotated

import typer

from api.cli.calling import client_of, connection_of, console
from api.cli.commands import app
from api.cli.completion import experiment_ids, study_ids
from api.cli.panels import LOOK
from api.client.requests import path


def _ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    return experiment_ids(ctx, incomplete) + study_ids(ctx, incomplete)


@app.command("open", rich_help_panel=LOOK)
def open_page(
    context: typer.Context,
    id: Annotated[
        str | None,
        typer.Argument(help="An experiment or a study; none: the queue.", show_default=False, autocompletion=_ids),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the address only.")] = False,
) -> None:
    """Open the page in the browser; print its address where there is none."""
    with client_of(context) as client:
        url = connection_of(context).url.rstrip("/")
        if id is None:
            client.me()
        elif id.startswith("study-"):
            url += path("studies", client.study(id).id)
        else:
            url += path("experiments", client.experiment(id).id)
    if only_print or not (_has_screen() and webbrowser.open(url)):
        console.print(url, soft_wrap=True, highlight=False, markup=False)


def _has_screen() -> bool:
    """Where there is none, Python would start a browser of text in this terminal."""
    return sys.platform != "linux" or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))

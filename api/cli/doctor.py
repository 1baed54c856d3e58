"""`sedray doctor`: one line a check, with what to do about those that are not well."""

import sys
import time

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from api.client import SedrayClient
from api.operation_schemas import CheckOut, Diagnosis

_MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "fault": ("FAULT", "red")}


def examine(client: SedrayClient) -> Diagnosis:
    """The service's own checks, and those of this side: the way to it, and Python."""
    began = time.perf_counter()
    user = client.me().user
    took_ms = (time.perf_counter() - began) * 1e3
    here = CheckOut(
        name="client",
        verdict="ok",
        detail=f"calls as {user}, answered in {took_ms:.0f} ms; Python {sys.version.split()[0]}",
        what_to_do="",
    )
    return Diagnosis(items=[here, *client.diagnosis().items])


def diagnosis_view(diagnosis: Diagnosis) -> RenderableType:
    """For a terminal."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in diagnosis.items:
        mark, colour = _MARKS[check.verdict]
        table.add_row(Text(mark, style=colour), check.name, Text(check.detail))
        if check.what_to_do:
            table.add_row("", "", Text(check.what_to_do, style="bold"))
    return table


def is_well(diagnosis: Diagnosis) -> bool:
    """Whether nothing is at fault."""
    return all(check.verdict != "fault" for check in diagnosis.items)

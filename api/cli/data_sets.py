"""`sedray data sets`: the data sets that a specification may call by name. Needs no service."""

from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.calling import AsJson, console
from api.cli.commands import data_app
from api.cli.forms import print_data
from service.contract.data_sets import DATA_SETS, NamedDataSet, named_data_set


@data_app.command("sets")
def show_data_sets(
    name: Annotated[str | None, typer.Argument(help="Only this one, with all that it fills in.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets that `data: {set: …}` knows: where they lie, their columns, how many rows they have."""
    try:
        chosen = list(DATA_SETS.values()) if name is None else [named_data_set(name)]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        print_data([_facts(one) for one in chosen])
    else:
        console.print(_list(chosen) if name is None else _one(chosen[0]))


def _facts(one: NamedDataSet) -> dict[str, Any]:
    hub = one.hub
    return {
        "name": one.name,
        "title": one.title,
        "use": one.use,
        "hub": None if hub is None else {name: getattr(hub, name) for name in hub.__slots__},
        "hub_settings": None if hub is None else one.layout(on_hub=True),
        "file_origin": one.file_origin,
        "file_sha256": one.file_sha256,
        "file_settings": one.layout(on_hub=False),
        "reward": one.reward,
        "note": one.note,
    }


def _list(sets: list[NamedDataSet]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for title in ("set", "rows", "hub", "commit", ""):
        table.add_column(title, justify="right" if title == "rows" else "left", overflow="fold")
    for one in sets:
        layout = one.layout(on_hub=one.hub is not None)
        rows = layout.get("expected_rows") or layout.get("num_rows")
        hub = one.hub
        commit = "-" if hub is None else (hub.revision or "give revision")[:13]
        place = "a file: give path" if hub is None else hub.repository
        table.add_row(one.name, f"{rows:,}", place, commit, Text(one.title, style="dim"))
    return table


def _one(one: NamedDataSet) -> RenderableType:
    lines: list[RenderableType] = [Text.assemble((one.name, "bold"), f"  {one.title}")]
    if one.hub is not None:
        hub = one.hub
        config = f", config {hub.config}" if hub.config else ""
        revision = hub.revision or "no commit is known: give revision"
        lines += [Text(f"hub    {hub.repository}{config}, split {hub.split}"), Text(f"       {revision}")]
        lines += [Text(f"       {key}: {value}", style="dim") for key, value in one.layout(on_hub=True).items()]
    lines.append(Text(f"file   {one.file_origin}"))
    if one.file_sha256 is not None:
        lines.append(Text(f"       sha256 {one.file_sha256}"))
    lines += [Text(f"       {key}: {value}", style="dim") for key, value in one.layout(on_hub=False).items()]
    if one.reward is not None:
        lines.append(Text(f"reward {one.reward['type']}"))
    if one.note:
        lines.append(Text(f"note   {one.note}"))
    return Group(*lines)

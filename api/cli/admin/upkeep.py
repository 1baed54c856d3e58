"""`sedray admin backup`, `restore` and `retention`."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from api.cli.calling import AsJson, client_of, console, print_json
from api.operation_schemas import ProjectRetention, RetentionDays, RetentionOut

_BACKUP = "service.backup"
Folder = Annotated[Path, typer.Argument(help="Folder of one backup.", show_default=False)]
Digests = Annotated[bool, typer.Option("--digests", help="Read every file of the outputs and note or compare SHA-256.")]
Days = Annotated[int | None, typer.Option(min=0, help="Days; for ever if left out.")]


def backup(folder: Folder, digests: Digests = False) -> None:
    """Dump the database and list the files that belong to it. Runs where the service's own settings hold."""
    _become("make", folder, digests)


def restore(folder: Folder, digests: Digests = False) -> None:
    """Bring a backup into an empty database, and name the files that are missing. Runs where the settings hold."""
    _become("restore", folder, digests)


def retention(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="A project's name.")] = "default",
    change: Annotated[bool, typer.Option("--set", help="Set the whole policy to what follows.")] = False,
    unset: Annotated[bool, typer.Option("--unset", help="Take the project's own policy away.")] = False,
    everywhere: Annotated[bool, typer.Option("--all", help="Show the policies of all projects; for admins.")] = False,
    logs: Days = None,
    rollouts: Days = None,
    token_views: Days = None,
    checkpoints: Days = None,
    as_json: AsJson = False,
) -> None:
    """Show how long leftovers of ended experiments are kept, and what would go now; or set it."""
    days = RetentionDays(logs=logs, rollouts=rollouts, token_views=token_views, checkpoints=checkpoints)
    if not change and days != RetentionDays():
        raise typer.BadParameter("days are given without --set")
    if everywhere and (change or unset):
        raise typer.BadParameter("--all shows; --set and --unset are for one project")
    with client_of(context) as client:
        if everywhere:
            policies = client.all_retention()
            print_json(policies) if as_json else console.print(policies_table(policies))
            return
        changed = client.set_retention(project, None if unset else days) if change or unset else None
        found = changed or client.retention(project)
        print_json(found) if as_json else _show(found)


def policies_table(policies: RetentionOut) -> Table:
    """Days by project, and by the service's settings for those without a policy of their own."""
    kinds = list(RetentionDays.model_fields)
    table = Table("PROJECT", *(kind.upper().replace("_", " ") for kind in kinds), "DUE NOW", box=None, pad_edge=False)
    table.add_row("(settings)", *_days(policies.default), "")
    for one in policies.projects:
        table.add_row(one.project if one.is_own else f"{one.project} (settings)", *_days(one.days), str(len(one.due)))
    return table


def _days(days: RetentionDays) -> list[str]:
    return ["for ever" if value is None else f"{value} days" for value in days.model_dump().values()]


def _show(found: ProjectRetention) -> None:
    whose = "its own" if found.is_own else "the service's settings"
    console.print(f"{found.project}: {whose}", markup=False)
    for kind, days in found.days.model_dump().items():
        console.print(f"  {kind:12} {'for ever' if days is None else f'{days} days'}", markup=False, highlight=False)
    table = Table("experiment", "what", "ended", box=None, title="would go now", title_justify="left")
    for one in found.due:
        table.add_row(one.experiment_id, one.kind, f"{one.ended_at:%Y-%m-%d}")
    console.print(table if found.due else "nothing would go now")


def _become(what: str, folder: Path, digests: bool) -> None:
    if find_spec("sqlalchemy") is None or find_spec(_BACKUP) is None:
        sys.exit("this is the client install; backups are made where the service is installed")
    arguments = [what, str(folder), *(["--digests"] if digests else [])]
    os.execv(sys.executable, [sys.executable, "-m", _BACKUP, *arguments])

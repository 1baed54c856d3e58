"""`sedray admin`: users, projects, members, tokens, webhooks, the audit log, the first admin, backups, retention."""

import os
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Annotated

import typer

from api.cli.admin.people import member_app, project_app, service_account_app, user_app
from api.cli.admin.tables import audit_table
from api.cli.admin.tokens import token_app
from api.cli.admin.upkeep import backup, restore, retention
from api.cli.admin.webhooks import webhook_app
from api.cli.calling import AsJson, client_of, console, print_json
from api.cli.forms import Commands

_FIRST_ADMIN = "service.tenancy.first_admin"

admin_app = Commands(help="Look after users, projects, webhooks, backups and what is kept.")
for _name, _app in (
    ("user", user_app),
    ("project", project_app),
    ("member", member_app),
    ("service-account", service_account_app),
    ("webhook", webhook_app),
):
    admin_app.add_typer(_app, name=_name)
admin_app.add_typer(token_app, name="token", hidden=True)  # its place was here; now it is `sedray token`
for _command in (backup, restore, retention):
    admin_app.command()(_command)


@admin_app.command()
def init(
    name: Annotated[str, typer.Option(help="Name of the admin.")] = "admin",
    force: Annotated[bool, typer.Option("--force", help="Also if there is an admin already.")] = False,
) -> None:
    """Make the first admin and print their token, once. Runs where SEDRAY_DATABASE_URL reaches the database."""
    if find_spec("sqlalchemy") is None or find_spec(_FIRST_ADMIN) is None:
        sys.exit("this is the client install; the first admin is made where the service is installed")
    arguments = ["--name", name, *(["--force"] if force else [])]
    os.execv(sys.executable, [sys.executable, "-m", _FIRST_ADMIN, *arguments])


@admin_app.command()
def audit(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Of this project, as its maintainer; default: all.")] = None,
    actor: Annotated[str | None, typer.Option(help="Changes by this user.")] = None,
    action: Annotated[str | None, typer.Option(help="experiment.cancel, or the kind alone: experiment.")] = None,
    target: Annotated[str | None, typer.Option(help="Id or name of what was changed.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Not before this time (UTC).")] = None,
    before: Annotated[int | None, typer.Option(help="Continue where the last page ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, newest first; with --json also from what to what."""
    with client_of(context) as client:
        page = client.audit.list(
            project=project,
            actor=actor,
            action=action,
            target=target,
            since=since.replace(tzinfo=UTC) if since else None,
            before=before,
            limit=limit,
        )
        if as_json:
            print_json(page)
            return
        console.print(audit_table(page.items))
        if page.next_before:
            console.print(f"more: --before {page.next_before}", style="dim")

"""`sedray admin webhook`."""

from typing import Annotated

import typer

from api.cli.admin.tables import deliveries_table, webhooks_table
from api.cli.calling import AsJson, answer, client_of, console, print_json, print_secret
from api.cli.forms import Commands

webhook_app = Commands(help="Tell a project's status changes to an address.")
Project = Annotated[str, typer.Argument(help="The project's name.", show_default=False)]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id, as `webhook ls` shows it.", show_default=False)]
Url = Annotated[str, typer.Argument(help="https://… at a public address.", show_default=False)]
Events = Annotated[list[str] | None, typer.Option("--event", help="experiment.failed, … (repeatable); default: all.")]


@webhook_app.command("create")
def create_webhook(
    context: typer.Context,
    project: Project,
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    url: Url,
    events: Events = None,
    as_json: AsJson = False,
) -> None:
    """Make a webhook and print the secret that its messages are signed with, once."""
    with client_of(context) as client:
        webhook = client.webhooks.create(project, name, url, events=events or ())
        if as_json:
            print_json(webhook)
            return
        print_secret(webhook.secret, f"{webhook.id} was made; this is its secret, which is not shown again:")


@webhook_app.command("ls")
def list_webhooks(context: typer.Context, project: Project, as_json: AsJson = False) -> None:
    """List a project's webhooks."""
    with client_of(context) as client:
        page = client.webhooks.list(project)
        console.print(webhooks_table(page.items)) if not as_json else print_json(page)


@webhook_app.command("show")
def show_webhook(context: typer.Context, project: Project, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Show one webhook, without its secret."""
    with client_of(context) as client:
        webhook = client.webhooks.show(project, webhook_id)
        answer(webhook, webhooks_table([webhook]), as_json)


@webhook_app.command("change")
def change_webhook(
    context: typer.Context,
    project: Project,
    webhook_id: WebhookId,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    events: Events = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Tell everything from now on.")] = False,
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Resume or stop it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change, stop or resume a webhook; what is left out stays."""
    with client_of(context) as client:
        wanted = [] if all_events else events or None
        webhook = client.webhooks.change(project, webhook_id, name=name, url=url, events=wanted, is_active=active)
        console.print(webhooks_table([webhook])) if not as_json else print_json(webhook)


@webhook_app.command("remove")
def remove_webhook(context: typer.Context, project: Project, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Remove a webhook with the log of its deliveries."""
    with client_of(context) as client:
        webhook = client.webhooks.remove(project, webhook_id)
        answer(webhook, f"{webhook.name} is removed", as_json)


@webhook_app.command("rotate-secret")
def rotate_secret(context: typer.Context, project: Project, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Give a webhook another secret; for a day messages carry both signatures."""
    with client_of(context) as client:
        webhook = client.webhooks.rotate_secret(project, webhook_id)
        if as_json:
            print_json(webhook)
            return
        print_secret(webhook.secret, "the new secret, which is not shown again:")


@webhook_app.command("test")
def send_test(context: typer.Context, project: Project, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Send a test message."""
    with client_of(context) as client:
        delivery = client.webhooks.test(project, webhook_id)
        where = f"sedray admin webhook deliveries {project} {webhook_id}"
        answer(delivery, f"{delivery.id} is on its way; see: {where}", as_json)


@webhook_app.command("deliveries")
def list_deliveries(
    context: typer.Context,
    project: Project,
    webhook_id: WebhookId,
    status: Annotated[str | None, typer.Option(help="Only pending, delivered or dead ones.")] = None,
    before: Annotated[str | None, typer.Option(help="Continue where the last page ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was sent and what came back, newest first."""
    with client_of(context) as client:
        page = client.webhooks.deliveries(project, webhook_id, status=status, before=before, limit=limit)
        if as_json:
            print_json(page)
            return
        console.print(deliveries_table(page.items))
        if page.next_before:
            console.print(f"more: --before {page.next_before}", style="dim", soft_wrap=True)


@webhook_app.command("redeliver")
def redeliver(
    context: typer.Context,
    project: Project,
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(help="The delivery's id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Send a message again."""
    with client_of(context) as client:
        delivery = client.webhooks.redeliver(project, webhook_id, delivery_id)
        answer(delivery, f"{delivery.id} is on its way again", as_json)

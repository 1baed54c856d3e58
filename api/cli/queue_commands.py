"""Commands about the queue: why an experiment waits, pauses, maintenance and quotas."""

from datetime import datetime
from typing import Annotated

import typer

from api.cli.arguments import ExperimentId
from api.cli.calling import AsJson, client_of, console, print_json
from api.cli.forms import Commands
from api.cli.panels import QUEUE
from api.cli.queue_tables import orders_view, priority_view, quotas_table
from api.queue_schemas import QuotaOrder

ProjectOption = Annotated[
    str | None, typer.Option("--project", help="Only this project; default: the whole queue.", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", help="What others shall read.")]
_MOMENTS = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"]
"""What people type; which of them typer takes by itself depends on its version."""

quota_app = Commands(help="Quotas and shares of projects and users.")
maintenance_app = Commands(help="Times in which nothing may run.")


def add_queue_commands(app: Commands) -> None:
    """Makes them commands of `app`."""
    for command in (why, pause, resume, drain):
        app.command(rich_help_panel=QUEUE)(command)
    app.add_typer(quota_app, name="quota", rich_help_panel=QUEUE)
    app.add_typer(maintenance_app, name="maintenance", rich_help_panel=QUEUE)


def why(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Say why an experiment waits, when it will start, and what would change that."""
    with client_of(context) as client:
        found = client.priority(experiment_id)
        console.print(priority_view(found)) if not as_json else print_json(found)


def pause(context: typer.Context, project: ProjectOption = None, reason: Reason = "", as_json: AsJson = False) -> None:
    """Start nothing new; what runs goes on."""
    with client_of(context) as client:
        orders = client.pause(project, reason=reason)
        console.print(orders_view(orders)) if not as_json else print_json(orders)


def drain(context: typer.Context, project: ProjectOption = None, reason: Reason = "", as_json: AsJson = False) -> None:
    """Start nothing new, and let what runs stop at its next checkpoint; it goes on after `resume`."""
    with client_of(context) as client:
        orders = client.pause(project, reason=reason, drain=True)
        console.print(orders_view(orders)) if not as_json else print_json(orders)


def resume(context: typer.Context, project: ProjectOption = None, as_json: AsJson = False) -> None:
    """End a pause or a drain."""
    with client_of(context) as client:
        orders = client.resume(project)
        console.print(orders_view(orders)) if not as_json else print_json(orders)


@maintenance_app.command("add")
def add_maintenance(
    context: typer.Context,
    starts_at: Annotated[
        datetime, typer.Argument(help="In local time, such as 2026-05-01T22:00.", formats=_MOMENTS, show_default=False)
    ],
    ends_at: Annotated[datetime, typer.Argument(formats=_MOMENTS, show_default=False)],
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Start nothing that might still run in this time."""
    with client_of(context) as client:
        window = client.plan_maintenance(starts_at.astimezone(), ends_at.astimezone(), reason)
        console.print(f"{window.id} is planned") if not as_json else print_json(window)


@maintenance_app.command("cancel")
def cancel_maintenance(context: typer.Context, window_id: str, as_json: AsJson = False) -> None:
    """Take a window back."""
    with client_of(context) as client:
        window = client.cancel_maintenance(window_id)
        console.print(f"{window.id} is taken back") if not as_json else print_json(window)


@quota_app.command("ls")
def list_quotas(context: typer.Context, as_json: AsJson = False) -> None:
    """Show all quotas and what is used of them."""
    with client_of(context) as client:
        page = client.quotas()
        console.print(quotas_table(page.items)) if not as_json else print_json(page)


@quota_app.command("set")
def set_quota(
    context: typer.Context,
    project: Annotated[str, typer.Argument(show_default=False)],
    user: Annotated[str | None, typer.Option(help="Of this user in the project; default: of the project.")] = None,
    shares: Annotated[float, typer.Option(help="Part of the cluster, relative to its siblings.")] = 1.0,
    max_running: Annotated[int | None, typer.Option(help="Running experiments.")] = None,
    max_queued: Annotated[int | None, typer.Option(help="Queued experiments.")] = None,
    max_cpus: Annotated[float | None, typer.Option(help="CPUs held.")] = None,
    max_gpus: Annotated[float | None, typer.Option(help="GPUs held.")] = None,
    max_gpu_hours: Annotated[float | None, typer.Option(help="GPU-hours within the window.")] = None,
    window_days: Annotated[float, typer.Option(help="The window of max-gpu-hours.")] = 7.0,
    max_storage_bytes: Annotated[int | None, typer.Option(help="Bytes of outputs.")] = None,
    default_max_runtime_s: Annotated[int | None, typer.Option(help="For those who do not say.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set the whole quota; what is left out has no limit."""
    with client_of(context) as client:
        order = QuotaOrder(
            shares=shares,
            max_running=max_running,
            max_queued=max_queued,
            max_cpus=max_cpus,
            max_gpus=max_gpus,
            max_gpu_hours=max_gpu_hours,
            window_days=window_days,
            max_storage_bytes=max_storage_bytes,
            default_max_runtime_s=default_max_runtime_s,
        )
        quota = client.set_quota(project, order, user=user)
        console.print(quotas_table([quota])) if not as_json else print_json(quota)

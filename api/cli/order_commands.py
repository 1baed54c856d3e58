"""Orders to experiments that are there: cancel, retry, hold, release, priority. One, or many in one request."""

from typing import Annotated

import typer
from rich.text import Text

from api.bulk_schemas import BulkAction, BulkReply
from api.cli.arguments import ExperimentIds
from api.cli.calling import ExitCode, client_of, console, errors
from api.cli.forms import AsJson, Commands, print_json
from api.cli.panels import QUEUE, RUN
from api.client import SedrayClient
from api.schemas import Experiment
from service.contract.spec import PriorityName

_MOST = 200
"""The service takes no more in one request."""


def add_order_commands(app: Commands) -> None:
    """Makes them commands of `app`."""
    for command in (cancel, retry):
        app.command(rich_help_panel=RUN)(command)
    app.command(rich_help_panel=QUEUE)(hold)
    app.command(rich_help_panel=QUEUE)(release)
    app.command(rich_help_panel=QUEUE)(priority)


def cancel(context: typer.Context, experiment_ids: ExperimentIds, as_json: AsJson = False) -> None:
    """Cancel experiments, queued or running."""
    ids = _distinct(experiment_ids)
    with client_of(context) as client:
        if len(ids) > 1:
            _order_many(client, "cancel", ids, as_json)
        else:
            _show_status(client.cancel(ids[0]), as_json)


def retry(context: typer.Context, experiment_ids: ExperimentIds, as_json: AsJson = False) -> None:
    """Queue failed or cancelled experiments again; they go on from their last checkpoints."""
    ids = _distinct(experiment_ids)
    with client_of(context) as client:
        if len(ids) > 1:
            _order_many(client, "retry", ids, as_json)
        else:
            _show_status(client.retry(ids[0]), as_json)


def hold(
    context: typer.Context,
    experiment_ids: ExperimentIds,
    reason: Annotated[str, typer.Option("--reason", help="What others shall read.")] = "",
    as_json: AsJson = False,
) -> None:
    """Keep queued experiments from starting; they keep their age."""
    ids = _distinct(experiment_ids)
    with client_of(context) as client:
        if len(ids) > 1:
            _order_many(client, "hold", ids, as_json, reason=reason)
        else:
            _show(client.hold(ids[0], reason), "held", as_json)


def release(context: typer.Context, experiment_ids: ExperimentIds, as_json: AsJson = False) -> None:
    """Let held experiments start again."""
    ids = _distinct(experiment_ids)
    with client_of(context) as client:
        if len(ids) > 1:
            _order_many(client, "release", ids, as_json)
        else:
            _show(client.release(ids[0]), "released", as_json)


def priority(
    context: typer.Context,
    experiment_ids: ExperimentIds,
    name: Annotated[PriorityName, typer.Argument(help="The class.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Move experiments to another class."""
    ids = _distinct(experiment_ids)
    with client_of(context) as client:
        if len(ids) > 1:
            _order_many(client, "priority", ids, as_json, priority=name)
        else:
            experiment = client.set_priority(ids[0], name)
            _show(experiment, f"of class {experiment.priority}", as_json)


def _distinct(ids: list[str]) -> list[str]:
    """In their order, each once: a shell's lists overlap, and the service refuses a request that names one twice."""
    found = list(dict.fromkeys(ids))
    if len(found) > _MOST:
        raise typer.BadParameter(f"{len(found)} experiments; give at most {_MOST} at once")
    return found


def _order_many(
    client: SedrayClient,
    action: BulkAction,
    ids: list[str],
    as_json: bool,
    *,
    priority: PriorityName | None = None,
    reason: str = "",
) -> None:
    """One request; what was done stays done. Ends with REFUSED if any experiment was refused."""
    reply = client.order_many(action, ids, priority=priority, reason=reason)
    print_json(reply) if as_json else _print_outcomes(reply, action if priority is None else f"{action} {priority}")
    if reply.num_done < len(reply.items):
        raise typer.Exit(ExitCode.REFUSED)


def _print_outcomes(reply: BulkReply, order: str) -> None:
    """Done ones on standard output, refused ones with the reason on standard error."""
    for item in reply.items:
        if item.done and item.status is not None:
            console.print(Text(f"{item.id}: {order} done, is {item.status.value}"), soft_wrap=True)
        else:
            errors.print(Text(f"{item.id}: {item.detail} ({item.code})", style="red"), soft_wrap=True)
    console.print(f"{order}: {reply.num_done} of {len(reply.items)} done", style="dim")


def _show_status(experiment: Experiment, as_json: bool) -> None:
    _show(experiment, experiment.status.value, as_json)


def _show(experiment: Experiment, what: str, as_json: bool) -> None:
    print_json(experiment) if as_json else console.print(f"{experiment.id} is {what}")

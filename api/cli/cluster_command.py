"""`sedray cluster` and `sedray standings`: what there is, who has it, and who is meant to get it."""

from collections.abc import Sequence

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.calling import client_of, console
from api.cli.forms import AsJson, Commands, print_json
from api.cli.panels import QUEUE
from api.cli.queue_tables import used_of
from api.cli.tables import capacity_line
from api.cluster_schemas import ActorsOut, ClusterDetail, NodeOut
from api.queue_schemas import RoleHoldingOut, StandingOut
from service.contract.messages import Progress


def add_cluster_commands(app: Commands) -> None:
    """Makes them commands of `app`."""
    for command in (cluster, standings):
        app.command(rich_help_panel=QUEUE)(command)


def cluster(context: typer.Context, as_json: AsJson = False) -> None:
    """Show nodes, what is given out on them, who works there, and who schedules."""
    with client_of(context) as client:
        found = client.cluster()
        console.print(cluster_view(found)) if not as_json else print_json(found)


def standings(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what projects and their users hold, have used, and are meant to get."""
    with client_of(context) as client:
        page = client.standings()
        console.print(standings_table(page.items)) if not as_json else print_json(page)


def cluster_view(found: ClusterDetail) -> RenderableType:
    """Sums, nodes, experiments that work on them, processes."""
    parts: list[RenderableType] = [capacity_line(found.cluster)]
    parts += [
        Text(f"{kind.gpu_type}: {kind.num_gpus_taken:g} of {kind.num_gpus:g} GPUs taken")
        for kind in found.by_gpu_type
        if kind.gpu_type
    ]
    if found.nodes:
        parts += [Text(), _nodes_table(found.nodes)]
    if found.actors:
        parts += [Text(), _actors_table(found)]
    parts += [Text(), *_processes(found)]
    return Group(*parts)


def standings_table(items: Sequence[StandingOut]) -> RenderableType:
    """One row a project or a user in it; parts are of all siblings."""
    table = Table(box=None, pad_edge=False)
    for column in ("PROJECT", "USER", "SHARES", "MEANT", "USED", "RUNNING", "QUEUED", "CPUS", "GPUS", "GPU-HOURS"):
        table.add_column(column, no_wrap=True)
    for item in items:
        table.add_row(
            Text(item.project),
            Text(item.user or "(all)"),
            f"{item.shares:g}",
            f"{item.share_part:.1%}",
            f"{item.usage_part:.1%}",
            used_of(item.num_running, item.max_running),
            used_of(item.num_queued, item.max_queued),
            used_of(item.num_cpus, item.max_cpus),
            used_of(item.num_gpus, item.max_gpus),
            _gpu_hours(item),
        )
    return table


def _gpu_hours(item: StandingOut) -> str:
    if item.gpu_hours is None or item.window_days is None:
        return "–"
    return f"{used_of(round(item.gpu_hours, 3), item.max_gpu_hours)} in {item.window_days:g} d"


def _nodes_table(nodes: Sequence[NodeOut]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("NODE", "STATE", "GPU TYPE", "CPUS", "GPUS", "RAY HOLDS", "ATTEMPTS"):
        table.add_column(column, no_wrap=True)
    for node in nodes:
        state = "gone" if not node.is_alive else "head" if node.is_head else "alive"
        table.add_row(
            Text(node.name or node.id),
            Text(state, style="" if node.is_alive else "red"),
            Text(node.gpu_type or "–"),
            used_of(node.num_cpus_taken, node.num_cpus),
            used_of(node.num_gpus_taken, node.num_gpus),
            "–" if node.ray_cpus_held is None else f"{node.ray_cpus_held:g}/{node.ray_gpus_held or 0:g}",
            str(node.num_attempts),
        )
    return table


def _actors_table(found: ClusterDetail) -> RenderableType:
    names = {node.id: node.name or node.id for node in found.nodes}
    table = Table(box=None, pad_edge=False)
    for column in ("EXPERIMENT", "PROJECT", "USER", "HOLDS", "NODES", "DOES"):
        table.add_column(column, overflow="fold")
    for actors in found.actors:
        table.add_row(
            actors.experiment_id,
            Text(actors.project),
            Text(actors.user),
            Text(_roles(actors.roles)),
            Text(", ".join(names.get(node, node) for node in actors.nodes)),
            Text(_doing(actors)),
        )
    return table


def _roles(roles: Sequence[RoleHoldingOut]) -> str:
    return ", ".join(f"{role.num_actors} {role.role} ({role.num_cpus:g}/{role.num_gpus:g})" for role in roles)


def _doing(actors: ActorsOut) -> str:
    if actors.progress is None:
        return "–" if actors.heartbeat_at else "not heard yet"
    return _progress(actors.progress)


def _progress(progress: Progress) -> str:
    stage = f"{progress.stage} " if progress.stage else ""
    return f"{stage}{progress.phase}, step {progress.step} of {progress.num_steps}"


def _processes(found: ClusterDetail) -> list[Text]:
    lines = []
    for process in found.processes:
        state = "leads" if process.leads else "alive" if process.is_alive else "gone"
        seen = f"seen {process.seen_at.astimezone():%Y-%m-%d %H:%M:%S}"
        style = "" if process.is_alive else "dim"
        lines.append(Text(f"{process.role} {process.instance} {process.version}: {state}, {seen}", style=style))
    if found.lease is None or not found.lease.is_held:
        lines.append(Text("Nobody schedules now.", style="red"))
    return lines

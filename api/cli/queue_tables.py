"""What the command line prints about the queue: one experiment's terms, orders, quotas."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.queue_schemas import PriorityOut, QueueOrdersOut, QuotaOut, ShareTermOut, StartEstimateOut


def priority_view(found: PriorityOut) -> RenderableType:
    """Why it waits, then the terms of its place in the order in which they count."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    rows: list[tuple[str, str]] = [("experiment", f"{found.id}, {found.status.value}")]
    if found.queue_position is not None:
        rows.append(("place", f"{found.queue_position} of {found.num_queued}"))
    if found.waiting_reason:
        code = f" ({found.waiting_code.value})" if found.waiting_code else ""
        rows.append(("waits", f"{found.waiting_reason}{code}"))
    if found.unblocked_when:
        rows.append(("until", found.unblocked_when))
    if found.reservation_at is not None:
        rows.append(("reserved", f"enough will be free by {_moment(found.reservation_at)} at the latest"))
    if found.start is not None:
        rows.append(("starts", _start(found.start)))
    rows += [
        ("1. class", found.priority),
        ("2. project", _term(found.project)),
        ("3. user", _term(found.user)),
        ("4. age", f"queued since {_moment(found.queued_at)}"),
        ("may run", f"{found.max_runtime_s:g} s; {'may' if found.preemptible else 'may not'} be stopped for others"),
    ]
    for label, value in rows:
        facts.add_row(Text(label, style="dim"), Text(value))
    return facts


def orders_view(orders: QueueOrdersOut) -> RenderableType:
    """Pauses and windows, one a line; nothing where there are none."""
    lines = []
    for pause in orders.pauses:
        what = f"project {pause.project}" if pause.project else "the queue"
        how = "drained" if pause.drain else "paused"
        why = f": {pause.reason}" if pause.reason else ""
        lines.append(f"{what} is {how} by {pause.by} since {_moment(pause.since)}{why}")
    for window in orders.maintenance:
        why = f": {window.reason}" if window.reason else ""
        lines.append(f"maintenance {window.id} from {_moment(window.starts_at)} to {_moment(window.ends_at)}{why}")
    return Group(*(Text(line, style="yellow") for line in lines))


def quotas_table(quotas: Sequence[QuotaOut]) -> RenderableType:
    """One row a quota, each limit beside what is used of it."""
    table = Table(box=None, pad_edge=False)
    for column in ("PROJECT", "USER", "SHARES", "RUNNING", "QUEUED", "CPUS", "GPUS", "GPU-HOURS", "GB", "MAX RUNTIME"):
        table.add_column(column, no_wrap=True)
    for quota in quotas:
        hours = "–" if quota.max_gpu_hours is None else f"{quota.max_gpu_hours:g} in {quota.window_days:g} d"
        stored = None if quota.max_storage_bytes is None else quota.max_storage_bytes / 1e9
        table.add_row(
            Text(quota.project),
            Text(quota.user or "(all)"),
            f"{quota.shares:g}",
            used_of(quota.num_running, quota.max_running),
            used_of(quota.num_queued, quota.max_queued),
            used_of(quota.num_cpus, quota.max_cpus),
            used_of(quota.num_gpus, quota.max_gpus),
            hours,
            used_of(round(quota.num_storage_bytes / 1e9, 3), stored),
            "–" if quota.default_max_runtime_s is None else f"{quota.default_max_runtime_s} s",
        )
    return table


def used_of(used: float, limit: float | None) -> str:
    """`3 of 8`, or `3` where nothing bounds it."""
    return f"{used:g}" if limit is None else f"{used:g} of {limit:g}"


def _term(term: ShareTermOut) -> str:
    return (
        f"{term.name}: used {term.usage_part:.1%} of all, meant to get {term.share_part:.1%} "
        f"({term.usage:.3g} weighted seconds, factor {term.factor:.3f})"
    )


def _start(start: StartEstimateOut) -> str:
    latest = f"{_moment(start.at_the_latest)} at the latest, if nobody comes ahead"
    if start.likely is None or start.earliest is None or start.latest is None:
        return f"{latest} (how early it really is cannot be said yet: {start.num_records} forecasts came to an end)"
    return (
        f"{_moment(start.likely)}, eight times in ten between {_moment(start.earliest)} and {_moment(start.latest)} "
        f"(from {start.num_records} forecasts); {latest}"
    )


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"

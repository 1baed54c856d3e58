"""Signs of life of the API's and the scheduler's processes, any number of each, by the database's clock.

The reconciler counts a driver's silence only while some API was up; people see which scheduler leads.
"""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.tables import SchedulerLease, ServiceProcess

ProcessRole = Literal["api", "scheduler"]
_SILENT_AFTER = timedelta(seconds=15)
"""Each process writes every 5 s."""
IS_ALIVE = ServiceProcess.seen_at > func.clock_timestamp() - _SILENT_AFTER
"""Of a process's row."""
_FORGOTTEN_AFTER = timedelta(days=1)


def new_instance() -> str:
    """A name for this process that no other has had: machine, process id, and something random."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """Of all processes of a role that are alive now, together."""

    started_at: datetime
    """When the oldest of them began."""
    seen_at: datetime
    """The newest sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenProcess:
    """One process, alive or silent for less than a day."""

    row: ServiceProcess
    is_alive: bool

    @property
    def leads(self) -> bool:
        """Of a scheduler: whether it said so in its last sign of life, and lives."""
        return self.is_alive and self.row.detail.get("leads") is True


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLease:
    """Who schedules, or did last."""

    row: SchedulerLease
    is_held: bool


async def record_life(session: AsyncSession, role: ProcessRole, instance: str, *, detail: dict[str, Any]) -> None:
    """Writes that this process is alive now; the first time, that it began now. Long dead ones are forgotten."""
    now = func.clock_timestamp()
    row = insert(ServiceProcess).values(role=role, instance=instance, started_at=now, seen_at=now, detail=detail)
    await session.execute(
        row.on_conflict_do_update(index_elements=["role", "instance"], set_={"seen_at": now, "detail": detail})
    )
    await session.execute(delete(ServiceProcess).where(ServiceProcess.seen_at < now - _FORGOTTEN_AFTER))


async def uptime_of(session: AsyncSession, role: ProcessRole) -> Uptime | None:
    """Of the processes that are alive now; None without any."""
    living = (ServiceProcess.role == role, IS_ALIVE)
    ends = select(func.min(ServiceProcess.started_at), func.max(ServiceProcess.seen_at)).where(*living)
    found = (await session.execute(ends.having(func.count() > 0))).one_or_none()
    return Uptime(started_at=found[0], seen_at=found[1]) if found else None


async def seen_processes(session: AsyncSession, limit: int) -> list[SeenProcess]:
    """Who leads, then the living, then the silent ones, those seen last before others."""
    statement = select(ServiceProcess, IS_ALIVE).order_by(IS_ALIVE.desc(), ServiceProcess.seen_at.desc()).limit(limit)
    rows = await session.execute(statement.execution_options(populate_existing=True))
    found = [SeenProcess(row=row, is_alive=is_alive) for row, is_alive in rows]
    return sorted(found, key=lambda one: (not one.leads, not one.is_alive, one.row.role, one.row.instance))


async def seen_lease(session: AsyncSession) -> SeenLease | None:
    """None before the first scheduler ever led."""
    statement = select(SchedulerLease, SchedulerLease.expires_at > func.clock_timestamp())
    found = (await session.execute(statement.execution_options(populate_existing=True))).one_or_none()
    return SeenLease(row=found[0], is_held=found[1]) if found else None

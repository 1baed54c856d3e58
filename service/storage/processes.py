"""Signs of life of the API and the scheduler. The reconciler counts a driver's silence only while the API was up."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.tables import ServiceProcess

ProcessRole = Literal["api", "scheduler"]


async def record_life(
    session: AsyncSession, role: ProcessRole, *, started_at: datetime, now: datetime, detail: dict[str, Any]
) -> None:
    """Writes that the process of this role, which started at `started_at`, was alive at `now`."""
    row = {"started_at": started_at, "seen_at": now, "detail": detail}
    statement = insert(ServiceProcess).values(role=role, **row)
    await session.execute(statement.on_conflict_do_update(index_elements=["role"], set_=row))

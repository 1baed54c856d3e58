"""The database's clock, the only one that deadlines are measured by: clocks of processes may disagree."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession


async def database_now(session: AsyncSession) -> datetime:
    """The moment of the statement, not of its transaction's begin."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now

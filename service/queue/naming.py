"""Users by the names that people write."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import NotFound
from service.storage.tables import User


async def named_user(session: AsyncSession, name: str) -> User:
    """Raises NotFound."""
    found = await session.scalar(select(User).where(User.name == name))
    if found is None:
        raise NotFound(f"there is no user {name!r}")
    return found

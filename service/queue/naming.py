"""Projects and users by the names that people write."""

from difflib import get_close_matches

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import NotFound
from service.storage.tables import Project, User


async def named_project(session: AsyncSession, name: str) -> Project:
    """Raises NotFound, with the nearest known name."""
    found = await session.scalar(select(Project).where(Project.name == name))
    if found is None:
        near = get_close_matches(name, list(await session.scalars(select(Project.name))), n=1, cutoff=0.5)
        raise NotFound(f"there is no project {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return found


async def named_user(session: AsyncSession, name: str) -> User:
    """Raises NotFound."""
    found = await session.scalar(select(User).where(User.name == name))
    if found is None:
        raise NotFound(f"there is no user {name!r}")
    return found

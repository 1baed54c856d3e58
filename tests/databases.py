"""Databases of tests: one that every test of a process uses in turn, emptied behind each, and fresh ones.

To clone a database costs more than most tests; to delete some rows costs next to nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

_numbers = count(1)
_LEAVE_S = 10
"""For the connections that a test has left open."""


def url_of(folder: Path, database: str) -> str:
    """SQLAlchemy's URL of a database behind the socket in `folder`."""
    return f"postgresql+psycopg://postgres@/{database}?host={folder}"


@contextmanager
def fresh_database(folder: Path, template: str = "template1") -> Iterator[str]:
    """The name of a database that exists within the block alone, a clone of the template."""
    name = f"test_{next(_numbers)}"
    with _connected(folder, "postgres") as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield name
    finally:
        with _connected(folder, "postgres") as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class SharedDatabase:
    """A migrated database whose tables can be set back to what the migrations left in them."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.url = url_of(folder, name)
        with _connected(folder, name) as connection:
            names = [name for (name,) in connection.execute(_TABLES)]
            self._first_rows = {table: rows for table in names if (rows := _read(connection, table))}

    def set_back(self) -> None:
        """Ends what is still connected; then no table has other rows, and no sequence is further, than at first."""
        with _connected(self._folder, self._name) as connection:
            connection.execute(_END_OTHERS, {"leave_ms": _LEAVE_S * 1000})
            # No foreign keys and no trigger of the audit log: whatever order the tables come in, all of them go.
            connection.execute("SET session_replication_role = replica")
            connection.execute(_EMPTY)
            for table, rows in self._first_rows.items():
                statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
                with connection.cursor().copy(statement) as copy:
                    copy.write(rows)


_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, %(leave_ms)s) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_EMPTY = """
    DO $$
    DECLARE
        one text;
        has_rows boolean;
    BEGIN
        FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %I)', one) INTO has_rows;
            IF has_rows THEN
                EXECUTE format('DELETE FROM %I', one);
            END IF;
        END LOOP;
        PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
        FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
    END $$
"""


def _connected(folder: Path, database: str) -> psycopg.Connection:
    return psycopg.connect(host=str(folder), user="postgres", dbname=database, autocommit=True)


def _read(connection: psycopg.Connection, table: str) -> bytes:
    statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))
    with connection.cursor().copy(statement) as copy:
        return b"".join(bytes(part) for part in copy)

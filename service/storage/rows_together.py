"""One row into each of several tables, and a look at what is there, in one round trip."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import CTE, Select, Table, bindparam, insert
from sqlalchemy.ext.asyncio import AsyncSession

Found = TypeVar("Found")
Rows = Mapping[Table, Mapping[str, Any]]
"""The values of one row by its table."""


async def insert_together(
    session: AsyncSession, rows: Rows, look: Select[Found], parameters: Mapping[str, Any]
) -> Found | None:
    """Inserts the rows; returns the one value that `look` reads, which sees none of them.

    `look` is put together once: the statement is kept for it and the rows' columns. None of its parameters may have the
    name of a column of the tables.
    """
    statement = _statement(tuple((table, tuple(values)) for table, values in rows.items()), look)
    given = {_name(table, column): value for table, values in rows.items() for column, value in values.items()}
    found: Found | None = await session.scalar(statement, given | dict(parameters))
    return found


@cache
def _statement(shapes: tuple[tuple[Table, tuple[str, ...]], ...], look: Select[Found]) -> Select[Found]:
    return look.add_cte(*(_write(table, columns) for table, columns in shapes))


def _write(table: Table, columns: Sequence[str]) -> CTE:
    values: dict[str, Any] = {column: bindparam(_name(table, column)) for column in columns}
    return insert(table).values(values).cte(f"into_{table.name}")


def _name(table: Table, column: str) -> str:
    return f"{table.name}_{column}"

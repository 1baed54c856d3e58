"""Arrays of numbers and times as statement parameters, in PostgreSQL's binary form, packed at once.

psycopg adapts a list element by element, in Python; a report of a thousand points would spend most of its time there.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""From which PostgreSQL counts its microseconds."""
_HEADER = struct.Struct("!iiIii")


@dataclass(frozen=True, slots=True)
class BigInts:
    """`bigint[]`."""

    items: Sequence[int]


@dataclass(frozen=True, slots=True)
class Doubles:
    """`float8[]`; NaN and infinities are kept."""

    items: Sequence[float]


@dataclass(frozen=True, slots=True)
class Times:
    """`timestamptz[]`; times without a zone are taken as UTC."""

    items: Sequence[datetime]


class _ArrayDumper(Dumper):
    format = Format.BINARY
    element_oid: int
    element: str
    """As `struct` calls it; eight bytes."""

    def dump(self, obj: Any) -> bytes:
        """The array with one dimension and no NULL."""
        items = self.numbers(obj.items)
        if not items:
            return struct.pack("!iiI", 0, 0, self.element_oid)
        sized = [0] * (2 * len(items))
        sized[::2], sized[1::2] = [8] * len(items), items
        return _HEADER.pack(1, 0, self.element_oid, len(items), 1) + struct.pack(
            f"!{f'i{self.element}' * len(items)}", *sized
        )

    def numbers(self, items: Sequence[Any]) -> Sequence[Any]:
        """What is packed for each element."""
        return items


class _BigIntsDumper(_ArrayDumper):
    oid = 1016
    element_oid = 20
    element = "q"


class _DoublesDumper(_ArrayDumper):
    oid = 1022
    element_oid = 701
    element = "d"


class _TimesDumper(_ArrayDumper):
    oid = 1185
    element_oid = 1184
    element = "q"

    def numbers(self, items: Sequence[datetime]) -> list[int]:
        """Microseconds."""
        return [_microseconds(at) for at in items]


def _microseconds(at: datetime) -> int:
    since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def register_array_parameters() -> None:
    """Lets every connection of this process take them."""
    psycopg.adapters.register_dumper(BigInts, _BigIntsDumper)
    psycopg.adapters.register_dumper(Doubles, _DoublesDumper)
    psycopg.adapters.register_dumper(Times, _TimesDumper)

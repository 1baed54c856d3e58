"""What a table of options is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOTHING = object()
"""No default is written: where the file says nothing, ours stands."""


def _as_is(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Same:
    """One option there is one field here."""

    key: str
    field: str
    default: Any = NOTHING
    """The other system's, written where the file says nothing."""
    convert: Callable[[Any], Any] = _as_is
    """Raises ValueError for what has no equivalent."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class NotNeeded:
    """It changes how, not what; or it happens here anyway. A key `a.*` stands for all that begin with `a.`."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class NoEquivalent:
    """It has an effect there that it does not have here, unless it has a harmless value; the first is its default."""

    key: str
    reason: str
    remedy: str
    harmless: tuple[Any, ...] = ()


Rule = Same | NotNeeded | NoEquivalent


def not_needed(reason: str, *keys: str) -> tuple[NotNeeded, ...]:
    """Several options that have one reason."""
    return tuple(NotNeeded(key, reason) for key in keys)

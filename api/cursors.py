"""Opaque cursors: where the next page starts, as text that nobody is invited to read."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.contract.stored_rollouts import RolloutOrder
from service.errors import InvalidRequest
from service.listing import ListOrder, ListStart
from service.stored_rollouts import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class PageStart:
    """The last row of the page before, in the order newest first."""

    submitted_at: datetime
    id: str


def encode_cursor(start: PageStart) -> str:
    """The cursor of a page's start."""
    return _encode([start.submitted_at.isoformat(), start.id])


def decode_cursor(cursor: str) -> PageStart:
    """The start that a cursor stands for; raises InvalidRequest for anything that `encode_cursor` did not make."""
    try:
        submitted_at, experiment_id = _decode(cursor)
        start = PageStart(submitted_at=datetime.fromisoformat(submitted_at), id=str(experiment_id))
    except (ValueError, TypeError) as error:
        raise _no_cursor() from error
    if start.submitted_at.tzinfo is None:
        raise _no_cursor()
    return start


def encode_list_start(start: ListStart, order: ListOrder) -> str:
    """The cursor of a list's next page, which means something in its own order only."""
    value = start.value.isoformat() if isinstance(start.value, datetime) else start.value
    return _encode([order, value, start.id])


def decode_list_start(cursor: str, order: ListOrder) -> ListStart:
    """The start that a cursor stands for; raises InvalidRequest for anything that `encode_list_start` did not make."""
    try:
        made_in, value, experiment_id = _decode(cursor)
        moment = None if value is None or order == "name" else datetime.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise _no_cursor() from error
    is_timeless = value is None and order in ("started", "ended")
    is_whole = isinstance(value, str) if order == "name" else is_timeless or (moment and moment.tzinfo is not None)
    if made_in != order or not is_whole or not isinstance(experiment_id, str):
        raise _no_cursor()
    return ListStart(value=value if order == "name" else moment, id=experiment_id)


def encode_place(place: Place, order: RolloutOrder) -> str:
    """The cursor of a place among stored rollouts, which means something in its own order only."""
    return _encode([order, place.value, place.step, place.row])


def decode_place(cursor: str, order: RolloutOrder) -> Place:
    """The place that a cursor stands for; raises InvalidRequest for anything that `encode_place` did not make."""
    try:
        made_in, value, step, row = _decode(cursor)
        place = Place(value=float(value), step=int(step), row=int(row))
    except (ValueError, TypeError) as error:
        raise _no_cursor() from error
    if made_in != order:
        raise _no_cursor()
    return place


def _encode(parts: list[Any]) -> str:
    return urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _decode(cursor: str) -> Any:
    padded = cursor + "=" * (-len(cursor) % 4)
    return json.loads(urlsafe_b64decode(padded.encode()))


def _no_cursor() -> InvalidRequest:
    hint = "use next_cursor of the page before, unchanged"
    problem = "not a cursor of this service"
    return InvalidRequest(f"cursor: {problem}; {hint}", errors=[{"field": "cursor", "problem": problem, "hint": hint}])

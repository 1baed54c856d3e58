"""Opaque cursors: where the next page starts, as text that nobody is invited to read."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Any

from service.contract.stored_rollouts import RolloutOrder
from service.errors import InvalidRequest
from service.experiments import PageStart
from service.stored_rollouts import Place


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

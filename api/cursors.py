"""Opaque cursors: where the next page starts, as text that nobody is invited to read."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime

from service.errors import InvalidRequest
from service.experiments import PageStart


def encode_cursor(start: PageStart) -> str:
    """The cursor of a page's start."""
    text = json.dumps([start.submitted_at.isoformat(), start.id])
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> PageStart:
    """The start that a cursor stands for; raises InvalidRequest for anything that `encode_cursor` did not make."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        submitted_at, experiment_id = json.loads(urlsafe_b64decode(padded.encode()))
        start = PageStart(submitted_at=datetime.fromisoformat(submitted_at), id=str(experiment_id))
    except (ValueError, TypeError) as error:
        raise _no_cursor() from error
    if start.submitted_at.tzinfo is None:
        raise _no_cursor()
    return start


def _no_cursor() -> InvalidRequest:
    hint = "use next_cursor of the page before, unchanged"
    problem = "not a cursor of this service"
    return InvalidRequest(f"cursor: {problem}; {hint}", errors=[{"field": "cursor", "problem": problem, "hint": hint}])

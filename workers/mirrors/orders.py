"""What a mirror's process is told, and what it says: lines of JSON.

driver                                     mirror's process
  ── MirrorOrders ─────────────────────────>
  <── {"started": "where it can be seen"} ───
  ── {"points": [[name, step, ts, value], …]} >     many times
  ── {"end": "FINISHED"} ──────────────────>        or the pipe's end, where the driver is gone
  <── {"done": 1234} ─────────────────────── or, at any time, {"error": "why"}
"""

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import JsonValue

from service.contract.messages import MetricPoint
from service.contract.mirrors import MirrorSpec
from service.contract.strict_model import WireModel

RunEnd = Literal["FINISHED", "FAILED", "KILLED", "RUNNING"]
"""MLflow's words; `RUNNING` where another attempt will go on."""
Point = tuple[str, int, float, float]
"""Name, step, Unix time in seconds, value."""


class MirrorOrders(WireModel):
    """The first line. It may hold a key, which stands neither in an environment nor in a list of processes."""

    mirror: MirrorSpec
    experiment_id: str
    name: str
    description: str
    folder: str
    """Where files go that have no other place; on this machine or a shared one."""
    parameters: dict[str, str]
    tags: dict[str, str]
    config: dict[str, JsonValue]
    """The specification as it is."""
    key: str | None


def points_line(points: Sequence[MetricPoint]) -> bytes:
    """Python's JSON has words for NaN and infinities, and both ends are Python."""
    rows = [(point.name, point.step, point.ts.timestamp(), point.value) for point in points]
    return json.dumps({"points": rows}).encode() + b"\n"


def end_line(end: RunEnd) -> bytes:
    """The last line."""
    return json.dumps({"end": end}).encode() + b"\n"

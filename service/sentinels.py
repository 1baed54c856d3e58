"""Watches the points that a driver reports for limits that its specification sets on them.

What has been seen of each limit stands in the attempt's own row, which a report holds anyway: so it is counted exactly
once, whichever replica of the API takes the report.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import MetricColumns
from service.contract.sentinels import Limit, Sentinel, limits_of
from service.storage.json_values import storable_value
from service.storage.tables import Attempt, Experiment

_MOST_KNOWN = 1000
_known: OrderedDict[str, list[Limit]] = OrderedDict()
_SENTINELS: TypeAdapter[list[Sentinel]] = TypeAdapter(list[Sentinel])


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A limit was passed as often in a row as its window says."""

    limit: Limit
    first_step: int
    last_step: int
    value: float

    @property
    def message(self) -> str:
        """For people."""
        return f"sentinel {self.limit.type}: {self.limit.describe(self.first_step, self.last_step, self.value)}"

    @property
    def detail(self) -> dict[str, Any]:
        """For machines."""
        facts = {
            name: getattr(self.limit, name) for name in ("type", "metric", "kind", "threshold", "window", "action")
        }
        storable: dict[str, Any] = storable_value(
            facts | {"first_step": self.first_step, "last_step": self.last_step, "value": self.value}
        )
        return storable


async def load_limits(session: AsyncSession, experiment_id: str) -> list[Limit]:
    """The limits in the experiment's specification, which never changes: this process reads them once."""
    if experiment_id in _known:
        _known.move_to_end(experiment_id)
        return _known[experiment_id]
    told = await session.scalar(select(Experiment.spec["sentinels"]).where(Experiment.id == experiment_id))
    limits = _known[experiment_id] = limits_of(_SENTINELS.validate_python(told or []))
    if len(_known) > _MOST_KNOWN:
        _known.popitem(last=False)
    return limits


def any_passed(limits: Sequence[Limit], columns: Sequence[MetricColumns]) -> bool:
    """Whether an alarm is possible: only a point beyond its limit can raise one."""
    by_metric = _by_metric(limits)
    watched = [(limit, one.values) for one in columns for limit in by_metric.get(one.name, ())]
    return any(limit.is_passed(value) for limit, values in watched for value in values)


async def watch(
    session: AsyncSession, attempt: Attempt, limits: Sequence[Limit], columns: Sequence[MetricColumns]
) -> list[Alarm]:
    """Counts the points of a report and returns the alarms that they raise; each limit raises one in an attempt."""
    by_metric = _by_metric(limits)
    if not any(one.name in by_metric for one in columns):
        return []
    before = await session.scalar(select(Attempt.sentinels).where(Attempt.id == attempt.id)) or {}
    after, alarms = count(before, by_metric, columns)
    if after != before:
        await session.execute(update(Attempt).where(Attempt.id == attempt.id).values(sentinels=after))
    return alarms


def count(
    seen: Mapping[str, Any], by_metric: Mapping[str, Sequence[Limit]], columns: Sequence[MetricColumns]
) -> tuple[dict[str, Any], list[Alarm]]:
    """What has been seen once these points are counted, and the alarms among them. Pure.

    By the limit's key: `streak` points in a row since step `since`, and whether the limit has `fired`.
    """
    after, alarms = {key: dict(value) for key, value in seen.items()}, []
    watched = [(limit, column) for column in columns for limit in by_metric.get(column.name, ())]
    for limit, one in watched:
        state = after.get(limit.key, {"streak": 0, "since": one.steps[0], "fired": False})
        for step, value in zip(one.steps, one.values, strict=True):
            if not limit.is_passed(value):
                state = {**state, "streak": 0} if state["streak"] else state
                continue
            since = state["since"] if state["streak"] else step
            fires = state["streak"] + 1 >= limit.window and not state["fired"]
            state = {"streak": state["streak"] + 1, "since": since, "fired": state["fired"] or fires}
            if fires:
                alarms.append(Alarm(limit=limit, first_step=since, last_step=step, value=value))
        if limit.key in after or state["streak"] or state["fired"]:
            after[limit.key] = state
    return after, alarms


def _by_metric(limits: Sequence[Limit]) -> dict[str, list[Limit]]:
    found: dict[str, list[Limit]] = {}
    for limit in limits:
        found.setdefault(limit.metric, []).append(limit)
    return found

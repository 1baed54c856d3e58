"""Which metrics an experiment has, and which of them changed since a reader last looked."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.tables import Attempt, MetricSeries


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One metric with the newest value of its latest attempt."""

    name: str
    num_points: int
    """Stored points of all attempts; a step that was run again counts once for each."""
    last_step: int
    last_value: float
    last_ts: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedValue:
    """The newest value of a metric that was appended to."""

    name: str
    step: int
    value: float
    change: int
    """A reader that has seen everything up to here goes on from here."""


async def list_names(session: AsyncSession, experiment_id: str) -> list[CatalogueEntry]:
    """The experiment's metrics, names sorted."""
    latest = (
        select(
            MetricSeries.name,
            func.sum(MetricSeries.num_points).over(partition_by=MetricSeries.name).label("num_points"),
            MetricSeries.last_step,
            MetricSeries.last_value,
            MetricSeries.last_ts,
        )
        .join(Attempt, Attempt.id == MetricSeries.attempt_id)
        .where(MetricSeries.experiment_id == experiment_id)
        .ext(distinct_on(MetricSeries.name))
        .order_by(MetricSeries.name, Attempt.number.desc())
    )
    return [
        CatalogueEntry(
            name=row.name,
            num_points=int(row.num_points),
            last_step=row.last_step,
            last_value=row.last_value,
            last_ts=row.last_ts,
        )
        for row in await session.execute(latest)
    ]


async def changed_since(session: AsyncSession, experiment_id: str, cursor: int) -> list[ChangedValue]:
    """The metrics appended to after `cursor`, each with its newest value, by rising `change`; 0 asks for all."""
    latest = (
        select(MetricSeries.name, MetricSeries.last_step, MetricSeries.last_value, MetricSeries.change)
        .where(MetricSeries.experiment_id == experiment_id, MetricSeries.change > cursor)
        .ext(distinct_on(MetricSeries.name))
        # A later attempt appends later, so the highest change of a name is its latest attempt's.
        .order_by(MetricSeries.name, MetricSeries.change.desc())
    )
    changed = [
        ChangedValue(name=row.name, step=row.last_step, value=row.last_value, change=row.change)
        for row in await session.execute(latest)
    ]
    return sorted(changed, key=lambda value: (value.change, value.name))

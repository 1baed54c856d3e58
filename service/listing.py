"""Lists of experiments: searched, filtered, sorted, page by page, and counted by status.

Pages go on behind the last row that was shown (its sort value and id), so they never skip or repeat an experiment,
whatever is submitted meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, assert_never, get_args

from sqlalchemy import ColumnElement, DateTime, Text, func, literal, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from service.access import Visible
from service.contract.headline import Headline, headline_of
from service.contract.stages import StageName
from service.contract.status import ExperimentStatus
from service.experiments import SHORT, ExperimentView, read_views, select_views
from service.storage.tables import Experiment, Project, StageResultRow, User

ListOrder = Literal["newest", "oldest", "name", "started", "ended"]
LIST_ORDERS: tuple[ListOrder, ...] = get_args(ListOrder)
_NEVER = func.to_timestamp(literal_column("0"))
"""Behind every real moment, for what has not started or ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentFilter:
    """Which experiments a person wants to see; what is left out does not narrow the list."""

    statuses: Sequence[ExperimentStatus] = ()
    """One of them; empty: any."""
    project: str | None = None
    user: str | None = None
    tag: str | None = None
    objective: str | None = None
    """Of the SFT stage."""
    name: str | None = None
    """A part of the name, in any case."""
    text: str | None = None
    """A part of the name, the description, the id or a tag, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStart:
    """The last row of the page before: what it was sorted by, and its id."""

    value: str | datetime | None
    """None for a moment that has not come."""
    id: str


async def list_page(
    session: AsyncSession,
    *,
    visible: Visible,
    wanted: ExperimentFilter,
    limit: int,
    start: ListStart | None,
    order: ListOrder = "newest",
) -> tuple[list[ExperimentView], ListStart | None]:
    """Up to `limit` experiments after `start`, and where the next page starts, if there is one."""
    value = _sort_value(order)
    place, descends = tuple_(value, Experiment.id), order not in ("oldest", "name")
    statement = select_views(visible).where(*_conditions(wanted)).options(*SHORT)
    statement = statement.order_by(*(each.desc() if descends else each.asc() for each in (value, Experiment.id)))
    if start is not None:
        last = tuple_(_start_value(order, start.value), literal(start.id, Text))
        statement = statement.where(place < last if descends else place > last)
    views = await read_views(session, statement.limit(limit + 1))
    return views[:limit], _start_behind(views[limit - 1].experiment, order) if len(views) > limit else None


async def count_by_status(
    session: AsyncSession, *, visible: Visible, wanted: ExperimentFilter
) -> dict[ExperimentStatus, int]:
    """How many there are of each status that occurs, whatever statuses the filter names."""
    others = ExperimentFilter(
        project=wanted.project,
        user=wanted.user,
        tag=wanted.tag,
        objective=wanted.objective,
        name=wanted.name,
        text=wanted.text,
    )
    statement = (
        select(Experiment.status, func.count())
        .join(Project, Project.id == Experiment.project_id)
        .join(User, User.id == Experiment.user_id)
        .where(visible.where(Experiment.project_id), *_conditions(others))
        .group_by(Experiment.status)
    )
    return {ExperimentStatus(status): number for status, number in await session.execute(statement)}


async def headlines(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, Headline]:
    """By experiment: what its latest finished stage came to; without those of which nothing can be said yet."""
    columns = (StageResultRow.experiment_id, StageResultRow.stage, StageResultRow.result["metrics"].label("metrics"))
    rows = await session.execute(select(*columns).where(StageResultRow.experiment_id.in_(experiment_ids)))
    metrics: dict[str, dict[StageName, dict[str, float]]] = {}
    for row in rows:
        told = {name: float(value) for name, value in row.metrics.items()}  # NaN and infinities come as text
        metrics.setdefault(row.experiment_id, {})[row.stage] = told
    found = {name: headline_of(by_stage) for name, by_stage in metrics.items()}
    return {name: headline for name, headline in found.items() if headline is not None}


async def submitters(session: AsyncSession, visible: Visible) -> Sequence[str]:
    """Names of those who have submitted to visible projects, in their order."""
    has_any = select(Experiment.id).where(Experiment.user_id == User.id, visible.where(Experiment.project_id)).exists()
    return (await session.scalars(select(User.name).where(has_any).order_by(User.name))).all()


def _conditions(wanted: ExperimentFilter) -> list[ColumnElement[bool]]:
    """Of a statement that has projects and users joined."""
    equal: list[tuple[Any, str | None]] = [
        (Project.name, wanted.project),
        (User.name, wanted.user),
        (Experiment.objective, wanted.objective),
    ]
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
    if wanted.statuses:
        conditions.append(Experiment.status.in_([status.value for status in wanted.statuses]))
    if wanted.tag is not None:
        conditions.append(Experiment.tags.contains([wanted.tag]))
    if wanted.name is not None:
        conditions.append(Experiment.name.icontains(wanted.name, autoescape=True))
    if wanted.text is not None:
        conditions.append(_holds(wanted.text))
    return conditions


def _holds(text: str) -> ColumnElement[bool]:
    """In one text of all, which is searched once: most rows hold it nowhere."""
    tags = func.array_to_string(Experiment.tags, " ")
    everything = func.concat_ws(" ", Experiment.name, Experiment.id, Experiment.description, tags)
    return everything.icontains(text, autoescape=True)


def _sort_value(order: ListOrder) -> Any:
    match order:
        case "newest" | "oldest":
            return Experiment.submitted_at
        case "name":
            return func.lower(Experiment.name)
        case "started":
            return func.coalesce(Experiment.started_at, _NEVER)
        case "ended":
            return func.coalesce(Experiment.ended_at, _NEVER)
    assert_never(order)


def _start_value(order: ListOrder, value: str | datetime | None) -> Any:
    if order == "name":
        return func.lower(literal(value, Text))
    return _NEVER if value is None else literal(value, DateTime(timezone=True))


def _start_behind(last: Experiment, order: ListOrder) -> ListStart:
    match order:
        case "newest" | "oldest":
            return ListStart(value=last.submitted_at, id=last.id)
        case "name":
            return ListStart(value=last.name, id=last.id)
        case "started":
            return ListStart(value=last.started_at, id=last.id)
        case "ended":
            return ListStart(value=last.ended_at, id=last.id)
    assert_never(order)

"""Places in the queue: as the scheduler saw them in its last pass, and until it has, by class and age."""

from functools import cache

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    SmallInteger,
    Subquery,
    Text,
    and_,
    bindparam,
    case,
    column,
    func,
    select,
    tuple_,
)
from sqlalchemy.orm import aliased

from service.contract.status import ExperimentStatus
from service.storage.scheduling_tables import QueueSnapshot
from service.storage.tables import Experiment

BY_CLASS_AND_AGE = (Experiment.priority_rank, Experiment.queued_at, Experiment.id)
"""For those whom the scheduler has not placed yet."""


def queue_position() -> ColumnElement[int | None]:
    """Correlated to an outer `experiments`: 1 for the next in line; null unless queued.

    Everybody who waits is counted, also those who may not start yet.
    """
    queued = Experiment.status == ExperimentStatus.QUEUED.value
    placed = func.array_position(select(QueueSnapshot.experiment_ids).scalar_subquery(), Experiment.id)
    return case((queued, func.coalesce(placed, _place_by_age())))


def position_at(place: ColumnElement[int]) -> ColumnElement[int | None]:
    """The same where the place in the last snapshot is at hand, null for whoever is not in it."""
    return func.coalesce(place, _place_by_age())


@cache
def place_of_new() -> Select[int]:
    """The place of one that was just queued, by `own_rank`, `own_at` and `own_id`: behind all who wait in its class."""
    own = tuple_(
        bindparam("own_rank", type_=SmallInteger),
        bindparam("own_at", type_=DateTime(timezone=True)),
        bindparam("own_id", type_=Text),
    )
    not_behind = tuple_(*BY_CLASS_AND_AGE) <= own
    return select(func.count()).where(Experiment.status == ExperimentStatus.QUEUED.value, not_behind)


def snapshot_places() -> Subquery:
    """Everybody's `id` and `place` in the last snapshot."""
    listed = (
        func.unnest(QueueSnapshot.experiment_ids)
        .table_valued(column("id", Text), with_ordinality="place", joins_implicitly=True)
        .render_derived()
    )
    return select(listed.c.id, listed.c.place.cast(BigInteger).label("place")).select_from(QueueSnapshot).subquery()


def _place_by_age() -> ColumnElement[int | None]:
    ahead = aliased(Experiment)
    not_behind = tuple_(ahead.priority_rank, ahead.queued_at, ahead.id) <= tuple_(*BY_CLASS_AND_AGE)
    queued = ExperimentStatus.QUEUED.value
    count = (
        select(func.nullif(func.count(), 0))
        .select_from(ahead)
        .where(and_(ahead.status == queued, Experiment.status == queued, not_behind))
        .correlate(Experiment)
    )
    return count.scalar_subquery()

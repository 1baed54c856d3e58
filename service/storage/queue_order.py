"""The order of the queue, written once: urgent before patient, then old before young, then by id."""

from sqlalchemy import ColumnElement, and_, func, select, tuple_
from sqlalchemy.orm import aliased

from service.contract.status import ExperimentStatus
from service.storage.tables import Experiment

QUEUE_ORDER = (Experiment.priority_rank, Experiment.queued_at, Experiment.id)


def queue_position() -> ColumnElement[int | None]:
    """Correlated to an outer `experiments`: 1 for the next in line; null unless queued.

    Everybody who waits is counted, also those in a back-off.
    """
    ahead = aliased(Experiment)
    not_behind = tuple_(ahead.priority_rank, ahead.queued_at, ahead.id) <= tuple_(*QUEUE_ORDER)
    queued = ExperimentStatus.QUEUED.value
    count = (
        select(func.nullif(func.count(), 0))
        .select_from(ahead)
        .where(and_(ahead.status == queued, Experiment.status == queued, not_behind))
        .correlate(Experiment)
    )
    return count.scalar_subquery()

"""Experiments as people handle them: submit, find, cancel, retry, and read what happened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, bindparam, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from service import audit
from service.access import EVERYTHING, Actor, Visible, archived_project, no_experiment
from service.contract.messages import StageResult
from service.contract.spec import PRIORITY_RANK, ExperimentSpec
from service.contract.status import EndReason, ExperimentStatus
from service.errors import IdempotencyConflict, NotAllowedNow
from service.storage.identifiers import new_id
from service.storage.queue_entries import QUEUE_ENTRIES, queue_entry, refuse_unknown_dependencies
from service.storage.queue_order import BY_CLASS_AND_AGE, place_of_new, position_at, queue_position, snapshot_places
from service.storage.quotas import refuse_beyond, submission_limits
from service.storage.rows_together import Rows, insert_together
from service.storage.stage_results import read_stage_results
from service.storage.tables import Attempt, ClusterState, Experiment, ExperimentEvent, Project, User
from service.storage.transitions import lock_experiment, move_experiment, record_event


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentView:
    """An experiment with the names that people know and its place in the queue."""

    experiment: Experiment
    project: str
    user: str
    queue_position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentHistory:
    """What an experiment has done so far."""

    attempts: list[Attempt]
    """First attempt first."""
    stage_results: list[StageResult]
    """In the order in which the stages finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What came of a submission."""

    experiment: Experiment
    is_replay: bool
    """Whether it is the first answer to the same key."""
    queue_position: int | None
    """Of a new one: behind all who wait in its class; it is in no snapshot of the queue yet."""


async def submit(
    session: AsyncSession,
    *,
    user: Actor,
    project: Project,
    spec: ExperimentSpec,
    plan: dict[str, Any],
    body_sha256: str,
    idempotency_key: str | None,
    beside: Callable[[Experiment], Rows] = lambda _: {},
) -> Submitted:
    """Queues an experiment, or finds the one that the same key has made before.

    Of any number of equal requests at once exactly one inserts: the others wait for its commit at the unique key and
    then find its row. `project` is the one that the specification names; whether the user may submit there was asked
    before (`access.require_submission`). Raises InvalidSpec if it has been archived since and for an unknown
    dependency, QuotaExceeded, and IdempotencyConflict for a key used with another body. `beside` gives
    rows of other tables that are written with a new experiment.
    """
    limits = await submission_limits(session, project.id, user.id)
    if limits.project_is_archived:
        raise archived_project(project.name)
    if limits.default_max_runtime_s is not None and "max_runtime_s" not in spec.model_fields_set:
        spec = spec.model_copy(update={"max_runtime_s": limits.default_max_runtime_s})
    row = _row_of(user, project, spec, plan, body_sha256, idempotency_key)
    experiment = await session.scalar(_INSERT_UNLESS_REPEATED, row)
    if experiment is None:
        assert idempotency_key is not None, "only a key can be in conflict"
        first = await find_replay(session, user=user, idempotency_key=idempotency_key, body_sha256=body_sha256)
        assert first is not None, "experiments are never deleted"
        return Submitted(experiment=first, is_replay=True, queue_position=None)
    # Behind the insertion: of equal requests at once the others are answered with the first, whatever the quota says.
    await refuse_beyond(session, limits)
    await refuse_unknown_dependencies(session, experiment, spec)
    # A new row is nobody else's yet.
    told = f"submitted by {user.name}"
    await record_event(session, experiment.id, "status", told, detail={"to": "queued"}, is_held=True)
    after = {"status": experiment.status, "spec_sha256": experiment.spec_sha256}
    rows = {
        QUEUE_ENTRIES: queue_entry(experiment, spec),
        audit.AUDIT_LOG: audit.entry(user, "submit", _target(experiment), after=after),
        **beside(experiment),
    }
    own = {"own_rank": experiment.priority_rank, "own_at": experiment.queued_at, "own_id": experiment.id}
    place = await insert_together(session, rows, place_of_new(), own)
    return Submitted(experiment=experiment, is_replay=False, queue_position=place)


async def find_replay(
    session: AsyncSession, *, user: Actor, idempotency_key: str, body_sha256: str
) -> Experiment | None:
    """The experiment that this key made before, if any; raises IdempotencyConflict if that was another body."""
    first = await session.scalar(_of_key(), {"user_id": user.id, "key": idempotency_key})
    return None if first is None else same_body(first, body_sha256)


def same_body(first: Experiment, body_sha256: str) -> Experiment:
    """The experiment that a key has made, for a request with that key; IdempotencyConflict if its body is another."""
    if first.body_sha256 != body_sha256:
        raise IdempotencyConflict(
            f"idempotency key {first.idempotency_key!r} belongs to experiment {first.id}, which was submitted with "
            "another body; use a new key for a new experiment",
            experiment_id=first.id,
        )
    return first


@cache
def _of_key() -> Select[Experiment]:
    """Asked with every submission that has a key, so it is put together once."""
    return select(Experiment).where(
        Experiment.user_id == bindparam("user_id"), Experiment.idempotency_key == bindparam("key")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a submission meets, read in one round trip."""

    project: Project
    """As the specification names it; whether it may be seen, and is not archived, has to be asked yet."""
    cluster: ClusterState | None
    """As last seen."""
    first: Experiment | None
    """What its key has made before."""


async def surroundings(
    session: AsyncSession, *, user: Actor, project: str, idempotency_key: str | None
) -> Surroundings | None:
    """None if there is no such project."""
    wanted = {"project": project, "user_id": user.id, "key": idempotency_key}
    row = (await session.execute(_surroundings(), wanted)).one_or_none()
    return None if row is None else Surroundings(project=row[0], cluster=row.ClusterState, first=row.Experiment)


@cache
def _surroundings() -> Select[Project, ClusterState, Experiment]:
    """Asked with every submission, so it is put together once. A key that is null is nobody's."""
    of_key = (Experiment.user_id == bindparam("user_id")) & (Experiment.idempotency_key == bindparam("key", type_=Text))
    return (
        select(Project, ClusterState, Experiment)
        .select_from(Project)
        .outerjoin(ClusterState, true())
        .outerjoin(Experiment, of_key)
        .where(Project.name == bindparam("project"))
    )


async def get(session: AsyncSession, experiment_id: str) -> Experiment:
    """The experiment; raises NotFound."""
    experiment = await session.get(Experiment, experiment_id)
    if experiment is None:
        raise no_experiment(experiment_id)
    return experiment


async def view(session: AsyncSession, experiment_id: str) -> ExperimentView:
    """The experiment as people see it; raises NotFound."""
    views = await read_views(session, _one_view(), {"experiment_id": experiment_id})
    if not views:
        raise no_experiment(experiment_id)
    return views[0]


async def history(session: AsyncSession, experiment_id: str) -> ExperimentHistory:
    """Attempts and stage results of an experiment."""
    attempts = await session.scalars(
        select(Attempt)
        .where(Attempt.experiment_id == experiment_id)
        .order_by(Attempt.number)
        .execution_options(populate_existing=True)
    )
    return ExperimentHistory(attempts=list(attempts), stage_results=await read_stage_results(session, experiment_id))


async def list_queued(
    session: AsyncSession, *, visible: Visible, limit: int | None = None, offset: int = 0
) -> list[ExperimentView]:
    """Everybody visible who waits, first in line first; their positions count everybody. A part of them on demand."""
    places = snapshot_places()
    statement = (
        select_views(visible, position_at(places.c.place))
        .outerjoin(places, places.c.id == Experiment.id)
        .where(Experiment.status == ExperimentStatus.QUEUED.value)
        .options(*SHORT)
        .order_by(places.c.place.asc().nulls_last(), *BY_CLASS_AND_AGE)
        .limit(limit)
        .offset(offset)
    )
    return await read_views(session, statement)


async def list_live(session: AsyncSession, *, visible: Visible) -> list[ExperimentView]:
    """Everything visible that is admitted, running or cancelling, oldest first."""
    live = (ExperimentStatus.ADMITTED, ExperimentStatus.RUNNING, ExperimentStatus.CANCELLING)
    statement = select_views(visible).where(Experiment.status.in_([status.value for status in live])).options(*SHORT)
    return await read_views(session, statement.order_by(Experiment.started_at.asc().nulls_last(), Experiment.id))


async def cancel(session: AsyncSession, experiment_id: str, *, user: Actor) -> Experiment:
    """Notes the wish to stop: a queued experiment ends at once, a live one hears it with its next report.

    Asking again while it is cancelling changes nothing. Raises NotFound; NotAllowedNow after the end.
    """
    experiment = await _locked(session, experiment_id)
    status = ExperimentStatus(experiment.status)
    if status is ExperimentStatus.CANCELLING:
        return experiment
    if status.is_terminal:
        raise NotAllowedNow(
            f"experiment {experiment_id} is {status.value}; only a queued or live one can be cancelled", status=status
        )
    await record_event(session, experiment_id, "cancel_requested", f"{user.name} asked to cancel")
    moved = await _move_to_its_end(session, experiment_id, status, user)
    await audit.record(
        session, user, "cancel", _target(moved), before={"status": status.value}, after={"status": moved.status}
    )
    return moved


async def _move_to_its_end(
    session: AsyncSession, experiment_id: str, status: ExperimentStatus, user: Actor
) -> Experiment:
    requested = {"cancel_requested_at": func.now()}
    if status is ExperimentStatus.QUEUED:
        return await move_experiment(
            session,
            experiment_id,
            ExperimentStatus.CANCELLED,
            message=f"cancelled by {user.name} while queued",
            reason=EndReason.CANCELLED_BY_USER,
            values={**requested, "waiting_reason": None, "not_before": None},
        )
    return await move_experiment(
        session,
        experiment_id,
        ExperimentStatus.CANCELLING,
        message="waiting for the run to stop",
        values=requested,
    )


async def retry(session: AsyncSession, experiment_id: str, *, user: Actor) -> Experiment:
    """Sends a failed or cancelled experiment to the end of the queue, with all its retries back.

    The next attempt goes on from the finished stages and the last checkpoint. Raises NotFound; NotAllowedNow from any
    other status, and in an archived project.
    """
    experiment = await _locked(session, experiment_id)
    await _refuse_archived(session, experiment)
    if experiment.status not in (ExperimentStatus.FAILED.value, ExperimentStatus.CANCELLED.value):
        raise NotAllowedNow(
            f"experiment {experiment_id} is {experiment.status}; only a failed or cancelled one can be retried",
            status=experiment.status,
        )
    holder = await session.scalar(
        select(Attempt.number).where(Attempt.experiment_id == experiment_id, Attempt.released_at.is_(None))
    )
    fresh = {
        "queued_at": func.now(),
        "num_failed_attempts": 0,
        "failure_counts": {},
        "not_before": None,
        "waiting_reason": f"waits until Ray let go of attempt {holder}" if holder else None,
        "cancel_requested_at": None,
        "started_at": None,
    }
    before = {"status": experiment.status, "end_reason": experiment.end_reason}
    message = f"retried by {user.name}"
    moved = await move_experiment(session, experiment_id, ExperimentStatus.QUEUED, message=message, values=fresh)
    await audit.record(session, user, "retry", _target(moved), before=before, after={"status": moved.status})
    return moved


async def events_after(
    session: AsyncSession, experiment_id: str, *, after: int, limit: int
) -> Sequence[ExperimentEvent]:
    """Up to `limit` events with ids above `after`, oldest first. Raises NotFound for an unknown experiment."""
    await get(session, experiment_id)
    rows = await session.scalars(
        select(ExperimentEvent)
        .where(ExperimentEvent.experiment_id == experiment_id, ExperimentEvent.id > after)
        .order_by(ExperimentEvent.id)
        .limit(limit)
    )
    return rows.all()


def _row_of(
    user: Actor,
    project: Project,
    spec: ExperimentSpec,
    plan: dict[str, Any],
    body_sha256: str,
    idempotency_key: str | None,
) -> dict[str, Any]:
    return {
        "id": new_id("exp"),
        "project_id": project.id,
        "user_id": user.id,
        "name": spec.name,
        "tags": spec.tags,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec.sha256(),
        "plan": plan,
        "idempotency_key": idempotency_key,
        "body_sha256": body_sha256,
        "priority_rank": PRIORITY_RANK[spec.priority],
        "num_cpus": spec.held_resources.num_cpus,
        "num_gpus": spec.held_resources.num_gpus,
        "max_retries": spec.max_retries,
        "status": ExperimentStatus.QUEUED.value,
    }


async def _refuse_archived(session: AsyncSession, experiment: Experiment) -> None:
    project = await session.get_one(Project, experiment.project_id)
    if project.archived_at is not None:
        raise NotAllowedNow(f"project {project.name!r} is archived; a maintainer must take it up again first")


def _target(experiment: Experiment) -> audit.Target:
    return audit.Target(kind="experiment", id=experiment.id, name=experiment.name, project_id=experiment.project_id)


async def _locked(session: AsyncSession, experiment_id: str) -> Experiment:
    experiment = await lock_experiment(session, experiment_id)
    if experiment is None:
        raise no_experiment(experiment_id)
    return experiment


_INSERT_UNLESS_REPEATED = (
    insert(Experiment).on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"]).returning(Experiment)
)

Views = Select[Experiment, str, str, int | None]
SHORT = (defer(Experiment.spec, raiseload=True), defer(Experiment.plan, raiseload=True))
"""Lists leave out what is long and not shown in them."""


def select_views(visible: Visible, position: ColumnElement[int | None] | None = None) -> Views:
    """`position` where a statement knows the places itself; else each row looks up its own."""
    return (
        select(Experiment, Project.name, User.name, queue_position() if position is None else position)
        .join(Project, Project.id == Experiment.project_id)
        .join(User, User.id == Experiment.user_id)
        .where(visible.where(Experiment.project_id))
        .execution_options(populate_existing=True)
    )


@cache
def _one_view() -> Views:
    """Put together once: that takes longer than PostgreSQL needs for the answer."""
    return select_views(EVERYTHING).where(Experiment.id == bindparam("experiment_id"))


async def read_views(
    session: AsyncSession, statement: Views, parameters: dict[str, Any] | None = None
) -> list[ExperimentView]:
    """The rows of a statement that began with `select_views`."""
    return [
        ExperimentView(experiment=experiment, project=project, user=user, queue_position=position)
        for experiment, project, user, position in await session.execute(statement, parameters)
    ]

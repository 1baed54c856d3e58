"""How projects and their users stand: what they hold, what they have used beside what they are meant to get, quotas."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.access import Visible
from service.contract.status import ExperimentStatus
from service.queue.snapshot import read_snapshot
from service.storage.quotas import WHOLE_PROJECT
from service.storage.scheduling_tables import AttemptHolding, Quota, UsageRecord
from service.storage.tables import Attempt, Experiment, Project, User

_NOTHING = (0, 0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of a project, or of a user within it."""

    project: str
    user: str | None
    """None for the project as a whole."""
    shares: float
    share_part: float
    """Of what its siblings and itself are meant to get."""
    usage: float
    """Decayed weighted seconds, as the scheduler saw them in its last pass."""
    usage_part: float
    """Of what its siblings and itself have used."""
    num_running: int
    num_queued: int
    num_cpus: float
    num_gpus: float
    gpu_hours: float | None
    """Undecayed, of attempts that are over or still run, within the quota's window; None where no quota bounds them."""
    quota: Quota | None


@dataclass(frozen=True, slots=True)
class _Key:
    project: str
    user: str | None = None

    @property
    def parent(self) -> "_Key | None":
        """What siblings share: users their project, projects nothing."""
        return _Key(self.project) if self.user is not None else None


async def standings(session: AsyncSession, visible: Visible) -> list[Standing]:
    """Of visible projects, each before its users, who are those that hold, wait, have used or have a quota.

    Parts count all projects, also invisible ones.
    """
    seen = await read_snapshot(session)
    usage = _usage(seen.facts.get("usage", []) if seen else [])
    counts = await _counts(session)
    quotas = await _quotas(session)
    hours = await _gpu_hours(session)
    names = set(await session.scalars(select(Project.name).where(visible.where(Project.id))))
    keys = {*usage, *counts, *quotas}
    keys |= {_Key(key.project) for key in keys}
    totals: dict[_Key | None, list[float]] = {}
    for key in keys:
        total = totals.setdefault(key.parent, [0.0, 0.0])
        total[0] += quotas[key].shares if key in quotas else 1.0
        total[1] += usage.get(key, 0.0)
    rows = [
        _standing(key, totals[key.parent], usage.get(key, 0.0), counts.get(key, _NOTHING), quotas.get(key), hours)
        for key in keys
        if key.project in names
    ]
    return sorted(rows, key=lambda row: (row.project, row.user is not None, row.user or ""))


def _standing(
    key: _Key,
    total: list[float],
    usage: float,
    counts: tuple[int, int, float, float],
    quota: Quota | None,
    hours: dict[_Key, float],
) -> Standing:
    all_shares, all_used = total
    shares = quota.shares if quota else 1.0
    num_running, num_queued, num_cpus, num_gpus = counts
    return Standing(
        project=key.project,
        user=key.user,
        shares=shares,
        share_part=shares / all_shares,
        usage=usage,
        usage_part=usage / all_used if all_used else 0.0,
        num_running=num_running,
        num_queued=num_queued,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        gpu_hours=hours.get(key),
        quota=quota,
    )


def _usage(told: list[list[Any]]) -> dict[_Key, float]:
    found: dict[_Key, float] = {}
    for project, user, value in told:
        for key in (_Key(project), _Key(project, user)):
            found[key] = found.get(key, 0.0) + value
    return found


async def _counts(session: AsyncSession) -> dict[_Key, tuple[int, int, float, float]]:
    """Attempts that hold something, experiments that wait, CPUs and GPUs held."""
    queued = (
        select(Experiment.project_id, Experiment.user_id, literal(0), func.count(), literal(0.0), literal(0.0))
        .where(Experiment.status == ExperimentStatus.QUEUED.value)
        .group_by(Experiment.project_id, Experiment.user_id)
    )
    held = (
        select(
            Experiment.project_id,
            Experiment.user_id,
            func.count(),
            literal(0),
            func.sum(Attempt.num_cpus),
            func.sum(Attempt.num_gpus),
        )
        .join(Experiment, Experiment.id == Attempt.experiment_id)
        .where(Attempt.released_at.is_(None))
        .group_by(Experiment.project_id, Experiment.user_id)
    )
    found: dict[_Key, tuple[int, int, float, float]] = {}
    for row in await _named(session, queued) + await _named(session, held):
        project, user, *values = tuple(row)
        for key in (_Key(project), _Key(project, user)):
            before = found.get(key, _NOTHING)
            found[key] = (
                before[0] + values[0],
                before[1] + values[1],
                before[2] + values[2],
                before[3] + values[3],
            )
    return found


async def _quotas(session: AsyncSession) -> dict[_Key, Quota]:
    rows = await session.execute(
        select(Quota, Project.name, User.name)
        .join(Project, Project.id == Quota.project_id)
        .outerjoin(User, User.id == Quota.user_id)
        .execution_options(populate_existing=True)
    )
    return {_Key(project, user): quota for quota, project, user in rows}


async def _gpu_hours(session: AsyncSession) -> dict[_Key, float]:
    """Within the window of each quota that bounds them, counted as the scheduler counts them."""
    begin = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 86_400.0 * Quota.window_days)
    over = _hours_since(UsageRecord.started_at, UsageRecord.ended_at, begin, UsageRecord.num_gpus).join(
        UsageRecord, _is_of(UsageRecord.project_id, UsageRecord.user_id)
    )
    since = func.coalesce(AttemptHolding.charged_until, Attempt.created_at)
    live = (
        _hours_since(since, func.now(), begin, Attempt.num_gpus)
        .join(Experiment, _is_of(Experiment.project_id, Experiment.user_id))
        .join(Attempt, Attempt.experiment_id == Experiment.id)
        .outerjoin(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
        .where(Attempt.released_at.is_(None))
    )
    bounded = {_Key(row[0], row[1]): 0.0 for row in await session.execute(_names_of_quotas())}
    for statement in (over.where(UsageRecord.ended_at > begin), live) if bounded else ():
        for row in await session.execute(statement):
            bounded[_Key(row[0], row[1])] += float(row[2])
    return bounded


def _names_of_quotas(*columns: ColumnElement[Any]) -> Select[Any]:
    """Project and user of each quota that bounds GPU-hours."""
    return (
        select(Project.name, User.name, *columns)
        .select_from(Quota)
        .join(Project, Project.id == Quota.project_id)
        .outerjoin(User, User.id == Quota.user_id)
        .where(Quota.max_gpu_hours.is_not(None))
    )


def _hours_since(start: Any, end: Any, begin: ColumnElement[Any], num_gpus: Any) -> Select[Any]:
    seconds = func.extract("epoch", end - func.greatest(start, begin))
    return _names_of_quotas(func.sum(seconds * num_gpus) / 3600.0).group_by(Project.name, User.name)


def _is_of(project_id: Any, user_id: Any) -> ColumnElement[bool]:
    """Whether what stands in these columns counts against the quota."""
    return and_(project_id == Quota.project_id, or_(Quota.user_id == WHOLE_PROJECT, Quota.user_id == user_id))


async def _named(session: AsyncSession, statement: Any) -> list[Row[Any]]:
    """The rows of a statement that begins with ids of a project and a user, with their names instead."""
    inner = statement.subquery()
    project_id, user_id, *others = inner.c
    named = (
        select(Project.name, User.name, *others)
        .join_from(inner, Project, Project.id == project_id)
        .join(User, User.id == user_id)
    )
    return list(await session.execute(named))

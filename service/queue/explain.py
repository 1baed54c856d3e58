"""Why an experiment stands where it stands: every term of its place, when it will start, and what would change that."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from sqlalchemy import Double, Float, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ExperimentStatus
from service.contract.waiting import WaitCode
from service.errors import NotFound
from service.queue.reading import position
from service.queue.snapshot import read_snapshot
from service.storage.quotas import WHOLE_PROJECT
from service.storage.scheduling_tables import QueueEntry, QueueSnapshot, Quota, StartForecast
from service.storage.tables import Experiment, Project, User

LEAST_RECORDS = 10
"""Fewer forecasts that came to an end say nothing about the next."""
_NEWEST_RECORDS = 300
_LEAST_WAIT_S = 30.0
"""Shorter predicted waits are left out: their error is the scheduler's own second."""

ForecastErrors = tuple[int, tuple[float, float, float]]
"""How many forecasts came to an end lately, and the 10 %, 50 % and 90 % quantiles of real by predicted wait."""

UNBLOCKS: dict[WaitCode, str] = {
    WaitCode.CLUSTER_UNKNOWN: "Ray's dashboard answers again; the scheduler's log says what it answers now",
    WaitCode.HELD: "somebody releases it: sedray release {id}",
    WaitCode.NOT_BEFORE: "the time comes",
    WaitCode.DEPENDENCY: "{waits_for} ends",
    WaitCode.DEPENDENCY_FAILED: "{waits_for} is retried and succeeds: sedray retry {waits_for}",
    WaitCode.BACK_OFF: "the time comes",
    WaitCode.RELEASING: "Ray has let go of the last attempt; seconds, as a rule",
    WaitCode.PAUSED: "whoever paused it resumes it: sedray resume",
    WaitCode.CONTENT: "its files have been read; seconds to minutes, by their size",
    WaitCode.SAME_STAGE: "{waits_for} finishes that stage; or submit it with reuse: never",
    WaitCode.GROUP_LIMIT: "an experiment of its group ends",
    WaitCode.QUOTA: "one of those that count against the quota ends, or the quota is raised",
    WaitCode.MAINTENANCE: "the window passes; or a shorter max_runtime_s lets it end before",
    WaitCode.TOO_LARGE: "nodes are added, or it asks for less",
    WaitCode.RESERVED: "those who hold its resources end; with a higher priority, preemptible ones give way",
    WaitCode.RESOURCES: "those ahead start or leave; a shorter max_runtime_s lets it fill a gap before a reservation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTerm:
    """How a project, or a user within it, stands against its siblings."""

    name: str
    usage: float
    """Decayed weighted seconds."""
    shares: float
    usage_part: float
    """Of what all siblings used."""
    share_part: float
    """Of what all siblings are meant to get."""
    factor: float
    """2^(-usage_part / share_part): 1 for one who used nothing, 1/2 for one who used what he was meant to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEstimate:
    """When an experiment will start."""

    at_the_latest: datetime
    """If all take the time that they asked for, and nobody comes ahead."""
    likely: datetime | None
    """Corrected by how early experiments really started; None while there is too little experience."""
    earliest: datetime | None
    latest: datetime | None
    """Between these two, eight of ten experiments started, measured by their own forecasts."""
    num_records: int
    """Forecasts behind that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All terms of one experiment's place."""

    experiment: Experiment
    entry: QueueEntry
    place: int | None
    num_queued: int
    decided_at: datetime | None
    project: ShareTerm
    user: ShareTerm
    reservation_at: datetime | None
    start: StartEstimate | None
    unblocks: str | None


async def explain(session: AsyncSession, experiment_id: str) -> Explanation:
    """As the scheduler saw it in its last pass. Raises NotFound."""
    experiment = await session.get(Experiment, experiment_id, populate_existing=True)
    if experiment is None:
        raise NotFound(f"there is no experiment {experiment_id!r}; list the experiments to find its id")
    entry = await session.get_one(QueueEntry, experiment_id, populate_existing=True)
    seen = await read_snapshot(session)
    facts: dict[str, Any] = seen.facts if seen else {}
    promised = next((one for one in facts.get("reservations", []) if one["id"] == experiment_id), None)
    queued = experiment.status == ExperimentStatus.QUEUED.value
    project, user = await _terms(session, experiment, facts)
    return Explanation(
        experiment=experiment,
        entry=entry,
        place=await position(session, experiment),
        num_queued=await _num_queued(session),
        decided_at=seen.decided_at if seen else None,
        project=project,
        user=user,
        reservation_at=datetime.fromisoformat(promised["at"]) if promised and queued else None,
        start=await _start(session, experiment_id, seen) if queued else None,
        unblocks=_unblocks(entry) if queued else None,
    )


async def _num_queued(session: AsyncSession) -> int:
    queued = Experiment.status == ExperimentStatus.QUEUED.value
    return await session.scalar(select(func.count()).select_from(Experiment).where(queued)) or 0


async def _terms(session: AsyncSession, experiment: Experiment, facts: dict[str, Any]) -> tuple[ShareTerm, ShareTerm]:
    project = await session.get_one(Project, experiment.project_id)
    user = await session.get_one(User, experiment.user_id)
    quotas = select(Project.name, User.name, Quota.user_id, Quota.shares).join(Project, Project.id == Quota.project_id)
    of_projects: dict[str, float] = {}
    of_users: dict[str, float] = {}
    for project_name, user_name, user_id, shares in await session.execute(
        quotas.outerjoin(User, User.id == Quota.user_id)
    ):
        if user_id == WHOLE_PROJECT:
            of_projects[project_name] = shares
        elif project_name == project.name:
            of_users[user_name] = shares
    used_by_projects: dict[str, float] = {project.name: 0.0}
    used_by_users: dict[str, float] = {user.name: 0.0}
    for its_project, its_user, value in facts.get("usage", []):
        used_by_projects[its_project] = used_by_projects.get(its_project, 0.0) + value
        if its_project == project.name:
            used_by_users[its_user] = used_by_users.get(its_user, 0.0) + value
    return _term(project.name, used_by_projects, of_projects), _term(user.name, used_by_users, of_users)


def _term(name: str, usage: dict[str, float], shares: dict[str, float]) -> ShareTerm:
    all_used = sum(usage.values())
    all_shares = sum(shares.get(sibling, 1.0) for sibling in usage)
    usage_part = usage[name] / all_used if all_used else 0.0
    share_part = shares.get(name, 1.0) / all_shares
    return ShareTerm(
        name=name,
        usage=usage[name],
        shares=shares.get(name, 1.0),
        usage_part=usage_part,
        share_part=share_part,
        factor=2.0 ** (-usage_part / share_part) if share_part else 0.0,
    )


async def _start(session: AsyncSession, experiment_id: str, seen: QueueSnapshot | None) -> StartEstimate | None:
    if seen is None or experiment_id not in seen.experiment_ids:
        return None
    return estimate(seen, seen.experiment_ids.index(experiment_id), await forecast_errors(session))


def estimate(seen: QueueSnapshot, place: int, errors: ForecastErrors) -> StartEstimate | None:
    """Of who stands at this place, counted from 0; None where the scheduler could not foresee a start."""
    at = seen.starts[place] if place < len(seen.starts) else float("inf")
    if not isfinite(at):
        return None
    latest = datetime.fromtimestamp(at, UTC)
    wait = max(latest - seen.decided_at, timedelta(0))
    num_records, ratios = errors
    if num_records < LEAST_RECORDS:
        return StartEstimate(at_the_latest=latest, likely=None, earliest=None, latest=None, num_records=num_records)
    low, middle, high = (seen.decided_at + wait * ratio for ratio in ratios)
    return StartEstimate(at_the_latest=latest, likely=middle, earliest=low, latest=high, num_records=num_records)


async def forecast_errors(session: AsyncSession) -> ForecastErrors:
    """How many forecasts came to an end lately, and the 10 %, 50 % and 90 % quantiles of real by predicted wait."""
    made, predicted, started = StartForecast.made_at, StartForecast.predicted_at, StartForecast.started_at
    wait = func.extract("epoch", predicted - made)
    newest = (
        select((func.extract("epoch", started - made) / wait).label("ratio"))
        .where(started.is_not(None), wait >= _LEAST_WAIT_S)
        .order_by(started.desc())
        .limit(_NEWEST_RECORDS)
        .subquery()
    )
    levels = cast([0.1, 0.5, 0.9], ARRAY(Double))
    quantiles = func.percentile_cont(levels).within_group(cast(newest.c.ratio, Float))
    number, ratios = (await session.execute(select(func.count(), quantiles).select_from(newest))).one()
    return (number, (ratios[0], ratios[1], ratios[2])) if number else (0, (1.0, 1.0, 1.0))


def _unblocks(entry: QueueEntry) -> str | None:
    return unblocked_when(entry.experiment_id, entry.wait_code, entry.waits_for)


def unblocked_when(experiment_id: str, wait_code: str | None, waits_for: str | None) -> str | None:
    """What has to happen before it may start, in words; None while the scheduler has not said why it waits."""
    if wait_code is None:
        return None
    return UNBLOCKS[WaitCode(wait_code)].format(id=experiment_id, waits_for=waits_for or "the other experiment")

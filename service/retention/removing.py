"""What may go now, and how it goes: files first, then rows, so that nobody is shown what is no longer there for long.

Each removal may be repeated: what is gone stays gone, and the note of it is written last.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from fsspec.core import url_to_fs
from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ExperimentStatus
from service.errors import StorageUnavailable
from service.log_archive.files import chunk_name, from_storage, remove_chunks
from service.retention.policies import KINDS, Kind, Policy, policies_of
from service.storage.database import Sessions
from service.storage.log_tables import LogChunkRow
from service.storage.retention_tables import RemovalRow
from service.storage.tables import Attempt, Experiment, LogLineRow, Project, RolloutSampleRow, TokenViewRow
from service.storage.transitions import record_event

logger = logging.getLogger(__name__)

_TERMINAL = [status.value for status in ExperimentStatus if status.is_terminal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Something of one experiment whose time is over."""

    experiment_id: str
    project: str
    kind: Kind
    ended_at: datetime
    days: int
    """How long the policy keeps it."""


async def due_now(session: AsyncSession, default: Policy, *, most: int = 1000, project: str | None = None) -> list[Due]:
    """What would go now, of one project or of all, oldest first; changes nothing."""
    found: list[Due] = []
    policies = (await policies_of(session, default)).items()
    for name, (policy, _) in policies if project is None else [one for one in policies if one[0] == project]:
        for kind in KINDS:
            days = getattr(policy, kind)
            if days is not None and len(found) < most:
                found += await _due_of(session, name, kind, days, most - len(found))
    return sorted(found, key=lambda one: (one.ended_at, one.experiment_id, one.kind))


async def remove_due(
    sessions: Sessions, output_dir: Callable[[str], str], default: Policy, *, most: int = 200
) -> list[Due]:
    """Removes what is due, at most so many things in one pass; returns what went. A storage that fails is skipped."""
    async with sessions() as session:
        due = await due_now(session, default, most=most)
    removed = []
    for one in due:
        try:
            await _remove(sessions, output_dir(one.experiment_id), one)
        except StorageUnavailable as error:
            logger.warning("retention waits", extra={"experiment_id": one.experiment_id, "error": error.message})
            continue
        removed.append(one)
    return removed


async def _due_of(session: AsyncSession, project: str, kind: Kind, days: int, most: int) -> list[Due]:
    unreleased = select(Attempt.id).where(Attempt.experiment_id == Experiment.id, Attempt.released_at.is_(None))
    removal = and_(RemovalRow.experiment_id == Experiment.id, RemovalRow.kind == kind)
    rows = (
        select(Experiment.id, Experiment.ended_at)
        .join(Project, Project.id == Experiment.project_id)
        .outerjoin(RemovalRow, removal)
        .where(
            Project.name == project,
            Experiment.status.in_(_TERMINAL),
            Experiment.ended_at < func.now() - timedelta(days=days),
            # One that was tried again has made more since.
            or_(RemovalRow.removed_at.is_(None), RemovalRow.removed_at < Experiment.ended_at),
            ~unreleased.exists(),
        )
        .order_by(Experiment.ended_at)
        .limit(most)
    )
    return [
        Due(experiment_id=experiment_id, project=project, kind=kind, ended_at=ended_at, days=days)
        for experiment_id, ended_at in await session.execute(rows)
        if ended_at is not None
    ]


async def _remove(sessions: Sessions, output_dir: str, due: Due) -> None:
    detail: dict[str, int] = {}
    match due.kind:
        case "logs":
            detail["files"] = await _remove_log_files(sessions, output_dir, due.experiment_id)
        case "checkpoints":
            await from_storage(lambda: _remove_checkpoints(output_dir))
        case "rollouts" | "token_views":
            pass
        case _:
            assert_never(due.kind)
    async with sessions.begin() as session:
        for table in _TABLES[due.kind]:
            gone = await session.execute(
                delete(table).where(table.experiment_id == due.experiment_id).returning(table.experiment_id)
            )
            detail["rows"] = detail.get("rows", 0) + len(gone.all())
        await _note(session, due, detail)


_TABLES: dict[Kind, Sequence[type[LogLineRow] | type[LogChunkRow] | type[RolloutSampleRow] | type[TokenViewRow]]] = {
    "logs": (LogLineRow, LogChunkRow),
    "rollouts": (RolloutSampleRow,),
    "token_views": (TokenViewRow,),
    "checkpoints": (),
}


async def _remove_log_files(sessions: Sessions, output_dir: str, experiment_id: str) -> int:
    async with sessions() as session:
        chunks = list(await session.scalars(select(LogChunkRow).where(LogChunkRow.experiment_id == experiment_id)))
    names = [chunk_name(chunk.first_id, chunk.last_id) for chunk in chunks]
    if names:
        await remove_chunks(output_dir, names)
    return len(names)


def _remove_checkpoints(output_dir: str) -> None:
    filesystem, folder = url_to_fs(f"{output_dir.rstrip('/')}/checkpoints")
    if filesystem.exists(folder):
        filesystem.rm(folder, recursive=True)


async def _note(session: AsyncSession, due: Due, detail: dict[str, int]) -> None:
    now = func.clock_timestamp()
    row = insert(RemovalRow).values(experiment_id=due.experiment_id, kind=due.kind, removed_at=now, detail=detail)
    update = {"removed_at": now, "detail": detail}
    await session.execute(row.on_conflict_do_update(index_elements=["experiment_id", "kind"], set_=update))
    what = due.kind.replace("_", " ")
    message = f"{what} removed: the policy of project {due.project} keeps them for {due.days} days"
    await record_event(session, due.experiment_id, "note", message, detail={"kind": due.kind, **detail})

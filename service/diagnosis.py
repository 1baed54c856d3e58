"""What `sedray doctor` asks: each check looks at one thing, in bounded time, and says what to do about it."""

import asyncio
import os
import shutil
import stat
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service import queue
from service.settings import ServiceSettings
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.processes import IS_ALIVE
from service.storage.tables import ServiceProcess, User

Verdict = Literal["ok", "warning", "fault"]
_DEADLINE_S = 15.0
_LITTLE_DISK_BYTES = 10 * 2**30
_NO_DISK_BYTES = 2**30
_SLOW_MS = 50.0
_SKEW = timedelta(seconds=2)
_STALE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look found."""

    name: str
    verdict: Verdict
    detail: str
    what_to_do: str = ""


async def diagnose(sessions: Sessions, settings: ServiceSettings, head_revision: str) -> list[Check]:
    """All checks, side by side, in a fixed order. None raises, none takes longer than a quarter of a minute."""
    looks: Sequence[tuple[str, Callable[[], Awaitable[Check]]]] = (
        ("database", lambda: _in_session(sessions, _database)),
        ("migrations", lambda: _in_session(sessions, lambda session: _migrations(session, head_revision))),
        ("scheduler", lambda: _in_session(sessions, _scheduler)),
        ("ray", lambda: _in_session(sessions, _ray)),
        ("auth", lambda: _in_session(sessions, lambda session: _auth(session, settings))),
        ("storage", lambda: asyncio.to_thread(_storage, settings.output_root)),
        ("disk", lambda: asyncio.to_thread(_disk, settings.output_root)),
        ("versions", lambda: _in_session(sessions, _versions)),
        ("clock", lambda: _in_session(sessions, _clock)),
    )
    return list(await asyncio.gather(*(_bounded(name, look) for name, look in looks)))


async def _bounded(name: str, look: Callable[[], Awaitable[Check]]) -> Check:
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await look()
    except TimeoutError:
        return Check(name=name, verdict="fault", detail=f"no answer within {_DEADLINE_S:.0f} s")
    except (SQLAlchemyError, OSError, ValueError, ImportError) as error:
        return Check(name=name, verdict="fault", detail=str(error).splitlines()[0][:300])


async def _in_session(sessions: Sessions, look: Callable[[AsyncSession], Awaitable[Check]]) -> Check:
    async with sessions() as session:
        return await look(session)


async def _database(session: AsyncSession) -> Check:
    loop = asyncio.get_running_loop()
    await session.execute(text("SELECT 1"))  # the connection itself may be new
    began = loop.time()
    await session.execute(text("SELECT 1"))
    took_ms = (loop.time() - began) * 1e3
    version = await session.scalar(text("SHOW server_version"))
    size = await session.scalar(select(func.pg_database_size(func.current_database()))) or 0
    detail = f"PostgreSQL {version}, {size / 2**20:,.0f} MiB, answers in {took_ms:.1f} ms"
    if took_ms > _SLOW_MS:
        return Check(name="database", verdict="warning", detail=detail, what_to_do="look at its load and the way to it")
    return Check(name="database", verdict="ok", detail=detail)


async def _migrations(session: AsyncSession, head: str) -> Check:
    revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
    if revision == head:
        return Check(name="migrations", verdict="ok", detail=f"the schema is at {head}")
    detail = f"the schema is at {revision}, this version needs {head}"
    return Check(name="migrations", verdict="fault", detail=detail, what_to_do="run python -m migrations.apply")


async def _scheduler(session: AsyncSession) -> Check:
    rows = await session.scalars(select(ServiceProcess).where(ServiceProcess.role == "scheduler", IS_ALIVE))
    leads = [row.detail.get("leads") is True for row in rows]
    detail = f"{sum(leads)} leads, {len(leads) - sum(leads)} stand by"
    if any(leads):
        return Check(name="scheduler", verdict="ok", detail=detail)
    advice = "start one (python -m service.scheduler.main) and look at its log: nothing starts without"
    return Check(name="scheduler", verdict="fault", detail=detail, what_to_do=advice)


async def _ray(session: AsyncSession) -> Check:
    now = await database_now(session)
    seen = await queue.cluster_state(session)
    if seen is None:
        return Check(name="ray", verdict="fault", detail="never seen", what_to_do="is a scheduler running?")
    if not seen.reachable or now - seen.observed_at > _STALE:
        detail = f"last seen {seen.observed_at:%Y-%m-%d %H:%M:%S} UTC: {seen.message}"
        advice = "check the head, SEDRAY_RAY_DASHBOARD_URL and the token; running experiments are left as they are"
        return Check(name="ray", verdict="fault", detail=detail, what_to_do=advice)
    detail = f"{seen.message}, {seen.num_cpus:g} CPUs, {seen.num_gpus:g} GPUs, closed to strangers"
    return Check(name="ray", verdict="ok", detail=detail)


async def _auth(session: AsyncSession, settings: ServiceSettings) -> Check:
    admins = select(func.count()).select_from(User).where(User.is_admin, User.disabled_at.is_(None))
    if not await session.scalar(admins):
        return Check(name="auth", verdict="fault", detail="there is no admin", what_to_do="sedray admin init")
    mode = stat.S_IMODE(settings.secret_key_file.stat().st_mode)
    settings.secret_key()
    if mode & 0o077:
        detail = f"{settings.secret_key_file} may be read by others (mode {mode:04o})"
        return Check(
            name="auth", verdict="warning", detail=detail, what_to_do="chmod 0400, for the service's user alone"
        )
    return Check(name="auth", verdict="ok", detail="there is an admin, and the key file is private")


def _storage(output_root: str) -> Check:
    filesystem, root = url_to_fs(output_root)
    probe = f"{root.rstrip('/')}/.sedray-doctor-{uuid.uuid4().hex}"
    filesystem.makedirs(root, exist_ok=True)
    filesystem.pipe_file(probe, b"probe")
    try:
        if filesystem.cat_file(probe) != b"probe":
            return Check(name="storage", verdict="fault", detail=f"{output_root} gives back something else")
    finally:
        filesystem.rm_file(probe)
    return Check(name="storage", verdict="ok", detail=f"{output_root} takes, gives and forgets a file")


def _disk(output_root: str) -> Check:
    filesystem, root = url_to_fs(output_root)
    if not isinstance(filesystem, LocalFileSystem):
        return Check(name="disk", verdict="ok", detail=f"{output_root} is no disk of this machine")
    place = root
    while not os.path.exists(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:,.1f} GiB are free at {output_root}"
    advice = "make room, or let old checkpoints go (sedray admin retention)"
    if free < _NO_DISK_BYTES:
        return Check(name="disk", verdict="fault", detail=detail, what_to_do=advice)
    if free < _LITTLE_DISK_BYTES:
        return Check(name="disk", verdict="warning", detail=detail, what_to_do=advice)
    return Check(name="disk", verdict="ok", detail=detail)


async def _versions(session: AsyncSession) -> Check:
    rows = await session.scalars(select(ServiceProcess).where(IS_ALIVE))
    versions = sorted({f"{row.role} {row.detail.get('version', 'unknown')}" for row in rows})
    detail = ", ".join(versions)
    if len({one.rsplit(" ", 1)[1] for one in versions}) > 1:
        advice = "restart the older processes: they may not know what the newer ones write"
        return Check(name="versions", verdict="warning", detail=detail, what_to_do=advice)
    return Check(name="versions", verdict="ok", detail=detail)


async def _clock(session: AsyncSession) -> Check:
    before = datetime.now(UTC)
    theirs = await database_now(session)
    skew = abs(theirs - before)
    detail = f"this process and the database differ by {skew.total_seconds():.2f} s"
    if skew > _SKEW:
        advice = "set both clocks by NTP: deadlines go by the database's, logs and metrics by each machine's own"
        return Check(name="clock", verdict="warning", detail=detail, what_to_do=advice)
    return Check(name="clock", verdict="ok", detail=detail)

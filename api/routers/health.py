"""Whether this process lives, and whether it can do its work."""

from datetime import timedelta
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from api.deps import SessionsDep
from service.contract.strict_model import WireModel
from service.storage.tables import ServiceProcess

router = APIRouter(tags=["health"])
SCHEDULER_SILENCE = timedelta(seconds=15)


class Readiness(WireModel):
    """`ok`, or what is wrong, of everything that the service stands on."""

    database: str
    migrations: str
    scheduler: str
    """Told, but no reason to take no requests: without a scheduler experiments queue up and reports still arrive."""


async def _head_revision(request: Request) -> str:
    return cast(str, request.app.state.head_revision)


@router.get("/livez", summary="Whether the process answers")
async def show_life() -> dict[str, str]:
    """Touches nothing else."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Whether requests can be served",
    responses={503: {"model": Readiness, "description": "The database is away or not migrated"}},
)
async def show_readiness(
    response: Response, sessions: SessionsDep, head: Annotated[str, Depends(_head_revision)]
) -> Readiness:
    """503 while the database does not answer or its schema is not the one that this version needs."""
    try:
        async with sessions() as session:
            readiness = await _look(session, head)
    except (SQLAlchemyError, OSError):
        readiness = Readiness(database="does not answer", migrations="unknown", scheduler="unknown")
    response.status_code = 200 if (readiness.database, readiness.migrations) == ("ok", "ok") else 503
    return readiness


async def _look(session: AsyncSession, head: str) -> Readiness:
    migrated: Any = await session.scalar(text("SELECT to_regclass('alembic_version')"))
    revision = await session.scalar(text("SELECT version_num FROM alembic_version")) if migrated else None
    if revision != head:
        migrations = f"the schema is at {revision}, this version needs {head}; run python -m migrations.apply"
        return Readiness(database="ok", migrations=migrations, scheduler="unknown")
    return Readiness(database="ok", migrations="ok", scheduler=await _scheduler(session))


async def _scheduler(session: AsyncSession) -> str:
    silence = await session.scalar(
        select(func.min(func.clock_timestamp() - ServiceProcess.seen_at)).where(
            ServiceProcess.role == "scheduler", ServiceProcess.detail["leads"].astext == "true"
        )
    )
    if silence is None:
        return "never seen"
    return "ok" if silence < SCHEDULER_SILENCE else f"silent for {silence.total_seconds():.0f} s"

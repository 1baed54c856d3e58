"""Who schedules: one row with an expiry, and a token that fences the last holder.

    standby ──acquire (free or expired, token + 1)──> holder ──renew──> holder
                                                        │ └── resign ──> free at once
                                                        └── not renewed in time: another may acquire

The expiry only decides when another may take over. What keeps two schedulers from writing is the token: every writing
transaction first locks the row in share mode and compares, so a takeover waits for it or is seen by it. All times are
the database's, so clocks need not agree.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from service.errors import LeaseLost
from service.storage.tables import SchedulerLease

_NAME = "scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Proof of having been the holder when it was acquired."""

    holder: str
    token: int


async def acquire_lease(session: AsyncSession, holder: str, ttl_s: float) -> Lease | None:
    """The lease for `ttl_s` seconds if it is free or expired; None while another holds it."""
    row = insert(SchedulerLease).values(name=_NAME, holder=holder, token=1, expires_at=_after(ttl_s))
    taken = row.on_conflict_do_update(
        index_elements=[SchedulerLease.name],
        set_={"holder": holder, "token": SchedulerLease.token + 1, "expires_at": _after(ttl_s)},
        where=SchedulerLease.expires_at <= func.clock_timestamp(),
    )
    token = await session.scalar(taken.returning(SchedulerLease.token))
    return None if token is None else Lease(holder=holder, token=token)


async def renew_lease(session: AsyncSession, lease: Lease, ttl_s: float) -> None:
    """Holds it for another `ttl_s` seconds; raises LeaseLost if another has taken it.

    An expired lease that nobody took is renewed as well: its token still fences everybody else.
    """
    await _set_expiry(session, lease, _after(ttl_s))


async def resign_lease(session: AsyncSession, lease: Lease) -> None:
    """Gives it up, so that a standby need not wait; raises LeaseLost if another has taken it."""
    await _set_expiry(session, lease, func.clock_timestamp())


async def hold_lease(session: AsyncSession, lease: Lease, *, alone: bool = False) -> None:
    """Keeps a takeover out until this transaction ends; raises LeaseLost if there has been one.

    The first statement of every transaction in which the scheduler writes. `alone`: keeps its other transactions out
    too, for one that changes many experiments at once.
    """
    current = select(SchedulerLease.token).where(SchedulerLease.name == _NAME).with_for_update(read=not alone)
    if await session.scalar(current) != lease.token:
        raise _lost(lease)


async def _set_expiry(session: AsyncSession, lease: Lease, expires_at: ColumnElement[object]) -> None:
    mine = (SchedulerLease.name == _NAME, SchedulerLease.token == lease.token)
    renewed = update(SchedulerLease).where(*mine).values(expires_at=expires_at).returning(SchedulerLease.token)
    if await session.scalar(renewed) is None:
        raise _lost(lease)


def _after(seconds: float) -> ColumnElement[object]:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"another scheduler has taken over from {lease.holder}; what it was about to write is discarded",
        token=lease.token,
    )

"""Every pair of statuses against the tables of moves, in SQL."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ATTEMPT_MOVES, EXPERIMENT_MOVES, AttemptStatus, EndReason, ExperimentStatus
from service.errors import NotAllowedNow
from service.storage.database import Sessions
from service.storage.tables import Attempt, Experiment, ExperimentEvent
from service.storage.transitions import move_attempt, move_experiment
from tests.factories import experiment_of, make_attempt, make_experiment

pytestmark = pytest.mark.anyio


def end_columns(has_ended: bool) -> dict[str, Any]:
    return {"ended_at": func.now(), "end_reason": "completed"} if has_ended else {"ended_at": None, "end_reason": None}


async def num_events(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(ExperimentEvent)) or 0


async def test_every_pair_of_experiment_statuses(sessions: Sessions) -> None:
    for source in ExperimentStatus:
        for to in ExperimentStatus:
            async with sessions.begin() as session:
                await check_experiment_move(session, source, to)


async def check_experiment_move(session: AsyncSession, source: ExperimentStatus, to: ExperimentStatus) -> None:
    experiment = await make_experiment(session)
    forced = {"status": source.value, **end_columns(source.is_terminal)}
    await session.execute(update(Experiment).where(Experiment.id == experiment.id).values(forced))
    before = await num_events(session)
    reason = EndReason.COMPLETED if to.is_terminal else None
    if to in EXPERIMENT_MOVES[source]:
        moved = await move_experiment(session, experiment.id, to, message="m", reason=reason)
        assert (moved.status, moved.end_reason, await num_events(session)) == (to, reason, before + 1)
        assert (moved.ended_at is not None) == to.is_terminal
    else:
        with pytest.raises(NotAllowedNow, match=f"is {source.value}; it cannot become {to.value}"):
            await move_experiment(session, experiment.id, to, message="m", reason=reason)
        await session.refresh(experiment)
        assert (experiment.status, await num_events(session)) == (source, before)


async def test_every_pair_of_attempt_statuses(sessions: Sessions) -> None:
    for source in AttemptStatus:
        for to in AttemptStatus:
            async with sessions.begin() as session:
                await check_attempt_move(session, source, to)


async def check_attempt_move(session: AsyncSession, source: AttemptStatus, to: AttemptStatus) -> None:
    attempt = await make_attempt(session, started=False)
    forced = {"status": source.value, **end_columns(source is AttemptStatus.ENDED)}
    await session.execute(update(Attempt).where(Attempt.id == attempt.id).values(forced))
    reason = EndReason.COMPLETED if to is AttemptStatus.ENDED else None
    if to in ATTEMPT_MOVES[source]:
        assert (await move_attempt(session, attempt, to, message="m", reason=reason)).status == to
    else:
        with pytest.raises(NotAllowedNow):
            await move_attempt(session, attempt, to, message="m", reason=reason)
        await session.refresh(attempt)
        assert attempt.status == source


async def test_leaving_an_end_clears_it(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        experiment = await experiment_of(session, attempt)
        failed = ExperimentStatus.FAILED
        await move_experiment(session, experiment.id, failed, message="why", reason=EndReason.STAGE_FAILED)
        again = await move_experiment(session, experiment.id, ExperimentStatus.QUEUED, message="retried")
        assert (again.end_reason, again.ended_at, again.message) == (None, None, "")


async def test_of_two_moves_at_once_one_is_refused(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        experiment = await make_experiment(session)

    async def admit() -> bool:
        try:
            async with sessions.begin() as session:
                await move_experiment(session, experiment.id, ExperimentStatus.ADMITTED, message="m")
        except NotAllowedNow:
            return False
        return True

    assert sorted(await asyncio.gather(admit(), admit())) == [False, True]

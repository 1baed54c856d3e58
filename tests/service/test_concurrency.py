"""Drivers, people and the scheduler at the same row at the same time: no deadlock, one outcome."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, experiments, reporting
from service.contract.messages import LogLine, MetricPoint, WorkerReport
from service.contract.status import EndReason
from service.errors import NotAllowedNow, SedrayError, StaleAttempt
from service.storage.database import Sessions
from service.storage.tables import Attempt, User
from tests.factories import (
    NOW,
    experiment_of,
    make_attempt,
    make_experiment,
    make_report,
    make_run_event,
    make_stage_result,
    make_token_view,
    make_user,
)

pytestmark = pytest.mark.anyio


def full_report(seq: int) -> WorkerReport:
    point = MetricPoint(name="sft/loss", step=seq, value=1.0, ts=NOW)
    lines = [LogLine(ts=NOW, text=f"line {seq}")]
    return make_report(
        seq, points=[point], log_lines=lines, token_views=[make_token_view(seq)], events=[make_run_event()]
    )


async def attempted(sessions: Sessions, work: Callable[[AsyncSession], Awaitable[object]]) -> str:
    try:
        async with sessions.begin() as session:
            await work(session)
    except SedrayError as error:
        return error.code
    return "done"


async def test_a_report_sent_ten_times_at_once_is_stored_once(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)

    async def report() -> bool:
        async with sessions.begin() as session:
            return (await reporting.take_report(session, attempt, full_report(1))).duplicate

    assert sorted(await asyncio.gather(*(report() for _ in range(10)))) == [False] + [True] * 9


async def test_reports_results_cancel_and_end_do_not_deadlock(sessions: Sessions) -> None:
    for _ in range(5):
        async with sessions.begin() as session:
            user = await make_user(session)
            attempt = await make_attempt(session)
        outcomes = await asyncio.gather(*(attempted(sessions, work) for work in everything(attempt, user)))
        assert set(outcomes) <= {"done", StaleAttempt.code, NotAllowedNow.code}
        async with sessions.begin() as session:
            assert (await experiment_of(session, attempt)).status in ("cancelled", "queued")


def everything(attempt: Attempt, user: User) -> list[Callable[[AsyncSession], Awaitable[object]]]:
    """All that may be done to a running attempt."""

    def report(session: AsyncSession) -> Awaitable[object]:
        return reporting.take_report(session, attempt, full_report(1))

    return [
        report,
        report,
        report,
        lambda session: attempts.record_stage_result(session, attempt, make_stage_result()),
        lambda session: experiments.cancel(session, attempt.experiment_id, user=user),
        lambda session: attempts.end_attempt(session, attempt, EndReason.HEARTBEAT_LOST, "silent", {}),
        lambda session: attempts.mark_stop_requested(session, attempt, NOW),
    ]


async def test_of_a_finish_and_a_verdict_at_once_one_counts(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, max_retries=0)

    def end(reason: EndReason) -> Callable[[AsyncSession], Awaitable[object]]:
        return lambda session: attempts.end_attempt(session, attempt, reason, "", {})

    reasons = (EndReason.STAGE_FAILED, EndReason.RAY_JOB_FAILED)
    outcomes = await asyncio.gather(*(attempted(sessions, end(reason)) for reason in reasons))
    assert sorted(outcomes) == ["done", StaleAttempt.code]
    async with sessions.begin() as session:
        assert (await experiment_of(session, attempt)).end_reason == reasons[outcomes.index("done")].value


async def test_two_claims_of_one_experiment_open_one_attempt(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        experiment = await make_experiment(session)

    async def claim(session: AsyncSession) -> Attempt:
        return await attempts.open_attempt(session, experiment, NOW)

    outcomes = await asyncio.gather(attempted(sessions, claim), attempted(sessions, claim))
    assert sorted(outcomes) == ["done", NotAllowedNow.code]

"""Lines stay in order and bounded; rollouts come newest first."""

import pytest
from sqlalchemy import select

from service import log_store
from service.contract.messages import LogLine, RolloutSample
from service.storage.database import Sessions
from service.storage.tables import Attempt, LogLineRow
from tests.factories import NOW, make_attempt

pytestmark = pytest.mark.anyio


def lines(start: int, end: int) -> list[LogLine]:
    return [LogLine(ts=NOW, text=f"line {number}") for number in range(start, end)]


def rollout(step: int, sample_index: int, completion: str = "1 + 2 = 3") -> RolloutSample:
    return RolloutSample(
        stage="rl",
        step=step,
        prompt_uid=7,
        sample_index=sample_index,
        prompt="3 5 7 -> 22 :",
        completion=completion,
        answer="3 5 7 -> 22",
        reward=1.0,
        num_tokens=6,
        policy_version=step,
    )


async def new_attempt(sessions: Sessions) -> Attempt:
    async with sessions.begin() as session:
        return await make_attempt(session)


async def texts(sessions: Sessions) -> list[str]:
    async with sessions() as session:
        return list(await session.scalars(select(LogLineRow.text).order_by(LogLineRow.id)))


async def test_the_middle_of_a_long_log_is_left_out_and_counted(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    for start in (0, 50):
        async with sessions.begin() as session:
            await log_store.append_lines(session, attempt, lines(start, start + 50))
            await log_store.leave_out_surplus(session, attempt, first=5, newest=10)
    kept = await texts(sessions)
    assert kept[:5] == [f"line {number}" for number in range(5)]
    assert kept[5].startswith("85 lines left out")
    assert kept[6:] == [f"line {number}" for number in range(90, 100)]


async def test_a_short_log_is_left_alone(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    async with sessions.begin() as session:
        await log_store.append_lines(session, attempt, lines(0, 15))
        await log_store.leave_out_surplus(session, attempt, first=5, newest=10)
    assert await texts(sessions) == [f"line {number}" for number in range(15)]


async def test_a_flood_of_lines_is_bounded(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    async with sessions.begin() as session:
        await log_store.append_lines(session, attempt, lines(0, 25_000))
    kept = await texts(sessions)
    assert len(kept) == log_store.FIRST_LINES + 1 + log_store.NEWEST_LINES
    assert kept[-1] == "line 24999"


async def test_sampled_null_characters_are_stored_as_replacement_characters(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    async with sessions.begin() as session:
        await log_store.append_lines(session, attempt, [LogLine(ts=NOW, text="a\x00b")])
        await log_store.append_rollouts(session, attempt, [rollout(1, 0, "c\x00d")])
    async with sessions() as session:
        [stored] = await log_store.rollouts_before(session, attempt.experiment_id, limit=5)
    assert (await texts(sessions), stored.completion) == (["a\ufffdb"], "c\ufffdd")


async def test_rollouts_come_newest_first_and_page_by_id(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    async with sessions.begin() as session:
        await log_store.append_rollouts(session, attempt, [rollout(step, index) for step in (1, 2) for index in (0, 1)])
    async with sessions() as session:
        page = await log_store.rollouts_before(session, attempt.experiment_id, limit=3)
        rest = await log_store.rollouts_before(session, attempt.experiment_id, before=page[-1].id, limit=3)
        of_step = await log_store.rollouts_before(session, attempt.experiment_id, stage="rl", step=1, limit=9)
        of_other_stage = await log_store.rollouts_before(session, attempt.experiment_id, stage="sft", limit=9)
    assert [(row.step, row.sample_index) for row in page] == [(2, 1), (2, 0), (1, 1)]
    assert [(row.step, row.sample_index) for row in rest] == [(1, 0)]
    assert ({row.step for row in of_step}, list(of_other_stage)) == ({1}, [])

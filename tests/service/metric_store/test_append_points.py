"""Appending: what is sent again is not counted again, and folding loses nothing."""

from datetime import timedelta
from math import inf, nan

import pytest
from sqlalchemy import func, select

from service import attempts, metric_store
from service.contract.messages import MetricPoint
from service.contract.status import EndReason
from service.metric_store.folding import CHUNK_POINTS, MAX_TAIL_POINTS, fold
from service.storage.database import Sessions
from service.storage.tables import Attempt, MetricChunk, MetricLevel, MetricSeries, MetricTail
from tests.factories import NOW, make_attempt

pytestmark = pytest.mark.anyio


def points(name: str, *steps: int) -> list[MetricPoint]:
    return [MetricPoint(name=name, step=step, value=float(step), ts=NOW + timedelta(seconds=step)) for step in steps]


async def new_attempt(sessions: Sessions) -> Attempt:
    async with sessions.begin() as session:
        return await make_attempt(session)


async def append(sessions: Sessions, attempt: Attempt, batch: list[MetricPoint]) -> int:
    async with sessions.begin() as session:
        return await metric_store.append_points(session, attempt, batch)


async def test_a_repeated_batch_stores_nothing_and_changes_nothing(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    batch = points("sft/loss", 0, 1, 2) + points("sft/nll", 0, 1)
    assert await append(sessions, attempt, batch) == 5
    assert await append(sessions, attempt, batch) == 0
    async with sessions() as session:
        rows = (await session.scalars(select(MetricSeries).order_by(MetricSeries.name))).all()
        assert [(row.name, row.num_points, row.last_step, row.change) for row in rows] == [
            ("sft/loss", 3, 2, 1),
            ("sft/nll", 2, 1, 1),
        ]


async def test_an_overlapping_batch_adds_only_what_is_new(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await append(sessions, attempt, points("sft/loss", 0, 1, 2))
    assert await append(sessions, attempt, points("sft/loss", 1, 2, 3, 4)) == 2


async def test_steps_out_of_order_are_ignored(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    assert await append(sessions, attempt, points("sft/loss", 5, 3, 5, 6)) == 2


async def test_an_empty_batch_stores_nothing(sessions: Sessions) -> None:
    assert await append(sessions, await new_attempt(sessions), []) == 0


@pytest.mark.parametrize("sizes", [[2_600], [1_000, 24, 1, 1_000, 575]])
async def test_folding_keeps_every_point_and_a_bounded_tail(sessions: Sessions, sizes: list[int]) -> None:
    attempt = await new_attempt(sessions)
    start = 0
    for size in sizes:
        await append(sessions, attempt, points("sft/loss", *range(start, start + size)))
        start += size
    async with sessions() as session:
        chunks = (await session.scalars(select(MetricChunk).order_by(MetricChunk.first_step))).all()
        batches = await session.scalars(select(MetricTail.steps).order_by(MetricTail.first_step))
        tail = [step for steps in batches for step in steps]
        series = (await session.scalars(select(MetricSeries))).one()
    assert [step for chunk in chunks for step in chunk.steps] + tail == list(range(2_600))
    assert {chunk.num_points for chunk in chunks} == {CHUNK_POINTS}
    assert series.tail_points == len(tail) <= MAX_TAIL_POINTS
    assert series.num_points == 2_600


async def test_chunks_carry_the_envelope_of_their_finite_values(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    values = [nan, inf, -inf, 1.7e308, *(float(value) for value in range(1_300))]
    await append(
        sessions,
        attempt,
        [MetricPoint(name="sft/loss", step=step, value=value, ts=NOW) for step, value in enumerate(values)],
    )
    async with sessions() as session:
        chunk = (await session.scalars(select(MetricChunk).order_by(MetricChunk.first_step).limit(1))).one()
    assert (chunk.num_points, chunk.num_finite, chunk.value_min, chunk.value_max) == (512, 508, 0.0, 507.0)
    assert chunk.value_sum == sum(range(508))
    assert str(chunk.values[:4]) == "[nan, inf, -inf, 1.7e+308]"


async def test_series_that_reach_the_limit_together_are_folded_together(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    names = [f"sft/{number}" for number in range(5)]
    assert await append(sessions, attempt, [p for name in names for p in points(name, *range(1_025))]) == 5 * 1_025
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(MetricChunk)) == 5


async def test_a_finished_run_is_folded_whole(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await append(sessions, attempt, points("sft/loss", *range(1_500)) + points("sft/nll", 3, 4))
    async with sessions.begin() as session:
        assert await metric_store.fold_finished(session, ended_for=timedelta(0)) == 0, "it may still report"
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "no", {})
    async with sessions.begin() as session:
        assert await metric_store.fold_finished(session, ended_for=timedelta(0)) == 2
        assert await metric_store.fold_finished(session, ended_for=timedelta(0)) == 0
        assert await session.scalar(select(func.count()).select_from(MetricTail)) == 0
        chunks = (await session.scalars(select(MetricChunk.num_points).order_by(MetricChunk.num_points))).all()
        [loss, nll] = await metric_store.read_series(session, attempt.experiment_id, max_points=2_000)
    assert list(chunks) == [2, 476, 512, 512]
    assert loss.points is not None and list(loss.points.steps) == list(range(1_500))
    assert nll.points is not None and list(nll.points.steps) == [3, 4]


async def test_envelopes_of_many_chunks_are_those_of_their_points(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    for start in range(0, 2_000, 500):
        await append(sessions, attempt, points("sft/loss", *range(start, start + 500)))
        async with sessions.begin() as session:
            series = (await session.scalars(select(MetricSeries.id))).all()
            await fold(session, series, chunk_points=4, factor=3)
    async with sessions() as session:
        levels = (await session.scalars(select(MetricLevel).order_by(MetricLevel.level, MetricLevel.first_step))).all()
    for level, size in ((1, 12), (2, 36)):
        found = [one for one in levels if one.level == level]
        assert len(found) == (2_000 - 4) // size
        for number, one in enumerate(found):
            first, last = number * size, (number + 1) * size - 1
            assert (one.first_step, one.last_step, one.num_points, one.num_finite) == (first, last, size, size)
            assert (one.value_min, one.value_max, one.value_sum) == (first, last, sum(range(first, last + 1)))

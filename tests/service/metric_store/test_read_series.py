"""Reading against a dict: for each step the value of the latest attempt that has it."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from math import nan

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service import attempts, metric_store
from service.contract.messages import MetricPoint
from service.contract.status import EndReason
from service.storage.database import Sessions, create_sessions
from service.storage.tables import Attempt
from tests.factories import NOW, experiment_of, make_attempt

pytestmark = pytest.mark.anyio


def points(steps: Iterable[int], *, scale: float = 1.0, name: str = "sft/loss") -> list[MetricPoint]:
    return [MetricPoint(name=name, step=step, value=scale * step, ts=NOW + timedelta(seconds=step)) for step in steps]


async def write(sessions: Sessions, *batches: list[MetricPoint]) -> str:
    """One attempt after the other, each with one batch; returns the experiment's id."""
    attempt: Attempt | None = None
    for batch in batches:
        async with sessions.begin() as session:
            if attempt is not None:
                await attempts.end_attempt(session, attempt, EndReason.ACTOR_DIED, "lost", {})
                await attempts.release(session, attempt, NOW)
            experiment = None if attempt is None else await experiment_of(session, attempt)
            attempt = await make_attempt(session, experiment, max_retries=20)
            await metric_store.append_points(session, attempt, batch)
    assert attempt is not None
    return attempt.experiment_id


async def read(sessions: Sessions, experiment_id: str, **wanted: int) -> metric_store.Series:
    async with sessions() as session:
        [series] = await metric_store.read_series(session, experiment_id, ["sft/loss"], **wanted)
    return series


async def test_points_that_fit_come_raw_with_their_times(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(1_300)))
    series = await read(sessions, experiment_id, max_points=1_300)
    assert series.points is not None
    assert list(series.points.steps) == list(range(1_300))
    assert list(series.points.values) == [float(step) for step in range(1_300)]
    assert series.points.ts[1_299] == NOW + timedelta(seconds=1_299)


async def test_many_experiments_are_read_together_and_each_for_itself(sessions: Sessions) -> None:
    ids = [
        await write(sessions, points(range(700)), points(range(600, 900), scale=2.0)),
        await write(sessions, points(range(1_100), scale=3.0)),
        await write(sessions, points(range(5), name="sft/nll")),
    ]
    async with sessions() as session:
        found = await metric_store.read_many(session, ids, ["sft/loss"], 600)
        assert found == {one: await metric_store.read_series(session, one, ["sft/loss"], 600) for one in ids[:2]}


async def test_a_range_of_steps_cuts_chunks(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(2_600)))
    series = await read(sessions, experiment_id, from_step=500, to_step=1_100)
    assert series.points is not None
    assert list(series.points.steps) == list(range(500, 1_101))


async def test_a_range_without_points_leaves_the_series_out(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(10)))
    async with sessions() as session:
        assert await metric_store.read_series(session, experiment_id, ["sft/loss"], from_step=10) == []


async def test_a_resumed_attempt_replaces_the_steps_that_it_runs_again(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(1_500)), points(range(1_000, 1_700), scale=-1.0))
    series = await read(sessions, experiment_id, max_points=2_000)
    assert series.points is not None
    assert list(series.points.values) == [float(s) if s < 1_000 else -float(s) for s in range(1_700)]
    assert [(start.number, start.first_step) for start in series.attempts] == [(1, 0), (2, 1_000)]


async def test_a_long_series_comes_as_an_envelope_of_its_chunks(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(20_000)))
    series = await read(sessions, experiment_id, max_points=100)
    assert (series.points, series.num_points) == (None, 20_000)
    assert 25 <= len(series.envelope) <= 100
    for bucket in series.envelope:
        assert (bucket.min, bucket.max) == (bucket.first_step, bucket.last_step)
        assert bucket.mean == pytest.approx((bucket.first_step + bucket.last_step) / 2)
    assert sum(bucket.num_points for bucket in series.envelope) == 20_000


@pytest.mark.parametrize("bounds", [(0, 10**6), (10_000, 39_000), (700, 800)])
async def test_a_very_long_series_comes_from_the_envelopes_of_many_chunks(
    sessions: Sessions, bounds: tuple[int, int]
) -> None:
    experiment_id = await write(sessions, points(range(40_000)))
    series = await read(sessions, experiment_id, max_points=4, from_step=bounds[0], to_step=bounds[1])
    _check(series, {step: float(step) for step in range(40_000) if bounds[0] <= step <= bounds[1]}, 4)


async def test_every_series_is_read_without_names(sessions: Sessions) -> None:
    batch = points(range(3), name="sft/nll") + points(range(3)) + points(range(3), name="eval/test/pass@8")
    experiment_id = await write(sessions, batch)
    async with sessions() as session:
        series = await metric_store.read_series(session, experiment_id)
    assert [one.name for one in series] == ["eval/test/pass@8", "sft/loss", "sft/nll"]


async def test_names_carry_the_newest_value_of_the_latest_attempt(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(10)), points([4, 5], scale=nan))
    async with sessions() as session:
        [entry] = await metric_store.list_names(session, experiment_id)
    assert (entry.name, entry.num_points, entry.last_step, str(entry.last_value)) == ("sft/loss", 12, 5, "nan")


async def test_changes_are_heard_once_and_in_order(sessions: Sessions) -> None:
    experiment_id = await write(sessions, points(range(3)) + points([1], name="sft/nll"), points([2, 3]))
    async with sessions() as session:
        everything = await metric_store.changed_since(session, experiment_id, 0)
        rest = await metric_store.changed_since(session, experiment_id, everything[0].change)
        nothing = await metric_store.changed_since(session, experiment_id, everything[-1].change)
    assert [(value.name, value.step) for value in everything] == [("sft/nll", 1), ("sft/loss", 3)]
    assert [value.name for value in rest] == ["sft/loss"]
    assert nothing == []


RANGES = st.tuples(st.integers(0, 3_000), st.integers(1, 2_600), st.integers(1, 3))
"""First step, number of points, stride of one attempt."""


@example(ranges=[(0, 1068, 3)], max_points=484, bounds=(998, 779))  # no step at all
@example(ranges=[(0, 1068, 3)], max_points=484, bounds=(301, 302))  # between two steps of one chunk
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],  # shrinking would repeat many database writes
)
@given(
    ranges=st.lists(RANGES, min_size=1, max_size=3),
    max_points=st.integers(1, 6_000),
    bounds=st.tuples(st.integers(0, 4_000), st.integers(0, 9_000)),
)
def test_reading_agrees_with_a_dict(
    database_url: str, ranges: list[tuple[int, int, int]], max_points: int, bounds: tuple[int, int]
) -> None:
    batches = [
        points(range(first, first + count * stride, stride), scale=1.0 + number)
        for number, (first, count, stride) in enumerate(ranges)
    ]
    expected = {point.step: point.value for batch in batches for point in batch if bounds[0] <= point.step <= bounds[1]}
    series = asyncio.run(_write_and_read(database_url, batches, max_points, bounds))
    if not expected:
        assert series == []
        return
    _check(series[0], expected, max_points)


async def _write_and_read(
    database_url: str, batches: list[list[MetricPoint]], max_points: int, bounds: tuple[int, int]
) -> list[metric_store.Series]:
    engine = create_async_engine(database_url, poolclass=NullPool)
    sessions = create_sessions(engine)
    experiment_id = await write(sessions, *batches)
    async with sessions() as session:
        return await metric_store.read_series(session, experiment_id, ["sft/loss"], max_points, *bounds)


def _check(series: metric_store.Series, expected: dict[int, float], max_points: int) -> None:
    steps = sorted(expected)
    assert series.num_points == len(steps)
    if len(steps) <= max_points:
        assert series.points is not None
        assert dict(zip(series.points.steps, series.points.values, strict=True)) == expected
        assert list(series.points.steps) == steps
        return
    assert len(series.envelope) <= max_points
    start = 0
    for bucket in series.envelope:
        inside = steps[start : start + bucket.num_points]
        values = [expected[step] for step in inside]
        assert (bucket.first_step, bucket.last_step) == (inside[0], inside[-1])
        assert (bucket.min, bucket.max) == (min(values), max(values))
        assert bucket.mean == pytest.approx(sum(values) / len(values))
        start += bucket.num_points
    assert start == len(steps)

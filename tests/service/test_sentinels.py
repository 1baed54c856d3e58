"""Limits on a run's own metrics: what fires, how often, and what follows."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service import attempts, experiments, reporting
from service.contract.messages import MetricPoint, ReportAck
from service.contract.sentinels import limits_of
from service.contract.status import EndReason
from service.errors import StaleAttempt
from service.sentinels import Alarm, count
from service.storage.database import Sessions
from service.storage.tables import Attempt
from tests.factories import NOW, experiment_of, make_attempt, make_report, make_spec

NAN = float("nan")
ENTROPY = {"type": "entropy_collapse", "threshold": 0.1, "window": 3}


def points(name: str, *values: float, first_step: int = 1) -> list[MetricPoint]:
    return [MetricPoint(name=name, step=step, value=value, ts=NOW) for step, value in enumerate(values, first_step)]


def alarms(sentinel: dict[str, Any], *batches: list[MetricPoint]) -> list[Alarm]:
    """What one sentinel raises over several reports."""
    limits = limits_of(make_spec(sentinels=[sentinel]).sentinels)
    by_metric = {limit.metric: [limit] for limit in limits}
    seen: dict[str, Any] = {}
    raised: list[Alarm] = []
    for batch in batches:
        seen, more = count(seen, by_metric, make_report(points=batch).columns())
        raised += more
    return raised


@pytest.mark.parametrize(
    ("sentinel", "metric", "good", "bad"),
    [
        ({"type": "non_finite", "window": 2}, "sft/loss", 1.0, NAN),
        ({"type": "non_finite", "window": 2}, "actor/grad_norm", 1.0, float("inf")),
        ({"type": "entropy_collapse", "window": 2}, "actor/entropy", 0.5, 0.001),
        ({"type": "reward_saturation", "window": 2}, "group/frac_reward_zero_std", 0.5, 1.0),
        ({"type": "clipped_ratio", "window": 2}, "completions/clipped_ratio", 0.1, 0.95),
        ({"type": "metric", "metric": "actor/ppo_kl", "above": 0.2, "window": 2}, "actor/ppo_kl", 0.1, 0.3),
        ({"type": "metric", "metric": "reward/mean", "below": 0.0, "window": 2}, "reward/mean", 0.1, -0.3),
    ],
)
def test_each_kind_fires_at_its_limit_and_not_before(
    sentinel: dict[str, Any], metric: str, good: float, bad: float
) -> None:
    assert alarms(sentinel, points(metric, bad, good, bad, good)) == []
    [alarm] = alarms(sentinel, points(metric, good, bad, bad, bad))
    assert (alarm.limit.metric, alarm.first_step, alarm.last_step) == (metric, 2, 3)


def test_a_streak_may_span_reports_and_fires_once() -> None:
    low = [points("actor/entropy", 0.01, 0.01, first_step=step) for step in (1, 3, 5)]
    [alarm] = alarms(ENTROPY, *low)
    assert alarm.message == (
        "sentinel entropy_collapse: actor/entropy was below 0.1 3 times in a row (steps 1 to 3): 0.01 at step 3"
    )


def test_not_a_number_passes_no_limit_but_its_own() -> None:
    assert alarms(ENTROPY, points("actor/entropy", NAN, NAN, NAN, NAN)) == []


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.lists(st.integers(0, 40), max_size=4))
def test_how_points_are_split_into_reports_does_not_matter(bad: list[bool], window: int, cuts: list[int]) -> None:
    sentinel = {**ENTROPY, "window": window}
    every = points("actor/entropy", *(0.01 if low else 1.0 for low in bad))
    places = [0, *sorted(cuts), len(every)]
    batches = [every[start:end] for start, end in pairwise(places)]
    assert alarms(sentinel, *batches) == alarms(sentinel, every)


@pytest.mark.parametrize(
    ("sentinel", "problem"),
    [
        ({"type": "metric", "metric": "actor/entrop", "below": 1.0}, "did you mean 'actor/entropy'"),
        ({"type": "metric", "metric": "actor/entropy"}, "either above or below"),
        ({"type": "metric", "metric": "actor/entropy", "below": 1.0, "above": 2.0}, "either above or below"),
        ({"type": "entropy_collapse", "action": "explode"}, "alert"),
        ({"type": "entropy_collapse", "window": 0}, "greater than or equal to 1"),
    ],
)
def test_a_sentinel_that_could_not_work_is_refused(sentinel: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        make_spec(sentinels=[sentinel])


async def reported(sessions: Sessions, attempt: Attempt, seq: int, *values: float) -> ReportAck:
    async with sessions.begin() as session:
        report = make_report(seq, points=points("actor/entropy", *values, first_step=10 * seq))
        return await reporting.take_report(session, attempt, report)


async def told(sessions: Sessions, attempt: Attempt) -> list[dict[str, Any]]:
    async with sessions() as session:
        rows = await experiments.events_after(session, attempt.experiment_id, after=0, limit=100)
    return [row.detail for row in rows if row.kind == "sentinel"]


@pytest.mark.anyio
async def test_an_alert_is_an_event_and_the_run_goes_on(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, sentinels=[ENTROPY])
    for seq in (1, 2, 2, 3):
        assert not (await reported(sessions, attempt, seq, 0.05, 0.05)).cancel
    [detail] = await told(sessions, attempt)
    assert (detail["metric"], detail["first_step"], detail["last_step"]) == ("actor/entropy", 10, 20)


@pytest.mark.anyio
async def test_a_stop_ends_the_attempt_with_what_was_seen_and_is_not_tried_again(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, sentinels=[{**ENTROPY, "action": "stop"}])
    assert (await reported(sessions, attempt, 1, 0.05, 0.05, 0.05)).cancel
    async with sessions.begin() as session:
        experiment = await experiment_of(session, attempt)
        assert (experiment.status, experiment.end_reason) == ("failed", EndReason.SENTINEL)
        assert "actor/entropy was below 0.1" in experiment.message
        with pytest.raises(StaleAttempt):
            await attempts.accept_report(session, attempt, make_report(2))
    assert len(await told(sessions, attempt)) == 1


@pytest.mark.anyio
async def test_another_attempt_is_watched_anew(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        first = await make_attempt(session, sentinels=[ENTROPY])
    await reported(sessions, first, 1, 0.05, 0.05)
    async with sessions.begin() as session:
        experiment = await attempts.end_attempt(session, first, EndReason.ACTOR_DIED, "gone", {})
        await attempts.release(session, first, NOW)
        second = await make_attempt(session, experiment)
    await reported(sessions, second, 1, 0.05, 0.05)
    assert await told(sessions, second) == []

"""Kinds of failure and their policies, as pure data."""

from datetime import timedelta
from itertools import count

import pytest

from service.contract.failures import NO_FAILURE, POLICIES, FailureClass, Retry, class_of, retry_after
from service.contract.status import EndReason


def retries(reason: EndReason, max_retries: int, jitter: float = 1.0) -> list[Retry]:
    """All that follow if every attempt ends like this; at most 100."""
    counts: dict[str, int] = {}
    found: list[Retry] = []
    for _ in zip(range(100), count(), strict=False):
        retry = retry_after(reason, counts, max_retries, jitter)
        if retry is None:
            break
        counts[retry.failure.value] = retry.number
        found.append(retry)
    return found


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_is_of_a_kind_or_no_failure(reason: EndReason) -> None:
    assert (class_of(reason) is None) == (reason in NO_FAILURE)


def test_every_kind_has_its_policy() -> None:
    assert set(POLICIES) == set(FailureClass)


@pytest.mark.parametrize("reason", [EndReason.STAGE_FAILED, EndReason.CONFIG_ERROR, EndReason.OUT_OF_MEMORY])
def test_what_would_happen_again_is_not_tried_again(reason: EndReason) -> None:
    assert retries(reason, max_retries=5) == []


@pytest.mark.parametrize("reason", [EndReason.ACTOR_DIED, EndReason.ENGINE_FAILED, EndReason.RAY_JOB_LOST])
@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_infrastructure_is_tried_again_max_retries_times(reason: EndReason, max_retries: int) -> None:
    assert len(retries(reason, max_retries)) == max_retries


def test_each_kind_has_a_budget_of_its_own() -> None:
    spent = {FailureClass.INFRA_NODE.value: 2}
    assert retry_after(EndReason.ACTOR_DIED, spent, 2, 1.0) is None
    retry = retry_after(EndReason.RAY_JOB_LOST, spent, 2, 1.0)
    assert retry is not None and str(retry) == "retry 1 of 2 after a failure of kind lost"


def test_waits_double_from_half_a_minute_to_a_quarter_of_an_hour() -> None:
    waits = [retry.wait.total_seconds() for retry in retries(EndReason.ACTOR_DIED, 20)]
    assert waits[:7] == [30, 60, 120, 240, 480, 900, 900]
    assert waits[-1] == 900


def test_jitter_scales_the_wait() -> None:
    assert retries(EndReason.ACTOR_DIED, 1, jitter=0.5)[0].wait == timedelta(seconds=15)


def test_waiting_for_capacity_is_no_retry_and_does_not_grow() -> None:
    found = retries(EndReason.NO_CAPACITY, max_retries=0)
    assert {retry.wait for retry in found} == {timedelta(seconds=30)}
    assert (len(found), any(retry.counts for retry in found)) == (20, False)

"""Who gives way, who grows, and who is left alone."""

from typing import Any

import pytest

from service.scheduler.decision.facts import RunningAttempt
from service.scheduler.decision.resources import Placement, Resources, RoleDemand
from tests.service.scheduler.decision.situations import (
    HOUR,
    NOW,
    bundles,
    decided,
    demand,
    entry,
    node,
    running,
)


def victim(name: str, cpus: float, **facts: Any) -> RunningAttempt:
    """Of class `backfill`, preemptible."""
    return running(name, bundles("n1", 0, cpus), **{"priority_rank": 4, "preemptible": True, **facts})


def elastic(name: str, *, engines: int, least: int = 1, most: int = 4, **facts: Any) -> RunningAttempt:
    """A trainer and engines of one CPU each."""
    role = RoleDemand(role="rollout", bundle=Resources.demand(1, 0), count=engines, max_count=most)
    placement: Placement = (*bundles("n1"), *bundles("n1", count=engines, role="rollout"))
    return running(name, placement, elastic=role, num_least=least, **facts)


def test_the_youngest_of_the_lowest_class_gives_way_and_no_more_than_needed() -> None:
    busy = [
        victim("low", 1, priority_rank=3),
        victim("old", 2, started_at=NOW - 9 * HOUR),
        victim("young", 1, started_at=NOW - HOUR),
    ]
    decisions = decided(entry("high", demand(0, 1), priority_rank=1), running=busy)
    assert [(found.attempt_id, found.in_favour_of) for found in decisions.preemptions] == [("young-a1", "high")]
    assert decisions.reservations[0].at == NOW + 120


def test_whoever_is_not_needed_after_all_is_spared() -> None:
    busy = [victim("young", 1, started_at=NOW - HOUR), victim("old", 3, started_at=NOW - 9 * HOUR)]
    decisions = decided(entry("high", demand(0, 3), priority_rank=1), running=busy)
    assert [found.attempt_id for found in decisions.preemptions] == ["old-a1"]


@pytest.mark.parametrize(
    "facts",
    [
        {"priority_rank": 2},
        {"preemptible": False},
        {"started_at": NOW - 60},
        {"is_preempted": True},
        {"is_ending": True},
        {"left_s": 200},
    ],
)
def test_who_is_left_alone(facts: dict[str, Any]) -> None:
    """Equal classes, the unwilling, the fresh, those asked before, those that end, and those that end soon anyway."""
    assert decided(entry("a", demand(0, 4)), running=[victim("r", 4, **facts)]).preemptions == ()


def test_urgent_does_not_wait_for_the_fresh() -> None:
    decisions = decided(entry("a", demand(0, 4), priority_rank=0), running=[victim("r", 4, started_at=NOW - 1)])
    assert len(decisions.preemptions) == 1


def test_nobody_gives_way_in_vain() -> None:
    busy = [victim("r", 2), running("stays", bundles("n1", 0, 2))]
    assert decided(entry("a", demand(0, 4), priority_rank=1), running=busy).preemptions == ()


def test_what_those_who_give_way_hold_is_kept_for_the_one_they_give_way_to() -> None:
    asked = victim("r", 4, is_preempted=True)
    queue = (entry("high", demand(0, 4), priority_rank=1), entry("low", demand(0, 1), queued_at=NOW - 99))
    decisions = decided(*queue, running=[asked], nodes=(node(cpus=5),))
    assert [found.id for found in decisions.reservations] == ["high"]
    assert [found.id for found in decisions.admissions] == ["low"], "beside it there is room"
    decisions = decided(*queue, entry("more", demand(0, 1), user="eve"), running=[asked], nodes=(node(cpus=5),))
    assert len(decisions.admissions) == 1


def test_idle_capacity_is_lent_in_turn_up_to_the_most() -> None:
    nodes = (node(cpus=9),)
    decisions = decided(running=[elastic("a", engines=1, most=2), elastic("b", engines=1)], nodes=nodes)
    assert [(found.attempt_id, found.count, len(found.added)) for found in decisions.resizes] == [
        ("a-a1", 2, 1),
        ("b-a1", 4, 3),
    ]


def test_nothing_is_lent_that_is_kept_for_somebody() -> None:
    decisions = decided(entry("big", demand(0, 6)), running=[elastic("a", engines=1)], nodes=(node(cpus=6),))
    assert decisions.resizes == ()


def test_what_was_lent_comes_back_before_anybody_is_stopped() -> None:
    busy = [elastic("lender", engines=3, priority_rank=0), victim("r", 2)]
    decisions = decided(entry("a", demand(0, 2)), running=busy, nodes=(node(cpus=6),))
    assert [(found.attempt_id, found.count, found.added) for found in decisions.resizes] == [("lender-a1", 1, ())]
    assert decisions.preemptions == ()


def test_an_experiment_keeps_the_engines_that_it_needs() -> None:
    busy = [elastic("lender", engines=3, least=2), victim("r", 2)]
    decisions = decided(entry("a", demand(0, 3), priority_rank=1), running=busy, nodes=(node(cpus=6),))
    assert [found.count for found in decisions.resizes] == [2]
    assert [found.attempt_id for found in decisions.preemptions] == ["r-a1"]

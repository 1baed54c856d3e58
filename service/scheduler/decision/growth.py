"""Idle capacity for running experiments: one more rollout engine each, in turn, as long as anything is free.

Only what nobody who waits could use is lent: growth comes last, keeps away from reservations, and is asked back before
anybody is stopped.
"""

from collections.abc import Sequence
from math import inf

from service.scheduler.decision.facts import RunningAttempt
from service.scheduler.decision.outcome import Resize
from service.scheduler.decision.resources import Bundle, Demand, RoleDemand
from service.scheduler.decision.room import Room


def give_back(running: Sequence[RunningAttempt]) -> list[Resize]:
    """What is lent to attempts whose stage has no use for it."""
    return [
        Resize(attempt_id=attempt.id, count=attempt.num_least, reason="its stage asks no engine")
        for attempt in running
        if attempt.lent and not attempt.has_use_for_more and not attempt.is_ending
    ]


def grow(running: Sequence[RunningAttempt], room: Room) -> list[Resize]:
    """What is lent to whom; takes it from the room."""
    added: dict[str, list[Bundle]] = {}
    wanting = [attempt for attempt in running if _num_wanted(attempt) > 0]
    wanting.sort(key=lambda attempt: (attempt.priority_rank, attempt.started_at, attempt.id))
    while wanting:
        wanting = [attempt for attempt in wanting if _one_more(attempt, room, added.setdefault(attempt.id, []))]
    return [
        Resize(
            attempt_id=attempt.id, count=attempt.elastic.count + len(more), added=tuple(more), reason="idle capacity"
        )
        for attempt in running
        if attempt.elastic is not None and (more := added.get(attempt.id))
    ]


def _num_wanted(attempt: RunningAttempt) -> int:
    if attempt.elastic is None or attempt.is_ending or attempt.is_preempted or attempt.returning:
        return 0
    if not attempt.has_use_for_more:
        return 0
    return attempt.elastic.num_extra


def _one_more(attempt: RunningAttempt, room: Room, added: list[Bundle]) -> bool:
    """Add a bundle if there is room; says whether the attempt may want another."""
    role = attempt.elastic
    assert role is not None, "only those that want more are asked"
    one = RoleDemand(role=role.role, bundle=role.bundle, count=1, gpu_types=role.gpu_types)
    placement = room.place(Demand(roles=(one,)), inf)
    if placement is None:
        return False
    room.take(placement, inf)
    added += placement
    return len(added) < role.num_extra

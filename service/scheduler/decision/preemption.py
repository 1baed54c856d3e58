"""Who gives way to an experiment that stands first and does not fit.

Engines that idle capacity has lent are asked back before anybody is stopped, whatever their class: they were lent on
that condition. Then running experiments of lower classes that are preemptible: the lowest class first, within it the
youngest, which lose least. Only as many as are needed, and nobody at all if even all of them would not do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.scheduler.decision.facts import Pause, Policy, QueueEntry, RunningAttempt
from service.scheduler.decision.fit import by_node
from service.scheduler.decision.levels import Free
from service.scheduler.decision.outcome import Preemption, Resize
from service.scheduler.decision.room import Tryout

_URGENT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One thing that may be asked for."""

    attempt: RunningAttempt
    amounts: dict[str, Free]
    is_shrink: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeRoom:
    """What is asked for; empty if nothing helps."""

    preemptions: tuple[Preemption, ...] = ()
    resizes: tuple[Resize, ...] = ()


def make_room(
    entry: QueueEntry, running: Iterable[RunningAttempt], free: Tryout, policy: Policy, now: float
) -> MadeRoom:
    """The least that has to be asked for so that the entry fits; `free` is used up."""
    running = [attempt for attempt in running if not attempt.is_ending and not attempt.is_preempted]
    steps = [*_shrinks(running, free), *_stops(entry, running, free, policy, now)]
    given = _until_it_fits(entry, steps, free)
    if given is None:
        return MadeRoom()
    # The best candidates came first, so the last ones are the first to be spared.
    for step in reversed(given.copy()):
        free.give(step.amounts, sign=-1)
        if free.place(entry.demand) is not None:
            given.remove(step)
        else:
            free.give(step.amounts)
    return _asked(entry, given)


def drained(running: Iterable[RunningAttempt], pauses: Sequence[Pause]) -> list[Preemption]:
    """Everybody who runs where the queue is drained."""
    drains = [pause for pause in pauses if pause.drains]
    return [
        Preemption(attempt_id=attempt.id, in_favour_of=None, reason=f"the queue is drained: {drain.reason}")
        for attempt in running
        if not attempt.is_ending and not attempt.is_preempted
        for drain in [next((one for one in drains if one.project in (None, attempt.project)), None)]
        if drain is not None
    ]


def _shrinks(running: Sequence[RunningAttempt], free: Tryout) -> list[_Step]:
    """One step for each bundle that is lent, the newest of each attempt first."""
    lenders = sorted(running, key=lambda attempt: (-attempt.priority_rank, -attempt.started_at, attempt.id))
    return [
        _Step(attempt=attempt, amounts=by_node((bundle,)), is_shrink=True)
        for attempt in lenders
        for bundle in reversed(attempt.lent)
        if bundle.node in free.free
    ]


def _stops(
    entry: QueueEntry, running: Sequence[RunningAttempt], free: Tryout, policy: Policy, now: float
) -> list[_Step]:
    exempt_s = 0.0 if entry.priority_rank == _URGENT else policy.preempt_exempt_s
    lower = [
        attempt
        for attempt in running
        if attempt.preemptible
        and attempt.priority_rank > entry.priority_rank
        and now - attempt.started_at >= exempt_s
        and any(bundle.node in free.free for bundle in attempt.placement)
    ]
    lower.sort(key=lambda attempt: (-attempt.priority_rank, -attempt.started_at, attempt.id))
    steps = []
    for attempt in lower:
        lent = len(attempt.lent)
        kept = list(attempt.placement)
        for bundle in reversed(attempt.lent) if lent else ():
            kept.remove(bundle)
        steps.append(_Step(attempt=attempt, amounts=by_node(tuple(kept)), is_shrink=False))
    return steps


def _until_it_fits(entry: QueueEntry, steps: list[_Step], free: Tryout) -> list[_Step] | None:
    """The first steps after which the entry fits, tried in portions that double; None if all do not suffice."""
    done, portion = 0, 1
    while done < len(steps):
        for step in steps[done : done + portion]:
            free.give(step.amounts)
        done = min(done + portion, len(steps))
        portion *= 2
        if free.place(entry.demand) is not None:
            return steps[:done]
    return None


def _asked(entry: QueueEntry, steps: Sequence[_Step]) -> MadeRoom:
    stopped = {step.attempt.id: step.attempt for step in steps if not step.is_shrink}
    fewer: dict[str, tuple[RunningAttempt, int]] = {}
    for step in steps:
        if step.is_shrink and step.attempt.id not in stopped:
            fewer[step.attempt.id] = step.attempt, fewer.get(step.attempt.id, (step.attempt, 0))[1] + 1
    # Without its name: it may be of a project that the owner of the stopped one may not see.
    why = "an experiment of a higher class needs its resources"
    return MadeRoom(
        preemptions=tuple(Preemption(attempt_id=name, in_favour_of=entry.id, reason=why) for name in stopped),
        resizes=tuple(
            Resize(attempt_id=name, count=_count(attempt) - number, reason="somebody who waits needs what was lent")
            for name, (attempt, number) in fewer.items()
        ),
    )


def _count(attempt: RunningAttempt) -> int:
    assert attempt.elastic is not None, "only an elastic role is lent bundles"
    return attempt.elastic.count

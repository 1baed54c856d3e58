"""Which actor a stalled run most probably waits for. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.activity.inspection import ActorState


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """The actor, and why it is suspected."""

    actor: str
    why: str


def find_culprit(states: Sequence[ActorState], now: float) -> Culprit | None:
    """A stopped actor, else the one whose call is under way for longest; None if none is at work.

    `now` is in Unix time, as are the records of the actors.
    """
    gone = next((state for state in states if not state.processes), None)
    if gone is not None:
        return Culprit(actor=gone.activity.actor, why="its process is gone")
    stopped = next((state for state in states if state.is_stopped), None)
    if stopped is not None:
        halted = [process.pid for process in stopped.processes if process.is_stopped]
        return Culprit(actor=stopped.activity.actor, why=f"stopped: process {', '.join(map(str, halted))}")
    busy = [(state.busy_since, state.activity) for state in states if state.busy_since is not None]
    if not busy:
        return None
    since, activity = min(busy, key=lambda pair: pair[0])
    work = activity.work[0]
    subject = f" ({work.subject})" if work.subject else ""
    return Culprit(actor=activity.actor, why=f"at {work.method}{subject} for {now - since:.0f} s")

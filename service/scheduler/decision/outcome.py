"""What was decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.contract.waiting import WaitCode
from service.scheduler.decision.resources import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why an experiment waits; the words change only when the reason does."""

    code: WaitCode
    text: str
    behind: str | None = None
    """The experiment for which it waits, if it is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An experiment starts now, its bundles on these nodes."""

    id: str
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Resources that are kept for whoever stands first and does not fit yet."""

    id: str
    at: float
    """When they will be free at the latest, if nobody runs beyond his time."""
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """A running attempt shall stop at its next checkpoint."""

    attempt_id: str
    in_favour_of: str | None
    """The experiment that needs its resources; None where the queue is drained."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """The elastic role of a running attempt shall have so many bundles."""

    attempt_id: str
    count: int
    added: Placement = ()
    """Where the new ones lie; empty when it shrinks."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Every entry of the queue is in exactly one of `admissions` and `waiting`."""

    admissions: tuple[Admission, ...] = ()
    """In the order in which they start."""
    waiting: Mapping[str, Reason] = field(default_factory=dict)
    """By experiment id, in the order of the queue."""
    reservations: tuple[Reservation, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    resizes: tuple[Resize, ...] = ()

"""Who starts next: a pure decision over the queue, what is taken, and what the cluster has.

Strict order by priority, then age; an experiment gets all its resources at once or none. Whoever stands at the head
and does not fit blocks those behind it: what becomes free is kept for it, so that a large experiment starts in its
turn however many small ones keep coming. A demand beyond the whole cluster blocks nobody: nothing that the others
could leave free would ever be enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, floor
from typing import Self

_UNITS = 10_000
"""Ray counts resources in ten-thousandths; whole numbers keep sums exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """CPUs and GPUs as Ray counts them, in ten-thousandths."""

    cpus: int
    gpus: int

    @classmethod
    def demand(cls, num_cpus: float, num_gpus: float) -> Self:
        """Of an experiment; rounded up."""
        return cls(cpus=ceil(round(num_cpus * _UNITS, 3)), gpus=ceil(round(num_gpus * _UNITS, 3)))

    @classmethod
    def supply(cls, num_cpus: float, num_gpus: float) -> Self:
        """Of a cluster; rounded down."""
        return cls(cpus=floor(round(num_cpus * _UNITS, 3)), gpus=floor(round(num_gpus * _UNITS, 3)))

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    def fits(self, free: "Resources") -> bool:
        """Whether all of it is free. A kind that is not asked for cannot be short, even when less than none is left."""
        kinds = ((self.cpus, free.cpus), (self.gpus, free.gpus))
        return all(need == 0 or need <= have for need, have in kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedExperiment:
    """An entry of the queue."""

    id: str
    priority_rank: int
    """0 is first."""
    queued_at: datetime
    demand: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What may be handed out in all, or why that is not known."""

    total: Resources | None
    unknown_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What an admission pass decided; every entry of the queue is in exactly one of the two."""

    admissions: tuple[str, ...]
    """Experiment ids in the order in which they start."""
    waiting: Mapping[str, str]
    """By experiment id, why it waits, for people."""


def admit(queue: Sequence[QueuedExperiment], taken: Resources, capacity: Capacity) -> Decisions:
    """Decides for every entry of `queue`, in whatever order given: all of them may start now.

    `taken` is the sum over all unreleased attempts.
    """
    admissions: list[str] = []
    waiting: dict[str, str] = {}
    blocked = False
    for entry in sorted(queue, key=lambda entry: (entry.priority_rank, entry.queued_at, entry.id)):
        place = f"; {_ordinal(len(waiting) + 1)} in line"
        if capacity.total is None:
            waiting[entry.id] = capacity.unknown_because + place
        elif not entry.demand.fits(capacity.total):
            waiting[entry.id] = _shortage(entry.demand, capacity.total, capacity.total, "in the whole cluster") + place
        elif blocked or not entry.demand.fits(capacity.total - taken):
            waiting[entry.id] = _shortage(entry.demand, capacity.total - taken, capacity.total, "free") + place
            blocked = True
        else:
            admissions.append(entry.id)
            taken = taken + entry.demand
    return Decisions(admissions=tuple(admissions), waiting=waiting)


def _shortage(demand: Resources, there: Resources, total: Resources, where: str) -> str:
    """The resources that are short: `needs 2 CPUs, 1 of 4 free`."""
    kinds = [(demand.cpus, there.cpus, total.cpus, "CPU"), (demand.gpus, there.gpus, total.gpus, "GPU")]
    short = [kind for kind in kinds if kind[0] > kind[1]]
    words = ", ".join(
        # A cluster that shrank has less than nothing free.
        f"needs {_count(need, name)}, {_number(max(have, 0))}{'' if have == of else f' of {_number(of)}'} {where}"
        for need, have, of, name in short or kinds
        if need > 0
    )
    return words if short else f"{words} but kept for those ahead"


def _count(units: int, name: str) -> str:
    return f"{_number(units)} {name}" if units == _UNITS else f"{_number(units)} {name}s"


def _number(units: int) -> str:
    return f"{units / _UNITS:g}"


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"

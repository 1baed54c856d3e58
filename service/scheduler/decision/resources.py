"""Amounts as Ray counts them, and what an experiment asks for."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Self

UNITS = 10_000
"""Ray counts resources in ten-thousandths; whole numbers keep sums exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """CPUs and GPUs in ten-thousandths."""

    cpus: int
    gpus: int

    @classmethod
    def demand(cls, num_cpus: float, num_gpus: float) -> Self:
        """Of an experiment; rounded up."""
        return cls(cpus=ceil(round(num_cpus * UNITS, 3)), gpus=ceil(round(num_gpus * UNITS, 3)))

    @classmethod
    def supply(cls, num_cpus: float, num_gpus: float) -> Self:
        """Of a cluster; rounded down."""
        return cls(cpus=floor(round(num_cpus * UNITS, 3)), gpus=floor(round(num_gpus * UNITS, 3)))

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    def times(self, count: int) -> "Resources":
        """So many of it."""
        return Resources(cpus=self.cpus * count, gpus=self.gpus * count)

    @property
    def num_cpus(self) -> float:
        """CPUs as people count them."""
        return self.cpus / UNITS

    @property
    def num_gpus(self) -> float:
        """GPUs as people count them."""
        return self.gpus / UNITS


NOTHING = Resources(cpus=0, gpus=0)


def total(amounts: Iterable[Resources]) -> Resources:
    """The sum."""
    cpus = gpus = 0
    for amount in amounts:
        cpus += amount.cpus
        gpus += amount.gpus
    return Resources(cpus=cpus, gpus=gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleDemand:
    """The actors of one role: each is a bundle, which lies on one node as a whole."""

    role: str
    bundle: Resources
    count: int
    max_count: int = 0
    """Idle capacity may raise `count` up to this; below `count` it means that it may not."""
    gpu_types: tuple[str, ...] = ()
    """Kinds of GPU that the bundles may lie on; none named: any. All bundles of a role get the same kind."""

    @property
    def num_extra(self) -> int:
        """How many bundles may be added."""
        return max(self.max_count - self.count, 0)


@dataclass(frozen=True, eq=False)
class Demand:
    """All that an experiment needs to start, at once or not at all.

    Compared by identity: whoever shares one object among equal demands saves the decision most of its work.
    """

    roles: tuple[RoleDemand, ...]

    total: Resources = field(init=False)
    """Of all bundles."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", total(role.bundle.times(role.count) for role in self.roles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle and the node on which it lies."""

    role: str
    node: str
    """Its id; empty where it is not known."""
    resources: Resources


Placement = tuple[Bundle, ...]
"""In the order of the roles, and within a role of its actors."""

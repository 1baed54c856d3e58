"""What is free on each node: now, and beside a reservation once its time has come.

    now    free at this moment
    long   free at this moment and also, beside the reserved bundles, at the reservation's time: for whoever would
           still run then

Kinds of node are kept apart: a reservation on one of them does not touch the others, and each holds at most one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from service.scheduler.decision.facts import Node
from service.scheduler.decision.fit import by_node, find_place
from service.scheduler.decision.levels import Free, Levels
from service.scheduler.decision.resources import Demand, Placement


@dataclass(slots=True, kw_only=True)
class _Kind:
    """The nodes of one kind."""

    now: Levels = field(default_factory=Levels)
    long: Levels | None = None
    """None while nothing is reserved."""
    reserved_at: float = inf
    beside: dict[str, Free] = field(default_factory=dict)
    """What is free beside the reserved bundles at `reserved_at`, by node."""

    def levels(self, ends_at: float) -> Levels:
        """What is free for one who runs until `ends_at`."""
        return self.now if self.long is None or ends_at <= self.reserved_at else self.long


class Room:
    """The cluster while the decision is made: who is admitted takes his place at once."""

    def __init__(self, nodes: Iterable[Node], weights: Mapping[str, float]) -> None:
        """All nodes idle. Kinds with a lower weight are tried first, those without a GPU before all others."""
        self._kind_of: dict[str, str] = {}
        self._free: dict[str, Free] = {}
        kinds: dict[str, _Kind] = {}
        for node in nodes:
            kind = kinds.setdefault(node.kind, _Kind())
            self._kind_of[node.id] = node.kind
            self._free[node.id] = (node.total.gpus, node.total.cpus)
            kind.now.put(node.id, *self._free[node.id])
        order = sorted(kinds, key=lambda name: (name != "", weights.get(name, 1.0), name))
        self._kinds = {name: kinds[name] for name in order}

    @property
    def kinds(self) -> tuple[str, ...]:
        """In the order in which they are tried."""
        return tuple(self._kinds)

    @property
    def unreserved(self) -> tuple[str, ...]:
        """Kinds on which nothing is reserved."""
        return tuple(name for name, kind in self._kinds.items() if kind.long is None)

    @property
    def kind_of(self) -> Mapping[str, str]:
        """The kind of each node."""
        return self._kind_of

    def place(self, demand: Demand, ends_at: float) -> Placement | None:
        """Where it fits now without being in the way of a reservation; None if nowhere."""
        return find_place({name: kind.levels(ends_at) for name, kind in self._kinds.items()}, demand)

    def holds(self, placement: Placement, ends_at: float) -> bool:
        """Whether this very place is free."""
        for node, (gpus, cpus) in by_node(placement).items():
            if node not in self._kind_of:
                return False
            free = self._kinds[self._kind_of[node]].levels(ends_at).get(node)
            if free[0] < gpus or free[1] < cpus:
                return False
        return True

    def take(self, placement: Placement, ends_at: float) -> None:
        """The bundles are taken until `ends_at`. Those on nodes that are gone take nothing."""
        for node, (gpus, cpus) in by_node(placement).items():
            if node not in self._kind_of:
                continue
            kind = self._kinds[self._kind_of[node]]
            free = self._free[node] = (self._free[node][0] - gpus, self._free[node][1] - cpus)
            kind.now.put(node, *free)
            if kind.long is not None:
                if ends_at > kind.reserved_at:
                    beside = kind.beside[node]
                    kind.beside[node] = (beside[0] - gpus, beside[1] - cpus)
                kind.long.put(node, *_least(free, kind.beside[node]))

    def take_anywhere(self, placement: Placement) -> None:
        """Bundles of which nobody knows the node take the place in which they would do most harm to no one else:
        wherever they fit, one after the other; what fits nowhere is left out."""
        for bundle in placement:
            for kind in self._kinds.values():
                node = kind.now.tightest(bundle.resources.gpus, bundle.resources.cpus)
                if node is not None:
                    free = self._free[node]
                    self._free[node] = (free[0] - bundle.resources.gpus, free[1] - bundle.resources.cpus)
                    kind.now.put(node, *self._free[node])
                    break

    def tryout(self, kinds: Sequence[str]) -> "Tryout":
        """What is free now on nodes of these kinds, to try things out."""
        free = {node: free for node, free in self._free.items() if self._kind_of[node] in kinds}
        return Tryout({name: self._kinds[name].now.copy() for name in kinds}, free, self._kind_of)

    def reserve(self, at: float, placement: Placement, future: "Tryout") -> None:
        """Keep these bundles from `at` on; `future` is what will be free then."""
        reserved = by_node(placement)
        for name in {self._kind_of[node] for node in reserved}:
            kind = self._kinds[name]
            assert kind.long is None, "one reservation a kind"
            kind.reserved_at = at
            kind.long = Levels()
            for node in (node for node, its in self._kind_of.items() if its == name):
                gpus, cpus = reserved.get(node, (0, 0))
                then = future.free[node]
                kind.beside[node] = (then[0] - gpus, then[1] - cpus)
                kind.long.put(node, *_least(self._free[node], kind.beside[node]))


class Tryout:
    """A copy of what is free on some kinds of node, which may be given and taken at will."""

    def __init__(self, levels: dict[str, Levels], free: dict[str, Free], kind_of: Mapping[str, str]) -> None:
        self.levels = levels
        self.free = free
        self._kind_of = kind_of

    def give(self, amounts: Mapping[str, Free], sign: int = 1) -> None:
        """So much becomes free on these nodes, or with `sign` -1 is taken again."""
        for node, (gpus, cpus) in amounts.items():
            free = self.free.get(node)
            if free is None:
                continue
            free = self.free[node] = (free[0] + sign * gpus, free[1] + sign * cpus)
            self.levels[self._kind_of[node]].put(node, *free)

    def place(self, demand: Demand) -> Placement | None:
        """Where it fits now; None if nowhere."""
        return find_place(self.levels, demand)


def _least(one: Free, other: Free) -> Free:
    return min(one[0], other[0]), min(one[1], other[1])

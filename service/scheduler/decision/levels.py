"""The nodes of one kind, ordered by what is free on them: finding a place costs by different states, not by nodes."""

from bisect import bisect_left, insort
from collections.abc import Iterator

Free = tuple[int, int]
"""GPUs and CPUs, in ten-thousandths; less than nothing counts as nothing."""


class Levels:
    """Which node has what free."""

    def __init__(self) -> None:
        self._free: dict[str, Free] = {}
        self._nodes: dict[Free, dict[str, None]] = {}
        self._keys: list[Free] = []
        self.gpus = 0
        """In sum over all nodes."""
        self.cpus = 0

    def copy(self) -> "Levels":
        """One of its own, to try things out."""
        other = Levels()
        other._free = self._free.copy()
        other._nodes = {key: nodes.copy() for key, nodes in self._nodes.items()}
        other._keys = self._keys.copy()
        other.gpus, other.cpus = self.gpus, self.cpus
        return other

    def __contains__(self, node: str) -> bool:
        return node in self._free

    def get(self, node: str) -> Free:
        """What the node has free."""
        return self._free[node]

    def put(self, node: str, gpus: int, cpus: int) -> None:
        """The node has this much free from now on."""
        new = (max(gpus, 0), max(cpus, 0))
        old = self._free.get(node)
        if old == new:
            return
        if old is not None:
            self._drop(node, old)
        self._free[node] = new
        nodes = self._nodes.get(new)
        if nodes is None:
            nodes = self._nodes[new] = {}
            insort(self._keys, new)
        nodes[node] = None
        self.gpus += new[0]
        self.cpus += new[1]

    def tightest(self, gpus: int, cpus: int) -> str | None:
        """The node that has so much, and the least beyond it; None if there is none."""
        for index in range(bisect_left(self._keys, (gpus, cpus)), len(self._keys)):
            key = self._keys[index]
            if key[1] >= cpus:
                return next(iter(self._nodes[key]))
        return None

    def from_free_to_full(self) -> Iterator[tuple[str, Free]]:
        """All nodes, those with most GPUs free first. Nothing may be put meanwhile."""
        for key in reversed(self._keys):
            for node in self._nodes[key]:
                yield node, key

    def _drop(self, node: str, key: Free) -> None:
        nodes = self._nodes[key]
        del nodes[node]
        if not nodes:
            del self._nodes[key]
            del self._keys[bisect_left(self._keys, key)]
        self.gpus -= key[0]
        self.cpus -= key[1]

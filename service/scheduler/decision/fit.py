"""Finding a place: all bundles of an experiment at once, each whole on one node.

One node for all of them if there is one, the fullest that still has room; else as few nodes as possible for each role,
the role with the larger bundles first. With one kind of bundle this finds a place whenever there is one; with several
it is the first-fit-decreasing rule of bin packing and may miss a place that a search through all would find.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

from service.scheduler.decision.facts import NO_GPU
from service.scheduler.decision.levels import Free, Levels
from service.scheduler.decision.resources import Bundle, Demand, Placement, Resources, RoleDemand

LevelsByKind = Mapping[str, Levels]
"""In the order in which kinds are tried: the cheapest first."""


def find_place(levels: LevelsByKind, demand: Demand) -> Placement | None:
    """Where the bundles may lie; None if they do not fit."""
    if (node := _one_node_for_all(levels, demand)) is not None:
        return tuple(
            Bundle(role=role.role, node=node, resources=role.bundle) for role in demand.roles for _ in range(role.count)
        )
    taken: dict[str, Free] = {}
    nodes_of: dict[str, Sequence[str]] = {}
    for role in sorted(demand.roles, key=_size, reverse=True):
        nodes = _place_role(levels, role, taken)
        if nodes is None:
            return None
        nodes_of[role.role] = nodes
    return tuple(
        Bundle(role=role.role, node=node, resources=role.bundle)
        for role in demand.roles
        for node in nodes_of[role.role]
    )


def kinds_for(role: RoleDemand, kinds: Sequence[str]) -> list[str]:
    """The kinds of node on which its bundles may lie."""
    if role.gpu_types:
        return [kind for kind in kinds if kind in role.gpu_types]
    return [kind for kind in kinds if kind != NO_GPU] if role.bundle.gpus else list(kinds)


def by_node(placement: Placement) -> dict[str, Free]:
    """What a placement takes of each node."""
    sums: dict[str, Free] = {}
    for bundle in placement:
        gpus, cpus = sums.get(bundle.node, (0, 0))
        sums[bundle.node] = (gpus + bundle.resources.gpus, cpus + bundle.resources.cpus)
    return sums


def _one_node_for_all(levels: LevelsByKind, demand: Demand) -> str | None:
    whole = demand.total
    for kind, nodes in levels.items():
        if all(not role.gpu_types or kind in role.gpu_types for role in demand.roles):
            node = nodes.tightest(whole.gpus, whole.cpus)
            if node is not None:
                return node
    return None


def _place_role(levels: LevelsByKind, role: RoleDemand, taken: dict[str, Free]) -> list[str] | None:
    """A node for each bundle, all of one kind; `taken` grows by what they take."""
    for kind in kinds_for(role, tuple(levels)):
        nodes = levels[kind]
        if nodes.gpus < role.bundle.gpus * role.count or nodes.cpus < role.bundle.cpus * role.count:
            continue
        places = _spread(nodes, role, taken)
        if places is not None:
            for node in places:
                gpus, cpus = taken.get(node, (0, 0))
                taken[node] = (gpus + role.bundle.gpus, cpus + role.bundle.cpus)
            return places
    return None


def _spread(levels: Levels, role: RoleDemand, taken: Mapping[str, Free]) -> list[str] | None:
    whole = role.bundle.times(role.count)
    tight = levels.tightest(whole.gpus, whole.cpus)
    if tight is not None and tight not in taken:
        return [tight] * role.count
    places: list[str] = []
    used = [(node, levels.get(node)) for node in taken if node in levels]
    others = (pair for pair in levels.from_free_to_full() if pair[0] not in taken)
    for node, free in chain(used, others):
        gpus, cpus = taken.get(node, (0, 0))
        room = num_bundles((free[0] - gpus, free[1] - cpus), role.bundle, role.count - len(places))
        places += [node] * room
        if len(places) == role.count:
            return places
    return None


def num_bundles(free: Free, bundle: Resources, wanted: int) -> int:
    """How many bundles the node can hold, at most `wanted`."""
    if bundle.gpus:
        wanted = min(wanted, free[0] // bundle.gpus)
    if bundle.cpus:
        wanted = min(wanted, free[1] // bundle.cpus)
    return max(wanted, 0)


def _size(role: RoleDemand) -> tuple[int, int]:
    return role.bundle.gpus, role.bundle.cpus

"""Where the actors of one attempt live, and the only place that asks Ray for anything.

One placement group with a bundle for each rank of the trainer and then one for each rollout engine, made once and held
for the whole attempt. Engines that are added on the way have groups of their own and can be given back. Ray restarts no
actor: a bundle outlives the actor in it, so whoever misses one may start another in its place.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from service.contract.resources import ResourcesSpec, RoleResources
from workers.activity.inspection import ActorState, inspect_machine
from workers.activity.record import watched

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_FETCH_S = 120.0
"""For moving a finished result here; results are numbers and tokens, never weights."""
_NOTICE_S = 5.0
"""What Ray may need to notice that a process is gone; about a tenth of it on one machine."""

_INSPECT_S = 90.0
"""A worker process to start, and py-spy on several processes."""

LOOPBACK = "127.0.0.1"
NODE_ID_LABEL = "ray.io/node-id"
"""Every node of Ray carries its id under this label."""

Check = Callable[[], None]
"""Raises when the run must end now; called at least twice a second in every wait."""


class Role(StrEnum):
    """The actors of an attempt."""

    TRAINER = "trainer"
    ROLLOUT = "rollout"


class DeadlineExceeded(Exception):
    """A remote call did not come back in time."""

    def __init__(self, what: str, role: Role | None, deadline_s: float) -> None:
        super().__init__(what, role, deadline_s)
        self.what, self.role, self.deadline_s = what, role, deadline_s

    def __str__(self) -> str:
        return f"{self.what} did not end within {self.deadline_s:.0f} s"


class NoPlacement(DeadlineExceeded):
    """Ray did not hand out the attempt's resources in time."""

    def __init__(self, what: str, deadline_s: float) -> None:
        super().__init__(what, None, deadline_s)

    def __str__(self) -> str:
        return f"no place for the actors within {self.deadline_s:.0f} s: {self.what}"


class ActorDied(Exception):
    """An actor's process is gone."""

    def __init__(self, role: Role, cause: str, *, out_of_memory: bool = False, rank: int = 0) -> None:
        super().__init__(role, cause)
        self.role, self.cause, self.out_of_memory, self.rank = role, cause, out_of_memory, rank

    def __str__(self) -> str:
        why = "the node ran out of memory" if self.out_of_memory else "its process ended"
        word = "rank" if self.role is Role.TRAINER else "number"
        which = f", {word} {self.rank}," if self.rank else ""
        return f"the {self.role} actor{which} died, {why}: {self.cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Where one actor lives."""

    group: PlacementGroup
    index: int

    @property
    def node_id(self) -> str:
        """Its node at present: Ray moves a bundle whose node is lost. Empty while it does so."""
        return _nodes_of(self.group).get(self.index, "")


class Placement:
    """The attempt's bundles, by role and place: the rank of a trainer, the number of an engine, both from 0."""

    def __init__(self, group: PlacementGroup, resources: ResourcesSpec) -> None:
        """Use `place`, which makes the group."""
        self.resources = resources
        self._group = group
        self._bundles = {who: Bundle(group=group, index=index) for who, index in _bundle_indices(resources).items()}
        self._engine_numbers = count(resources.rollout.num_engines)
        nodes = _nodes_of(group)
        self._trainer_nodes = [nodes[rank] for rank in range(resources.trainer.num_ranks)]
        self.hosts = _hosts(self._trainer_nodes)
        """The IPv4 address of each trainer rank for the others: the loopback's where one machine holds all of them."""

    def node_of(self, role: Role, place: int = 0) -> str:
        """Ray's id of the node on which a bundle lies at present."""
        return self._bundles[role, place].node_id

    def host_of(self, role: Role, place: int = 0) -> str:
        """The IPv4 address of that node; empty if Ray does not know it."""
        return _addresses().get(self.node_of(role, place), "")

    @property
    def trainer_is_here(self) -> bool:
        """Whether driver and the trainer's first rank are on one machine."""
        return self.node_of(Role.TRAINER) == _own_node()

    @property
    def trainer_stands(self) -> bool:
        """Whether the bundles of all its ranks lie where they were first placed."""
        return [self.node_of(Role.TRAINER, rank) for rank in range(len(self._trainer_nodes))] == self._trainer_nodes

    def shares_memory(self, engine: int) -> bool:
        """Whether an engine, driver and the trainer's first rank are on one machine, with one memory file system."""
        return len({self.node_of(Role.ROLLOUT, engine), self.node_of(Role.TRAINER), _own_node()}) == 1

    @property
    def same_node(self) -> bool:
        """Whether that is so for all engines."""
        return all(self.shares_memory(place) for role, place in list(self._bundles) if role is Role.ROLLOUT)

    def spawn(self, cls: type, role: Role, *, place: int = 0, max_concurrency: int = 1, **arguments: object) -> Any:
        """Start `cls(**arguments)` as the actor of a role; returns its handle at once, errors come with the first call.

        The actor that was in its bundle before must be gone, or Ray waits for its resources.

        A class with coroutine methods becomes an asynchronous actor that runs up to `max_concurrency` of them.
        """
        demand, bundle = _of_role(self.resources, role), self._bundles[role, place]
        # Two that work by turns use all threads of their bundle; Ray counts half of them for each.
        by_turns = self.resources.placement == "colocated"
        options = {
            "num_cpus": demand.num_cpus / 2 if by_turns else demand.num_cpus,
            "num_gpus": demand.num_gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": max_concurrency,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                bundle.group, placement_group_bundle_index=bundle.index
            ),
        }
        seen = watched(cls, self.attempt, f"{role}-{place}")
        return ray.remote(seen).options(**options).remote(**arguments)

    @property
    def attempt(self) -> str:
        """Names the attempt on every machine where it has actors."""
        return self._group.id.hex()

    def inspect(self) -> list[ActorState]:
        """What all actors are at, their stacks included; machines that do not answer in time are left out."""
        nodes = {bundle.node_id for bundle in list(self._bundles.values())} - {""}
        task = ray.remote(num_cpus=0, max_retries=0)(inspect_machine)
        calls = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(self.attempt)
            for node in nodes
        ]
        answered, late = ray.wait(calls, num_returns=len(calls), timeout=_INSPECT_S)
        for call in late:
            ray.cancel(call, force=True)
        return [state for call in answered for state in fetch(call, Role.ROLLOUT)]

    def add_engine(self, *, node: str = "", deadline_s: float, check: Check) -> int:
        """Reserve a bundle for one more engine, on the node that the scheduler has chosen; returns its number.

        Raises NoPlacement at the deadline.
        """
        group = _reserve([_bundle(self.resources.rollout)], [node], deadline_s, check)
        number = next(self._engine_numbers)
        self._bundles[Role.ROLLOUT, number] = Bundle(group=group, index=0)
        return number

    def remove_engine(self, number: int) -> None:
        """Give an added engine's bundle back; Ray kills whatever still runs in it.

        Raises ValueError for one that was there from the beginning: a part of the attempt's group cannot be given back.
        """
        if number < self.resources.rollout.num_engines:
            raise ValueError(f"engine {number} belongs to the attempt's own placement group, which is held to its end")
        remove_placement_group(self._bundles.pop((Role.ROLLOUT, number)).group)

    def remove(self) -> None:
        """Give all resources back; Ray kills whatever still runs in them."""
        for group in {bundle.group.id: bundle.group for bundle in self._bundles.values()}.values():
            remove_placement_group(group)


def place(resources: ResourcesSpec, *, nodes: Sequence[str] = (), deadline_s: float, check: Check) -> Placement:
    """Reserve a bundle for each actor, together or not at all. Raises NoPlacement at the deadline.

    `nodes` are Ray's ids of the nodes that the scheduler has chosen, one for each bundle; none: wherever there is room.
    """
    bundles = [_bundle(demand) for demand in resources.bundles]
    placement = Placement(_reserve(bundles, nodes, deadline_s, check), resources)
    logger.info("actors placed", extra={"bundles": bundles, "same_node": placement.same_node})
    return placement


def wait_for(ref: Any, *, what: str, role: Role, deadline_s: float, check: Check) -> Any:
    """The result of a remote call.

    Raises what `check` raises, DeadlineExceeded, ActorDied, or the exception that the call itself raised (with the
    remote traceback as its cause).
    """
    return wait_for_all([ref], what=what, role=role, deadline_s=deadline_s, check=check)[0]


def wait_for_all(refs: Sequence[Any], *, what: str, role: Role, deadline_s: float, check: Check) -> list[Any]:
    """The results of one call to each rank of a role, in the order of the ranks.

    Raises as `wait_for` does, and as soon as one rank fails: the others may be waiting for it in vain. A rank that has
    lost another one says so in its own words, mostly before Ray has missed that one, so a RuntimeError waits a little
    for the death behind it.
    """
    limit = time.monotonic() + deadline_s
    results: dict[int, Any] = {}
    while len(results) < len(refs):
        check()
        left_s = limit - time.monotonic()
        pending = [ref for rank, ref in enumerate(refs) if rank not in results]
        ready, _ = ray.wait(pending, timeout=min(_POLL_S, max(0.0, left_s)))
        for rank in [rank for rank, ref in enumerate(refs) if ref in ready]:
            try:
                results[rank] = fetch(refs[rank], role, rank)
            except RuntimeError as error:
                others = [(other, refs[other]) for other in range(len(refs)) if other != rank]
                raise _death_among(others, role) or error from error
        if left_s <= 0 and not ready:
            raise DeadlineExceeded(what, role, deadline_s)
    return [results[rank] for rank in range(len(refs))]


def ended(refs: Sequence[Any], timeout_s: float) -> list[Any]:
    """Those calls that have ended, well or badly, once one has or the time is up."""
    first, _ = ray.wait(list(refs), timeout=timeout_s)
    # `wait` stops at the first; others may have ended as well.
    return ray.wait(list(refs), num_returns=len(refs), timeout=0)[0] if first else []


def fetch(ref: Any, role: Role, place: int = 0) -> Any:
    """The result of a call that has ended. Raises ActorDied, or the exception that the call itself raised."""
    try:
        return ray.get(ref, timeout=_FETCH_S)
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except OutOfMemoryError as error:
        raise ActorDied(role, str(error), out_of_memory=True, rank=place) from error
    except (RayActorError, NodeDiedError, ObjectLostError) as error:
        # A result may go down with its node after the actor has given it.
        raise ActorDied(role, str(error), rank=place) from error


def cancel(ref: Any) -> None:
    """Ask an asynchronous actor to give a call up; one that has ended stays as it is."""
    ray.cancel(ref)


def put(value: object) -> Any:
    """A reference to a value that is stored once, however many calls are given it."""
    return ray.put(value)


def kill(actor: Any) -> None:
    """End an actor's process at once."""
    ray.kill(actor, no_restart=True)


def _reserve(bundles: list[dict[str, float]], nodes: Sequence[str], deadline_s: float, check: Check) -> PlacementGroup:
    group = placement_group(bundles, strategy="PACK", bundle_label_selector=_pinned(bundles, nodes))
    try:
        _wait_placed(group, bundles, deadline_s, check)
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def _wait_placed(group: PlacementGroup, bundles: list[dict[str, float]], deadline_s: float, check: Check) -> None:
    limit = time.monotonic() + deadline_s
    # Not `group.ready()`, which starts a worker process only to say so.
    while not group.wait(_POLL_S):
        check()
        if time.monotonic() > limit:
            raise NoPlacement(_shortage(bundles), deadline_s)


def _death_among(calls: Sequence[tuple[int, Any]], role: Role) -> ActorDied | None:
    """The death of another rank, if Ray notices one shortly."""
    limit = time.monotonic() + _NOTICE_S
    pending = dict(calls)
    while pending and (left_s := limit - time.monotonic()) > 0:
        ready, _ = ray.wait(list(pending.values()), timeout=left_s)
        for rank in [rank for rank, ref in pending.items() if ref in ready]:
            try:
                fetch(pending.pop(rank), role, rank)
            except ActorDied as death:
                return death
            except Exception as error:  # whatever else it says, it is not the death that is looked for
                logger.info("another rank failed too", extra={"rank": rank, "error": str(error)})
    return None


def _pinned(bundles: list[dict[str, float]], nodes: Sequence[str]) -> list[dict[str, str]] | None:
    """Where the scheduler's ledger has them; anywhere else its sums would not be those of the nodes."""
    if not nodes or not all(nodes):
        return None
    assert len(nodes) == len(bundles), "a node for each bundle"
    return [{NODE_ID_LABEL: node} for node in nodes]


def _of_role(resources: ResourcesSpec, role: Role) -> RoleResources:
    match role:
        case Role.TRAINER:
            return resources.trainer
        case Role.ROLLOUT:
            return resources.rollout


def _bundle_indices(resources: ResourcesSpec) -> dict[tuple[Role, int], int]:
    """Where each actor's bundle stands in `resources.bundles`."""
    num_ranks, num_engines = resources.trainer.num_ranks, resources.rollout.num_engines
    first_engine = 0 if resources.placement == "colocated" else num_ranks
    ranks = {(Role.TRAINER, rank): rank for rank in range(num_ranks)}
    return ranks | {(Role.ROLLOUT, number): first_engine + number for number in range(num_engines)}


def _nodes_of(group: PlacementGroup) -> dict[int, str]:
    """Node by bundle."""
    return dict(placement_group_table(group)["bundles_to_node_id"])


def _hosts(nodes: list[str]) -> tuple[str, ...]:
    if len(set(nodes)) == 1:
        return (LOOPBACK,) * len(nodes)
    address_of = _addresses()
    return tuple(address_of[node] for node in nodes)


def _addresses() -> dict[str, str]:
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}


def _own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _bundle(demand: RoleResources) -> dict[str, float]:
    return {"CPU": demand.num_cpus} | ({"GPU": demand.num_gpus} if demand.num_gpus else {})


def _shortage(bundles: list[dict[str, float]]) -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = sorted({kind for bundle in bundles for kind in bundle})
    needed = " + ".join(str(bundle) for bundle in bundles)
    seen = ", ".join(f"{kind}: {free.get(kind, 0.0):g} of {total.get(kind, 0.0):g} free" for kind in kinds)
    return f"needed {needed}, Ray has {seen}; free resources or ask for less in `resources`"

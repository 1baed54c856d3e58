"""Where the actors of one attempt live, and the only place that asks Ray for anything.

One placement group with a bundle for each rank of the trainer and one for the rollout engine, made once and held for
the whole attempt. An actor is never restarted: its loss ends the attempt, and the scheduler decides what follows.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from service.contract.spec import ResourcesSpec, RoleResources

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_FETCH_S = 120.0
"""For moving a finished result here; results are numbers and tokens, never weights."""
_NOTICE_S = 5.0
"""What Ray may need to notice that a process is gone; about a tenth of it on one machine."""

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
        which = f", rank {self.rank}," if self.rank else ""
        return f"the {self.role} actor{which} died, {why}: {self.cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The attempt's bundles: the trainer's ranks, then the rollout engine."""

    group: PlacementGroup
    resources: ResourcesSpec
    same_node: bool
    """Whether driver, the trainer's first rank and rollout engine share a machine, and so its memory file system."""
    hosts: tuple[str, ...]
    """The IPv4 address of each of the trainer's ranks for the others: the loopback's where one machine holds all."""

    def spawn(self, cls: type, role: Role, *, place: int = 0, max_concurrency: int = 1, **arguments: object) -> Any:
        """Start `cls(**arguments)` as the actor of a role; returns its handle at once, errors come with the first call.

        `place` is the rank within the role.

        A class with coroutine methods becomes an asynchronous actor that runs up to `max_concurrency` of them.
        """
        demand = _of_role(self.resources, role)
        options = {
            "num_cpus": demand.num_cpus,
            "num_gpus": demand.num_gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": max_concurrency,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=_bundle_index(self.resources, role) + place
            ),
        }
        return ray.remote(cls).options(**options).remote(**arguments)

    def remove(self) -> None:
        """Give the resources back; Ray kills whatever still runs in them."""
        remove_placement_group(self.group)


def place(resources: ResourcesSpec, *, nodes: Sequence[str] = (), deadline_s: float, check: Check) -> Placement:
    """Reserve a bundle for each actor, together or not at all. Raises NoPlacement at the deadline.

    `nodes` are Ray's ids of the nodes that the scheduler has chosen, one for each bundle; none: wherever there is room.
    """
    bundles = [_bundle(resources.trainer)] * resources.trainer.num_ranks + [_bundle(resources.rollout)]
    group = placement_group(bundles, strategy="PACK", bundle_label_selector=_pinned(bundles, nodes))
    try:
        _wait_placed(group, bundles, deadline_s, check)
    except BaseException:
        remove_placement_group(group)
        raise
    node_of = placement_group_table(group)["bundles_to_node_id"]
    nodes = [node_of[index] for index in range(len(bundles))]
    meeting = {nodes[0], nodes[-1], ray.get_runtime_context().get_node_id()}
    logger.info("actors placed", extra={"bundles": bundles, "num_nodes": len(set(nodes))})
    return Placement(group=group, resources=resources, same_node=len(meeting) == 1, hosts=_hosts(nodes[:-1]))


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
                results[rank] = _fetch(refs[rank], role, rank)
            except RuntimeError as error:
                others = [(other, refs[other]) for other in range(len(refs)) if other != rank]
                raise _death_among(others, role) or error from error
        if left_s <= 0 and not ready:
            raise DeadlineExceeded(what, role, deadline_s)
    return [results[rank] for rank in range(len(refs))]


def poll(ref: Any, *, role: Role) -> bool:
    """Whether the call has ended well; raises as `wait_for` does if it has ended badly."""
    ready, _ = ray.wait([ref], timeout=0)
    if ready:
        _fetch(ref, role)
    return bool(ready)


def put(value: object) -> Any:
    """A reference to a value that is stored once, however many calls are given it."""
    return ray.put(value)


def kill(actor: Any) -> None:
    """End an actor's process at once."""
    ray.kill(actor, no_restart=True)


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
                _fetch(pending.pop(rank), role, rank)
            except ActorDied as death:
                return death
            except Exception as error:  # whatever else it says, it is not the death that is looked for
                logger.info("another rank failed too", extra={"rank": rank, "error": str(error)})
    return None


def _fetch(ref: Any, role: Role, rank: int = 0) -> Any:
    try:
        return ray.get(ref, timeout=_FETCH_S)
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except OutOfMemoryError as error:
        raise ActorDied(role, str(error), out_of_memory=True, rank=rank) from error
    except RayActorError as error:
        raise ActorDied(role, str(error), rank=rank) from error


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


def _bundle_index(resources: ResourcesSpec, role: Role) -> int:
    """The first of a role's bundles."""
    match role:
        case Role.TRAINER:
            return 0
        case Role.ROLLOUT:
            return resources.trainer.num_ranks


def _hosts(nodes: list[str]) -> tuple[str, ...]:
    if len(set(nodes)) == 1:
        return (LOOPBACK,) * len(nodes)
    address_of = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    return tuple(address_of[node] for node in nodes)


def _bundle(demand: RoleResources) -> dict[str, float]:
    return {"CPU": demand.num_cpus} | ({"GPU": demand.num_gpus} if demand.num_gpus else {})


def _shortage(bundles: list[dict[str, float]]) -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = sorted({kind for bundle in bundles for kind in bundle})
    needed = " + ".join(str(bundle) for bundle in bundles)
    seen = ", ".join(f"{kind}: {free.get(kind, 0.0):g} of {total.get(kind, 0.0):g} free" for kind in kinds)
    return f"needed {needed}, Ray has {seen}; free resources or ask for less in `resources`"

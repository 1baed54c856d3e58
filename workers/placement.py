"""Where the actors of one attempt live, and the only place that asks Ray for anything.

One placement group with a bundle per role, made once and held for the whole attempt. An actor is never restarted: its
loss ends the attempt, and the scheduler decides what follows.
"""

import logging
import time
from collections.abc import Callable
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

    def __init__(self, role: Role, cause: str, *, out_of_memory: bool = False) -> None:
        super().__init__(role, cause)
        self.role, self.cause, self.out_of_memory = role, cause, out_of_memory

    def __str__(self) -> str:
        why = "the node ran out of memory" if self.out_of_memory else "its process ended"
        return f"the {self.role} actor died, {why}: {self.cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The attempt's two bundles."""

    group: PlacementGroup
    resources: ResourcesSpec
    same_node: bool
    """Whether driver, trainer and rollout engine share a machine, and so its memory file system."""

    def spawn(self, cls: type, role: Role, *, max_concurrency: int = 1, **arguments: object) -> Any:
        """Start `cls(**arguments)` as the actor of a role; returns its handle at once, errors come with the first call.

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
                self.group, placement_group_bundle_index=list(Role).index(role)
            ),
        }
        return ray.remote(cls).options(**options).remote(**arguments)

    def remove(self) -> None:
        """Give the resources back; Ray kills whatever still runs in them."""
        remove_placement_group(self.group)


def place(resources: ResourcesSpec, *, deadline_s: float, check: Check) -> Placement:
    """Reserve a bundle for each role, together or not at all. Raises NoPlacement at the deadline."""
    bundles = [_bundle(_of_role(resources, role)) for role in Role]
    group = placement_group(bundles, strategy="PACK")
    try:
        _wait_placed(group, bundles, deadline_s, check)
    except BaseException:
        remove_placement_group(group)
        raise
    nodes = {*placement_group_table(group)["bundles_to_node_id"].values(), ray.get_runtime_context().get_node_id()}
    logger.info("actors placed", extra={"bundles": bundles, "num_nodes": len(nodes)})
    return Placement(group=group, resources=resources, same_node=len(nodes) == 1)


def wait_for(ref: Any, *, what: str, role: Role, deadline_s: float, check: Check) -> Any:
    """The result of a remote call.

    Raises what `check` raises, DeadlineExceeded, ActorDied, or the exception that the call itself raised (with the
    remote traceback as its cause).
    """
    limit = time.monotonic() + deadline_s
    while True:
        check()
        left_s = limit - time.monotonic()
        ready, _ = ray.wait([ref], timeout=min(_POLL_S, max(0.0, left_s)))
        if ready:
            return _fetch(ref, role)
        if left_s <= 0:
            raise DeadlineExceeded(what, role, deadline_s)


def poll(ref: Any, *, role: Role) -> bool:
    """Whether the call has ended well; raises as `wait_for` does if it has ended badly."""
    ready, _ = ray.wait([ref], timeout=0)
    if ready:
        _fetch(ref, role)
    return bool(ready)


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


def _fetch(ref: Any, role: Role) -> Any:
    try:
        return ray.get(ref, timeout=_FETCH_S)
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except OutOfMemoryError as error:
        raise ActorDied(role, str(error), out_of_memory=True) from error
    except RayActorError as error:
        raise ActorDied(role, str(error)) from error


def _of_role(resources: ResourcesSpec, role: Role) -> RoleResources:
    match role:
        case Role.TRAINER:
            return resources.trainer
        case Role.ROLLOUT:
            return resources.rollout


def _bundle(demand: RoleResources) -> dict[str, float]:
    return {"CPU": demand.num_cpus} | ({"GPU": demand.num_gpus} if demand.num_gpus else {})


def _shortage(bundles: list[dict[str, float]]) -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = sorted({kind for bundle in bundles for kind in bundle})
    needed = " + ".join(str(bundle) for bundle in bundles)
    seen = ", ".join(f"{kind}: {free.get(kind, 0.0):g} of {total.get(kind, 0.0):g} free" for kind in kinds)
    return f"needed {needed}, Ray has {seen}; free resources or ask for less in `resources`"

"""Builders of what decisions are made from, with what a test does not care about filled in. Times are in seconds."""

from typing import Any

from service.scheduler.decision import Decisions, Situation, decide
from service.scheduler.decision.facts import Cluster, Node, QueueEntry, RunningAttempt
from service.scheduler.decision.resources import Bundle, Demand, Placement, Resources, RoleDemand

NOW = 1_000_000.0
HOUR = 3600.0


def demand(
    gpus: float = 0, cpus: float = 1, *, ranks: int = 1, engine: tuple[float, float] | None = None, **facts: Any
) -> Demand:
    """`ranks` bundles of the trainer, and perhaps an engine of (GPUs, CPUs)."""
    roles = [RoleDemand(role="trainer", bundle=Resources.demand(cpus, gpus), count=ranks, **facts)]
    if engine is not None:
        roles.append(RoleDemand(role="rollout", bundle=Resources.demand(engine[1], engine[0]), count=1))
    return Demand(roles=tuple(roles))


def entry(name: str, asked: Demand | None = None, **facts: Any) -> QueueEntry:
    """Of user `ada` in project `p`, class `normal`, one CPU for an hour at most."""
    defaults: dict[str, Any] = {
        "project": "p",
        "user": "ada",
        "priority_rank": 2,
        "queued_at": NOW - 10,
        "max_runtime_s": HOUR,
    }
    return QueueEntry(id=name, demand=asked or demand(), **{**defaults, **facts})


def node(name: str = "n1", gpus: float = 0, cpus: float = 4, kind: str = "") -> Node:
    """Four CPUs."""
    return Node(id=name, total=Resources.supply(cpus, gpus), gpu_type=kind)


def bundles(name: str, gpus: float = 0, cpus: float = 1, *, count: int = 1, role: str = "trainer") -> Placement:
    """All on one node."""
    return (Bundle(role=role, node=name, resources=Resources.demand(cpus, gpus)),) * count


def running(name: str, placement: Placement, *, left_s: float = HOUR, **facts: Any) -> RunningAttempt:
    """An attempt `{name}-a1` that began an hour ago."""
    defaults: dict[str, Any] = {
        "project": "p",
        "user": "bob",
        "priority_rank": 2,
        "started_at": NOW - HOUR,
        "ends_at": NOW + left_s,
    }
    return RunningAttempt(id=f"{name}-a1", experiment_id=name, placement=placement, **{**defaults, **facts})


def decided(*queue: QueueEntry, nodes: tuple[Node, ...] = (node(),), **facts: Any) -> Decisions:
    """The decision now."""
    return decide(Situation(now=NOW, queue=queue, cluster=Cluster(nodes=nodes), **facts))


def started(decisions: Decisions) -> list[str]:
    """Ids in the order in which they start."""
    return [admission.id for admission in decisions.admissions]

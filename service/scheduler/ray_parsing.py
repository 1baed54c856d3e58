"""From the dashboard's JSON to what the scheduler knows of jobs, actors and nodes. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.scheduler.node_memory import read_gpu_type, read_node_memory
from service.scheduler.ray_http import not_understood
from service.scheduler.ray_jobs import SUPERVISOR_PREFIX, ClusterView, NodeView, RayActor, RayJob, RayJobStatus

_DEATH_CHARACTERS = 1000


def parse_job(body: Mapping[str, Any]) -> RayJob:
    """One job. Raises RayUnreachable for an answer that is none."""
    driver = body.get("driver_info") or {}
    try:
        return RayJob(
            submission_id=body["submission_id"],
            status=RayJobStatus(body["status"]),
            message=body["message"] or "",
            error_type=body["error_type"],
            driver_exit_code=body["driver_exit_code"],
            driver_node_id=body["driver_node_id"],
            metadata=body["metadata"] or {},
            ray_job_id=body.get("job_id"),
            driver_pid=int(driver["pid"]) if driver.get("pid") else None,
        )
    except (KeyError, ValueError) as error:
        raise not_understood("a job") from error


def parse_actor(entry: Mapping[str, Any]) -> RayActor:
    """One actor."""
    try:
        return RayActor(
            actor_id=entry["actor_id"],
            class_name=entry["class_name"],
            name=entry["name"] or "",
            namespace=entry["ray_namespace"] or "",
            state=entry["state"],
            ray_job_id=entry["job_id"],
            node_id=entry["node_id"] or None,
            pid=entry["pid"] or None,
            is_detached=bool(entry.get("is_detached")),
            death=_death(entry.get("death_cause")),
        )
    except KeyError as error:
        raise not_understood("an actor") from error


def parse_cluster(
    version: Mapping[str, Any],
    nodes: Sequence[Mapping[str, Any]],
    supervisors: Sequence[RayActor],
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> ClusterView:
    """The sum over the living nodes, and who watches over which job. `groups`: the placement groups, where known."""
    try:
        living = [node for node in nodes if node["state"] == "ALIVE"]
        resources = [node["resources_total"] for node in living]
        cpus, gpus = ([float(node.get(kind, 0)) for node in resources] for kind in ("CPU", "GPU"))
        return ClusterView(
            session_name=version["session_name"],
            num_cpus=sum(cpus),
            num_gpus=sum(gpus),
            num_nodes=len(resources),
            node_num_cpus=max(cpus, default=0.0),
            node_num_gpus=max(gpus, default=0.0),
            memory=read_node_memory(resources),
            nodes=tuple(_node_view(node) for node in living),
            held=None if groups is None else _held(groups),
            node_ids=frozenset(node["node_id"] for node in living),
            node_ips=frozenset(str(node["node_ip"]) for node in living if node.get("node_ip")),
            supervisors={
                actor.name.removeprefix(SUPERVISOR_PREFIX): actor.state
                for actor in supervisors
                if actor.name.startswith(SUPERVISOR_PREFIX)
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise not_understood("the list of nodes") from error


def _node_view(node: Mapping[str, Any]) -> NodeView:
    resources = node["resources_total"]
    return NodeView(
        id=node["node_id"],
        num_cpus=float(resources.get("CPU", 0)),
        num_gpus=float(resources.get("GPU", 0)),
        gpu_type=read_gpu_type(resources),
        name=str(node.get("node_name") or node.get("node_ip") or ""),
        is_head=bool(node.get("is_head_node")),
        memory_bytes=resources.get("memory"),
    )


def _held(groups: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """What the bundles of the groups hold on each node."""
    held: dict[str, tuple[float, float]] = {}
    for bundle in (bundle for group in groups for bundle in group.get("bundles") or ()):
        node, unit = str(bundle.get("node_id") or ""), bundle.get("unit_resources") or {}
        cpus, gpus = held.get(node, (0.0, 0.0))
        held[node] = cpus + float(unit.get("CPU", 0)), gpus + float(unit.get("GPU", 0))
    return held


def _death(cause: Any) -> str:
    """Ray nests the message in a context whose name tells the kind of death."""
    if not cause:
        return ""
    if isinstance(cause, Mapping):
        for kind, context in cause.items():
            if isinstance(context, Mapping) and context.get("error_message"):
                return f"{kind}: {context['error_message']}"[:_DEATH_CHARACTERS]
    return (cause if isinstance(cause, str) else json.dumps(cause, default=str))[:_DEATH_CHARACTERS]

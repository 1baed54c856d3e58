"""From what the scheduler has seen of Ray, the ledger and signs of life to what the API answers about the cluster."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.cluster_schemas import ActorsOut, ClusterDetail, GpuTypeOut, LeaseOut, NodeOut, ProcessOut
from api.queue_shapes import to_role
from api.shapes import to_cluster
from service import experiments, queue
from service.access import Visible
from service.contract.messages import Progress
from service.queue import overview
from service.queue.capacity import Capacity, NodeUse, read_capacity
from service.storage.processes import IS_ALIVE
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, SchedulerLease, ServiceProcess


async def read_cluster_detail(session: AsyncSession, visible: Visible, ray_dashboard_url: str | None) -> ClusterDetail:
    """Everything at this moment; actors of visible projects only."""
    capacity = await read_capacity(session)
    state = capacity.state
    return ClusterDetail(
        cluster=to_cluster(state, await queue.taken(session)) if state else None,
        ray_session=state.ray_session if state else None,
        ray_dashboard_url=ray_dashboard_url,
        nodes=to_nodes(capacity),
        by_gpu_type=to_gpu_types(capacity),
        by_role=[to_role(role) for role in capacity.by_role],
        actors=await _actors(session, visible),
        processes=[_process(row) for row in await _processes(session)],
        lease=await _lease(session),
    )


def to_nodes(capacity: Capacity) -> list[NodeOut]:
    """The head first, then by name; at the end those that are gone."""
    living = [_node(node, is_alive=True) for node in capacity.nodes]
    ordered = sorted(living, key=lambda node: (not node.is_head, node.name, node.id))
    return ordered + [_node(node, is_alive=False) for node in capacity.gone]


def to_gpu_types(capacity: Capacity) -> list[GpuTypeOut]:
    """Kinds of GPUs with what is taken of them."""
    return [
        GpuTypeOut(gpu_type=one.gpu_type, num_gpus=one.num_gpus, num_gpus_taken=one.gpus_taken)
        for one in capacity.by_gpu_type
    ]


def _node(node: NodeUse, *, is_alive: bool) -> NodeOut:
    facts = node.facts
    return NodeOut(
        id=node.id,
        name=facts.get("name", ""),
        is_head=facts.get("is_head", False),
        is_alive=is_alive,
        gpu_type=node.gpu_type,
        num_cpus=node.num_cpus,
        num_gpus=node.num_gpus,
        memory_bytes=facts.get("memory_bytes"),
        num_cpus_taken=node.cpus_taken,
        num_gpus_taken=node.gpus_taken,
        ray_cpus_held=facts.get("ray_cpus_held"),
        ray_gpus_held=facts.get("ray_gpus_held"),
        num_attempts=len(node.attempt_ids),
    )


async def _actors(session: AsyncSession, visible: Visible) -> list[ActorsOut]:
    live = await experiments.list_live(session, visible=visible)
    ids = [view.experiment.id for view in live]
    facts, nodes = await overview.running_facts(session, ids), await _nodes_of(session, ids)
    return [
        ActorsOut(
            experiment_id=view.experiment.id,
            name=view.experiment.name,
            project=view.project,
            user=view.user,
            attempt_number=fact.attempt_number,
            nodes=nodes.get(view.experiment.id, []),
            roles=[to_role(role) for role in fact.roles],
            heartbeat_at=fact.heartbeat_at,
            progress=Progress.model_validate(fact.progress) if fact.progress else None,
        )
        for view in live
        if (fact := facts.get(view.experiment.id)) is not None
    ]


async def _nodes_of(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, list[str]]:
    held = (
        select(Attempt.experiment_id, AttemptHolding.bundles)
        .join(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
        .where(Attempt.released_at.is_(None), Attempt.experiment_id.in_(experiment_ids))
    )
    rows = await session.execute(held)
    return {row.experiment_id: sorted({one["node"] for one in row.bundles if one["node"]}) for row in rows}


async def _processes(session: AsyncSession) -> Sequence[Row[ServiceProcess, bool]]:
    """The living first, then the most recently seen."""
    statement = select(ServiceProcess, IS_ALIVE.label("is_alive")).execution_options(populate_existing=True)
    ordered = statement.order_by(IS_ALIVE.desc(), ServiceProcess.role, ServiceProcess.seen_at.desc()).limit(50)
    return (await session.execute(ordered)).all()


def _process(row: Row[ServiceProcess, bool]) -> ProcessOut:
    told: ServiceProcess = row[0]
    detail: dict[str, Any] = told.detail
    return ProcessOut(
        role=told.role,
        instance=told.instance,
        version=str(detail.get("version", "")),
        started_at=told.started_at,
        seen_at=told.seen_at,
        is_alive=row[1],
        leads=row[1] and detail.get("leads") is True,
    )


async def _lease(session: AsyncSession) -> LeaseOut | None:
    statement = select(SchedulerLease, (SchedulerLease.expires_at > func.clock_timestamp()).label("is_held"))
    found = (await session.execute(statement.execution_options(populate_existing=True))).one_or_none()
    if found is None:
        return None
    lease: SchedulerLease = found[0]
    return LeaseOut(holder=lease.holder, term=lease.token, expires_at=lease.expires_at, is_held=found[1])

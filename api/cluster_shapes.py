"""From what the scheduler has seen of Ray, the ledger and signs of life to what the API answers about the cluster."""

from sqlalchemy.ext.asyncio import AsyncSession

from api.cluster_schemas import ActorsOut, ClusterDetail, GpuTypeOut, LeaseOut, NodeOut, ProcessOut
from api.queue_shapes import to_role
from api.shapes import to_cluster
from service import experiments, queue
from service.access import Visible
from service.contract.messages import Progress
from service.queue import overview
from service.queue.capacity import Capacity, NodeUse, nodes_of, read_capacity
from service.storage.processes import SeenLease, SeenProcess, seen_lease, seen_processes

_MOST_PROCESSES = 50


async def read_cluster_detail(session: AsyncSession, visible: Visible, ray_dashboard_url: str | None) -> ClusterDetail:
    """Everything at this moment; actors of visible projects only."""
    capacity, lease = await read_capacity(session), await seen_lease(session)
    state = capacity.state
    return ClusterDetail(
        cluster=to_cluster(state, await queue.taken(session)) if state else None,
        ray_session=state.ray_session if state else None,
        ray_dashboard_url=ray_dashboard_url,
        nodes=to_nodes(capacity),
        by_gpu_type=to_gpu_types(capacity),
        by_role=[to_role(role) for role in capacity.by_role],
        actors=await _actors(session, visible),
        processes=[_process(one) for one in await seen_processes(session, _MOST_PROCESSES)],
        lease=_lease(lease) if lease else None,
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
    facts, nodes = await overview.running_facts(session, ids), await nodes_of(session, ids)
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


def _process(seen: SeenProcess) -> ProcessOut:
    row = seen.row
    return ProcessOut(
        role=row.role,
        instance=row.instance,
        version=str(row.detail.get("version", "")),
        started_at=row.started_at,
        seen_at=row.seen_at,
        is_alive=seen.is_alive,
        leads=seen.leads,
    )


def _lease(seen: SeenLease) -> LeaseOut:
    row = seen.row
    return LeaseOut(holder=row.holder, term=row.token, expires_at=row.expires_at, is_held=seen.is_held)

"""What the API answers about the cluster. The client reads these too: pydantic and the contract only."""

from datetime import datetime

from api.queue_schemas import RoleHoldingOut
from api.schemas import ClusterOut
from service.contract.messages import Progress
from service.contract.strict_model import WireModel


class NodeOut(WireModel):
    """A node of the Ray cluster beside what our ledger has given out on it."""

    id: str
    name: str
    """Its address or host name; empty where Ray told none."""
    is_head: bool
    is_alive: bool
    """False for one on which our ledger has given something out and that Ray does not have any more."""
    gpu_type: str
    """Ray's name of its kind of GPU; empty where it has none or does not say."""
    num_cpus: float
    """Capacity that may be handed out: Ray's, within the operator's bounds."""
    num_gpus: float
    memory_bytes: float | None
    """For tasks and actors; null where Ray does not tell."""
    num_cpus_taken: float
    """By our ledger."""
    num_gpus_taken: float
    ray_cpus_held: float | None
    """By all placement groups that Ray has on it, also those of others; null where Ray did not tell."""
    ray_gpus_held: float | None
    num_attempts: int


class GpuTypeOut(WireModel):
    """All GPUs of one kind."""

    gpu_type: str
    num_gpus: float
    num_gpus_taken: float


class ActorsOut(WireModel):
    """The actors of an experiment that runs, as far as its reports tell."""

    experiment_id: str
    name: str
    project: str
    user: str
    attempt_number: int
    nodes: list[str]
    """Ids of the nodes on which it holds something."""
    roles: list[RoleHoldingOut]
    heartbeat_at: datetime | None
    """When its driver was last heard."""
    progress: Progress | None


class ProcessOut(WireModel):
    """A process of the API or the scheduler that is alive, or was within the last day."""

    role: str
    instance: str
    version: str
    started_at: datetime
    seen_at: datetime
    is_alive: bool
    leads: bool
    """Of schedulers: whether it holds the lease."""


class LeaseOut(WireModel):
    """Who schedules."""

    holder: str
    term: int
    """Rises with each change of holder."""
    expires_at: datetime
    is_held: bool


class ClusterDetail(WireModel):
    """The cluster: nodes, what is given out, who works, who looks after it."""

    cluster: ClusterOut | None
    """Null before the scheduler ever looked."""
    ray_session: str | None
    ray_dashboard_url: str | None
    nodes: list[NodeOut]
    by_gpu_type: list[GpuTypeOut]
    by_role: list[RoleHoldingOut]
    actors: list[ActorsOut]
    """Of experiments of your projects."""
    processes: list[ProcessOut]
    lease: LeaseOut | None

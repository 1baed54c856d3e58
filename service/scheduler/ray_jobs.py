"""Ray jobs as the scheduler sees them, and the seam through which it asks for them. Pure: no network here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from service.scheduler.node_memory import UNKNOWN_MEMORY, NodeMemory


class RayJobStatus(StrEnum):
    """What Ray says of a job. A hint, not the truth: the driver's own report is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def is_terminal(self) -> bool:
        """Whether Ray will not change it any more."""
        return self in (RayJobStatus.SUCCEEDED, RayJobStatus.FAILED, RayJobStatus.STOPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobRequest:
    """A job to submit."""

    submission_id: str
    entrypoint: str
    """A shell command; holds nothing that a user wrote."""
    env_vars: Mapping[str, str]
    """Readable by everybody who reaches Ray's API: no secrets."""
    metadata: Mapping[str, str]
    """By `attempt` and `spec_sha256` a job is recognised as ours."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the nodes on which its driver may run; without any it runs on the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """A job that Ray knows."""

    submission_id: str
    status: RayJobStatus
    message: str
    error_type: str | None
    """Ray's class of failure; `JOB_SUPERVISOR_…` says that Ray lost sight of the driver, not that it is dead."""
    driver_exit_code: int | None
    driver_node_id: str | None
    """Where the driver's log lies."""
    metadata: Mapping[str, str]
    ray_job_id: str | None = None
    """Ray's own number of the driver, by which it names the driver's actors; None before the driver has connected."""
    driver_pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RayActor:
    """An actor that Ray knows, dead or alive."""

    actor_id: str
    class_name: str
    name: str
    namespace: str
    state: str
    """`ALIVE`, `DEAD`, or one of the states before."""
    ray_job_id: str
    node_id: str | None
    pid: int | None
    is_detached: bool
    death: str
    """What Ray says of its death; empty while it lives."""

    @property
    def is_dead(self) -> bool:
        """For good: an actor that restarts is not."""
        return self.state == "DEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What one living node has."""

    id: str
    num_cpus: float
    num_gpus: float
    gpu_type: str = ""
    """Ray's name of its kind of GPU; empty where it has none or does not say."""
    name: str = ""
    """As Ray calls it, its address as a rule."""
    is_head: bool = False
    memory_bytes: float | None = None
    """For tasks and actors; None where Ray does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """What Ray has, in sum over its living nodes."""

    session_name: str
    """Changes when the cluster is started anew; jobs of another session are gone."""
    num_cpus: float
    num_gpus: float
    num_nodes: int
    node_num_cpus: float = 0.0
    """Of the node that has most."""
    node_num_gpus: float = 0.0
    memory: NodeMemory = UNKNOWN_MEMORY
    nodes: tuple[NodeView, ...] = ()
    held: Mapping[str, tuple[float, float]] | None = None
    """By node, CPUs and GPUs of all placement groups that stand, ours and others'; None where Ray did not tell."""
    node_ids: frozenset[str] = frozenset()
    """Of the living nodes."""
    node_ips: frozenset[str] = frozenset()
    supervisors: Mapping[str, str] = field(default_factory=dict)
    """By submission id, the state of the actor that watches a job's driver: `ALIVE` or `PENDING_CREATION`."""

    def watches_over(self, job: "RayJob") -> bool:
        """Whether Ray can know what it says of a running job: its supervisor lives, and so does its driver's node."""
        node_lives = job.driver_node_id is None or job.driver_node_id in self.node_ids
        return node_lives and self.supervisors.get(job.submission_id) == "ALIVE"


SUPERVISOR_NAMESPACE = "SUPERVISOR_ACTOR_RAY_NAMESPACE"
SUPERVISOR_PREFIX = "_ray_internal_job_actor_"
"""Ray's own names: the actor that watches the driver of job X is called by this and X."""


class RayGateway(Protocol):
    """The few things that the scheduler asks of Ray. Each raises RayUnreachable when nothing can be known."""

    async def submit(self, request: RayJobRequest) -> RayJob:
        """Submits, or finds the same job submitted before; raises SubmitRefused when Ray certainly has no such job."""

    async def get(self, submission_id: str) -> RayJob | None:
        """The job; None if Ray has none of this id."""

    async def stop(self, submission_id: str) -> None:
        """Asks Ray to stop the job; does nothing for a job that is unknown or over."""

    async def logs_tail(self, job: RayJob, num_lines: int) -> list[str]:
        """The newest lines that the driver printed; empty when Ray has no log of it."""

    async def cluster(self) -> ClusterView:
        """Session and resources."""

    async def actors(self, ray_job_id: str) -> list[RayActor]:
        """The actors that a driver made, the dead ones that Ray still remembers among them."""

    async def placement_groups(self, ray_job_id: str) -> list[str]:
        """The ids of the driver's placement groups that still hold or ask for resources."""

    async def open_doors(self, view: ClusterView) -> list[str]:
        """Where Ray takes orders from strangers: whoever finds such a door runs code on the cluster."""

    async def poke(self) -> None:
        """Makes Ray look at its jobs anew: after a restart with a lasting store it does so only when asked for one."""

    async def stacks(self, node_id: str, pid: int) -> str:
        """The threads of a living process, as py-spy sees them; or, in words, why they cannot be seen."""


class SubmitRefused(Exception):
    """Ray answered, and it does not have the job. Trying again with the same id is safe."""


class ForeignJob(SubmitRefused):
    """Ray has a job under this id that is not ours. Trying again with the same id is useless."""


def is_same_job(job: RayJob, request: RayJobRequest) -> bool:
    """Whether a job found under the request's id was submitted by it: same attempt and same specification."""
    return all(job.metadata.get(key) == request.metadata[key] for key in ("attempt", "spec_sha256"))

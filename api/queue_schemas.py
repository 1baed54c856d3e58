"""What the API answers and takes about the queue. The client reads these too: pydantic and the contract only."""

from datetime import datetime

from pydantic import Field

from service.contract.spec import PriorityName
from service.contract.status import ExperimentStatus
from service.contract.strict_model import Moment, StrictModel, WireModel
from service.contract.waiting import WaitCode


class HoldOrder(StrictModel):
    """Keeps an experiment from starting."""

    reason: str = Field(default="", max_length=500)


class PriorityOrder(StrictModel):
    """Moves an experiment to another class."""

    priority: PriorityName


class PauseOrder(StrictModel):
    """Starts nothing new."""

    reason: str = Field(default="", max_length=500)
    drain: bool = False
    """Ask what runs to give way at its next checkpoint, too."""


class MaintenanceOrder(StrictModel):
    """Nothing may run from `starts_at` to `ends_at`."""

    starts_at: Moment
    ends_at: Moment
    reason: str = Field(default="", max_length=500)


class QuotaOrder(StrictModel):
    """The whole quota of a project, or of a user within it; what is left out has no limit."""

    shares: float = Field(default=1.0, gt=0.0, le=1e6, allow_inf_nan=False)
    """How large a part of the cluster it is meant to get, relative to its siblings."""
    max_running: int | None = Field(default=None, ge=0, le=10**6)
    max_queued: int | None = Field(default=None, ge=0, le=10**6)
    max_cpus: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    max_gpus: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    max_gpu_hours: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """Within `window_days`: used, and still to be used at most by those who run."""
    window_days: float = Field(default=7.0, gt=0.0, le=366.0, allow_inf_nan=False)
    max_storage_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    default_max_runtime_s: int | None = Field(default=None, ge=30, lt=2**31)
    """Of a project: for experiments that do not say how long they may run."""


class QuotaOut(QuotaOrder):
    """A quota and what is used of it."""

    project: str
    user: str | None
    """None for the project as a whole."""
    num_running: int
    num_queued: int
    num_cpus: float
    num_gpus: float
    num_storage_bytes: int
    updated_at: Moment
    updated_by: str


class QuotaPage(WireModel):
    """All quotas."""

    items: list[QuotaOut]


class PauseOut(WireModel):
    """Nothing new starts."""

    project: str | None
    """None for the whole queue."""
    drain: bool
    reason: str
    by: str
    since: datetime


class MaintenanceOut(WireModel):
    """Nothing may run then."""

    id: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    by: str


class QueueOrdersOut(WireModel):
    """What people have ordered for the queue as a whole."""

    pauses: list[PauseOut]
    maintenance: list[MaintenanceOut]


class ShareTermOut(WireModel):
    """How a project, or a user within it, stands against its siblings."""

    name: str
    usage: float
    """Decayed weighted seconds: GPU-seconds by kind, or CPU-seconds with their weight where no GPU was held."""
    shares: float
    usage_part: float
    share_part: float
    factor: float
    """2^(-usage_part / share_part)."""


class StartEstimateOut(WireModel):
    """When it will start, with the error that such forecasts have had."""

    at_the_latest: datetime
    """If all take the time that they asked for, and nobody comes ahead."""
    likely: datetime | None
    earliest: datetime | None
    latest: datetime | None
    """Eight of ten experiments started between `earliest` and `latest`, measured by their own forecasts."""
    num_records: int
    """Forecasts behind the error; with too few the three are null."""


class PriorityOut(WireModel):
    """Every term of an experiment's place: class, then project, then user, then age."""

    id: str
    status: ExperimentStatus
    priority: PriorityName
    queue_position: int | None
    num_queued: int
    decided_at: datetime | None
    """When the scheduler saw it so."""
    waiting_code: WaitCode | None
    waiting_reason: str | None
    waits_for: str | None
    """The experiment for which it waits, if it is one."""
    unblocked_when: str | None
    project: ShareTermOut
    user: ShareTermOut
    queued_at: datetime
    max_runtime_s: float
    preemptible: bool
    reservation_at: datetime | None
    """What becomes free is kept for it, and will be enough then at the latest."""
    start: StartEstimateOut | None


class RoleHoldingOut(WireModel):
    """What the actors of one role hold, or ask for, in sum."""

    role: str
    """`trainer`, `rollout`, or `shared` where one bundle serves both in turn."""
    num_actors: int
    num_cpus: float
    num_gpus: float


class StandingOut(WireModel):
    """How a project, or a user within it, stands beside its siblings."""

    project: str
    user: str | None
    """None for the project as a whole."""
    shares: float
    share_part: float
    """Of what all siblings are meant to get."""
    usage: float
    """Decayed weighted seconds, as the scheduler saw them in its last pass."""
    usage_part: float
    """Of what all siblings have used."""
    num_running: int
    """That hold resources."""
    num_queued: int
    num_cpus: float
    num_gpus: float
    gpu_hours: float | None
    """Within the quota's window; null where no quota bounds them."""
    max_running: int | None
    max_queued: int | None
    max_cpus: float | None
    max_gpus: float | None
    max_gpu_hours: float | None
    window_days: float | None


class StandingPage(WireModel):
    """Each project of yours before its users."""

    items: list[StandingOut]

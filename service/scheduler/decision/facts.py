"""What the decision is made from. Times are seconds since the epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.scheduler.decision.resources import Demand, Placement, Resources, RoleDemand

Account = tuple[str, str]
"""Project and user."""
NO_GPU = ""
"""The kind of nodes without a GPU."""
UNNAMED_GPU = "GPU"
"""The kind of nodes whose GPU Ray does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the cluster."""

    id: str
    """Empty for a cluster of which only the sum is known: nothing is pinned to a node then."""
    total: Resources
    gpu_type: str = ""
    """Ray's name of its kind of GPU; empty where it has none, or an unnamed one."""

    @property
    def kind(self) -> str:
        """Nodes of one kind are taken together: those without a GPU, and those with each type of GPU."""
        return (self.gpu_type or UNNAMED_GPU) if self.total.gpus else NO_GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What may be handed out, or why that is not known."""

    nodes: tuple[Node, ...] = ()
    unknown_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """An experiment that has to end first."""

    id: str
    status: str
    """`succeeded`, or what it is instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimit:
    """So many experiments of a named group may run at a time."""

    group: str
    max_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blockers:
    """What may keep an experiment from being considered."""

    held: str | None = None
    """Who holds it, and why."""
    not_before: float | None = None
    """A person's wish."""
    back_off_until: float | None = None
    """After a failure of the infrastructure."""
    releasing: int | None = None
    """The attempt that still holds resources."""
    dependencies: tuple[Dependency, ...] = ()
    """Those that have not ended as they should."""
    any_end_will_do: bool = False
    """A dependency need not succeed."""
    unknown_content: str | None = None
    """Why its stages cannot be compared with others' yet."""


UNBLOCKED = Blockers()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """An experiment that waits."""

    id: str
    project: str
    user: str
    priority_rank: int
    """0 is first."""
    queued_at: float
    demand: Demand
    max_runtime_s: float
    blockers: Blockers = UNBLOCKED
    limits: tuple[GroupLimit, ...] = ()
    stage_key: str | None = None
    """Of the training that it would do first and that others might be doing at this moment."""

    @property
    def account(self) -> Account:
        """Whose usage it raises."""
        return self.project, self.user


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAttempt:
    """An attempt that holds resources, whether it still works or not."""

    id: str
    experiment_id: str
    project: str
    user: str
    priority_rank: int
    placement: Placement
    """All that it holds, engines that it was given later included."""
    started_at: float
    ends_at: float
    """At the latest: its start and max_runtime."""
    is_ending: bool = False
    """It has ended, or was asked to: what it holds comes back soon."""
    is_preempted: bool = False
    """It was asked to give way."""
    preemptible: bool = False
    elastic: RoleDemand | None = None
    """The role that may grow, with the present number of its bundles as `count`; None while it may not."""
    num_least: int = 0
    """Bundles of that role below which it may not shrink."""
    has_use_for_more: bool = True
    """Whether the stage at hand asks engines; what is lent goes back when it does not."""
    returning: Placement = ()
    """Bundles of `placement` that it was asked to give back; it neither grows nor shrinks meanwhile."""
    groups: tuple[str, ...] = ()
    stage_key: str | None = None

    @property
    def account(self) -> Account:
        """Whose usage it raises."""
        return self.project, self.user

    @property
    def lent(self) -> Placement:
        """Bundles that it has beyond what it needs, the newest last."""
        if self.elastic is None or self.returning:
            return ()
        own = [bundle for bundle in self.placement if bundle.role == self.elastic.role]
        return tuple(own[self.num_least :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a project, or a user within a project, may hold; None: no limit."""

    max_running: int | None = None
    max_cpus: float | None = None
    max_gpus: float | None = None
    max_gpu_hours: float | None = None
    """Within `window_s`; used and still to be used by those who run."""
    window_s: float = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How large a part of the cluster a project, or a user within it, is meant to get, relative to its siblings."""

    of_projects: Mapping[str, float] = field(default_factory=dict)
    of_users: Mapping[Account, float] = field(default_factory=dict)

    def project(self, name: str) -> float:
        """1 unless said otherwise."""
        return self.of_projects.get(name, 1.0)

    def user(self, account: Account) -> float:
        """1 unless said otherwise."""
        return self.of_users.get(account, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time in which nothing may run."""

    starts_at: float
    ends_at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing new starts: anywhere, or in one project."""

    project: str | None
    reason: str
    drains: bool = False
    """What runs is asked to give way, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldReservation:
    """Who had been promised resources, and where, when the decision was made last."""

    experiment_id: str
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How fast use is forgotten, and how patient the queue is."""

    half_life_s: float = 7 * 86400.0
    gpu_weights: Mapping[str, float] = field(default_factory=dict)
    """What a GPU of a kind counts; 1 unless said otherwise."""
    cpu_weight: float = 0.05
    """What a CPU counts where an experiment holds no GPU."""
    preempt_exempt_s: float = 1800.0
    """Nobody who started later than that gives way, except to `urgent`."""
    preempt_patience_s: float = 300.0
    """Nobody gives way to one who would start within that anyway."""
    release_s: float = 120.0
    """What an attempt that ends, or was asked to, is expected to need until its resources are free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything at one moment."""

    now: float
    queue: Sequence[QueueEntry]
    running: Sequence[RunningAttempt] = ()
    cluster: Cluster = Cluster()
    usage: Mapping[Account, float] = field(default_factory=dict)
    """Decayed weighted seconds, penalties of those who run included."""
    shares: Shares = Shares()
    quotas: Mapping[Account, Quota] = field(default_factory=dict)
    """A user's, or with an empty user the whole project's."""
    gpu_seconds_in_window: Mapping[Account, float] = field(default_factory=dict)
    """Used within the quota's window; as in `quotas`, by user and for the whole project."""
    pauses: Sequence[Pause] = ()
    windows: Sequence[Window] = ()
    reserved: Sequence[HeldReservation] = ()
    policy: Policy = Policy()

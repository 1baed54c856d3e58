"""What the API answers. The client reads these too, so they need pydantic and the contract only."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.queue_schemas import RoleHoldingOut, StartEstimateOut
from service.contract.headline import Headline
from service.contract.messages import Progress, RolloutSample, StageResult
from service.contract.metric_names import Better
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec, PriorityName
from service.contract.stages import StageName
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.contract.strict_model import WireModel
from service.contract.waiting import WaitCode


class ExperimentSummary(WireModel):
    """One row of a list."""

    id: str
    name: str
    project: str
    user: str
    tags: list[str]
    objective: str | None = None
    """Of the SFT stage; null without one."""
    status: ExperimentStatus
    end_reason: EndReason | None
    message: str
    waiting_reason: str | None
    queue_position: int | None
    """1 is next; only while queued."""
    priority: PriorityName
    num_cpus: float
    num_gpus: float
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    cancel_requested_at: datetime | None
    headline: Headline | None = None
    """What its latest finished stage came to; told in lists and of one experiment, not in the queue."""


class Attempt(WireModel):
    """One Ray job of an experiment."""

    id: str
    number: int
    status: AttemptStatus
    end_reason: EndReason | None
    message: str
    evidence: dict[str, Any]
    ray_submission_id: str
    progress: Progress | None
    created_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended_at: datetime | None
    released_at: datetime | None


class Experiment(ExperimentSummary):
    """All that is known of an experiment but its series, logs and rollouts."""

    description: str
    spec: ExperimentSpec
    plan: ExperimentPlan
    attempts: list[Attempt]
    stage_results: list[StageResult]
    progress: Progress | None


class ExperimentCounts(WireModel):
    """How many experiments there are."""

    by_status: dict[ExperimentStatus, int]
    """Without those statuses that nobody has."""
    total: int


class ExperimentPage(WireModel):
    """Experiments, in the order asked for."""

    items: list[ExperimentSummary]
    next_cursor: str | None


class ExperimentPlanReply(WireModel):
    """A dry run: the specification with its defaults, and what follows from it. Nothing was stored."""

    spec: ExperimentSpec
    plan: ExperimentPlan


class Event(WireModel):
    """Something that happened to an experiment."""

    id: int
    ts: datetime
    kind: str
    message: str
    attempt_id: str | None
    detail: dict[str, Any]


class EventPage(WireModel):
    """Events, oldest first."""

    items: list[Event]
    next_after: int | None


class MetricPointOut(WireModel):
    """One value."""

    step: int
    ts: datetime
    value: float


class MetricBucket(WireModel):
    """Several neighbouring points as their envelope; NaN and infinities are left out of min, max and mean."""

    first_step: int
    last_step: int
    num_points: int
    num_finite: int
    """Those of them that are neither NaN nor infinite."""
    min: float | None
    max: float | None
    mean: float | None


class MetricInfo(WireModel):
    """What a metric means."""

    name: str
    unit: str
    better: Better
    stage: str
    meaning: str


class AttemptStart(WireModel):
    """From which step on an attempt contributed to a series: where a plot shows the splice."""

    number: int
    first_step: int


class MetricSeriesOut(MetricInfo):
    """One series, merged over attempts: the latest attempt wins where steps were run again."""

    num_points: int
    kind: Literal["points", "envelope"]
    points: list[MetricPointOut] = []
    envelope: list[MetricBucket] = []
    attempts: list[AttemptStart] = []


class MetricSeriesPage(WireModel):
    """The series asked for."""

    series: list[MetricSeriesOut]


class MetricName(MetricInfo):
    """A metric that the experiment has, with its newest value."""

    num_points: int
    last_step: int
    last_value: float
    last_ts: datetime


class MetricNamePage(WireModel):
    """The catalogue of an experiment's metrics."""

    items: list[MetricName]


class LogLineOut(WireModel):
    """One line of the log."""

    id: int
    ts: datetime
    attempt_number: int
    source: str
    text: str


class LogPage(WireModel):
    """Log lines, oldest first."""

    items: list[LogLineOut]
    next_after: int | None
    next_before: int | None = None
    """Of the newest lines: below which id older ones go on; null at the beginning."""


class RolloutSampleOut(RolloutSample):
    """One stored completion."""

    id: int


class RolloutPage(WireModel):
    """Completions, newest first."""

    items: list[RolloutSampleOut]
    next_before: int | None


class StoredRolloutsOut(WireModel):
    """The file of one RL step's rollouts."""

    step: int
    num_bytes: int


class StoredRolloutsPage(WireModel):
    """All steps whose rollouts are stored, oldest first."""

    items: list[StoredRolloutsOut]


class VersionSpanOut(WireModel):
    """Tokens [start, end) of a completion that one version of the policy sampled."""

    version: int
    start: int
    end: int


class StoredRolloutOut(WireModel):
    """One completion of the rollout store; columns that were not asked for are left out."""

    step: int | None = None
    prompt_uid: int | None = None
    sample_index: int | None = None
    policy_version: int | None = None
    """Of its oldest token."""
    age: int | None = None
    """Versions between that and the policy that was trained."""
    prompt: str | None = None
    answer: str | None = None
    completion: str | None = None
    finish_reason: str | None = None
    num_tokens: int | None = None
    reward: float | None = None
    reward_parts: dict[str, float | None] | None = None
    """By name; null where it could not be judged."""
    advantage: float | None = None
    """Null where it was generated but is no part of the step."""
    is_trained: bool | None = None
    sample_weight: float | None = None
    """How many completions of the step it stands for."""
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    rollout_logprobs: list[float] | None = None
    """Of each token, as the engine sampled it."""
    version_spans: list[VersionSpanOut] | None = None


class RolloutSearchPage(WireModel):
    """Stored completions in the order asked for. A page may be short, even empty, and yet not the last."""

    items: list[StoredRolloutOut]
    next_cursor: str | None
    """Null on the last page."""


class TokenViewEntry(WireModel):
    """That one sample was looked at token by token after a step."""

    id: int
    stage: StageName
    step: int
    sample_index: int
    num_tokens: int


class TokenViewPage(WireModel):
    """Which token views exist, oldest first."""

    items: list[TokenViewEntry]
    next_after: int | None


class ClusterOut(WireModel):
    """What the scheduler last saw of Ray, and what our ledger has given out."""

    observed_at: datetime
    reachable: bool
    num_cpus: float
    num_gpus: float
    num_cpus_taken: float
    num_gpus_taken: float
    message: str


class RunningExperiment(ExperimentSummary):
    """One that was admitted: what it does and holds. All is null or empty between two attempts."""

    attempt_number: int | None = None
    attempt_since: datetime | None = None
    heartbeat_at: datetime | None = None
    progress: Progress | None = None
    roles: list[RoleHoldingOut] = []
    max_runtime_s: float | None = None
    """How long it may run at most."""
    preempt_requested_at: datetime | None = None
    preempt_reason: str = ""
    """Why it is to stop at its next checkpoint."""


class WaitingExperiment(ExperimentSummary):
    """One in the queue: why it waits, and for how long."""

    waiting_code: WaitCode | None = None
    waits_for: str | None = None
    """The experiment for which it waits, if it is one."""
    unblocked_when: str | None = None
    held_by: str | None = None
    held_reason: str = ""
    roles: list[RoleHoldingOut] = []
    max_runtime_s: float | None = None
    start: StartEstimateOut | None = None


class QueueOut(WireModel):
    """Who runs and who waits, in order, and why."""

    cluster: ClusterOut | None
    decided_at: datetime | None = None
    """When the scheduler last looked at the queue."""
    running: list[RunningExperiment]
    queued: list[WaitingExperiment]
    num_queued: int = 0
    """Of all pages."""


class FieldProblem(WireModel):
    """One finding in a refused body."""

    field: str
    problem: str
    hint: str | None = None


class Problem(WireModel):
    """An error as RFC 9457 describes it. Facts for machines may stand beside these members, as there."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:sedray:problem:invalid_spec"])
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] = []

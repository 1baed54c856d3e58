"""The bodies that a driver and the service exchange.

driver                                   service
  ── POST /attempts/{id}/start ───────────>  StartReply: the specification and what is already done
  ── POST /attempts/{id}/reports ─────────>  ReportAck: accepted up to `seq`, and whether to stop
  ── POST /attempts/{id}/stage-results ───>  204
  ── POST /attempts/{id}/finish ──────────>  204

Every call carries the attempt's token. 409 means that the attempt is over: the driver exits and writes nothing more.
"""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.contract.status import EndReason
from service.contract.strict_model import WireModel


class MetricPoint(WireModel):
    """One value of one metric. Steps of a name rise strictly within an attempt."""

    name: str = Field(min_length=1, max_length=200)
    step: int = Field(ge=0, le=2**53)
    value: float
    ts: datetime


Step = Annotated[int, Field(ge=0, le=2**53)]


class MetricColumns(WireModel):
    """Several values of one metric in columns: a fifth of the bytes that single points take, and read as fast."""

    name: str = Field(min_length=1, max_length=200)
    steps: list[Step] = Field(min_length=1)
    """Rising."""
    ts: list[datetime]
    values: list[float]

    @model_validator(mode="after")
    def _has_equal_columns(self) -> Self:
        lengths = {len(self.steps), len(self.ts), len(self.values)}
        if len(lengths) > 1:
            raise ValueError(f"steps, ts and values of {self.name} must be equally long")
        return self


class LogLine(WireModel):
    """One line that the driver or one of its actors printed."""

    ts: datetime
    source: str = Field(default="driver", pattern=r"^[A-Za-z0-9_.:=()-]{1,80}$")
    """`driver`, `scheduler`, or an actor as Ray names it with its process id: `Trainer:4711`."""
    text: str = Field(max_length=4000)


class RolloutSample(WireModel):
    """One completion as people read it."""

    stage: StageName
    step: int
    prompt_uid: int
    sample_index: int
    prompt: str
    completion: str
    answer: str
    reward: float
    num_tokens: int
    policy_version: int


MAX_VIEWED_TOKENS = 8192
"""Of one token view; the tokens after them are left out. So many fit into one report with room to spare."""


class TokenView(WireModel):
    """One held-out sample token by token: what the model thinks of each, and what the objective makes of it.

    The lists run over the sample's T tokens; values of tokens that are not trained (the prompt's) are None.
    """

    stage: StageName
    step: int
    """Optimizer steps done when it was measured."""
    sample_index: int
    """Place among the held-out samples, from 0."""
    tokens: list[str] = Field(max_length=MAX_VIEWED_TOKENS)
    """As text, piece by piece; put together they are the sample. A token that ends within a character has an empty
    text: the token that completes the character has it whole."""
    token_ids: list[int]
    label_probs: list[float | None]
    """p of the token itself."""
    topk_masses: list[float | None]
    """Mass of the `top_k` likeliest tokens."""
    entropies: list[float | None]
    """Of the next-token distribution, in nats."""
    weights: list[float | None]
    """The objective's factor on the gradient of cross entropy; None also where it has no such factor (GEM …)."""
    top_k: int
    """Of `topk_masses`: the objective's own, or 2 where it has none."""
    tau: float | None
    """A token is flexible where its top-k mass lies below it; None where the objective knows no threshold."""

    @model_validator(mode="after")
    def _one_value_per_token(self) -> Self:
        lengths = {
            name: len(getattr(self, name))
            for name in ("tokens", "token_ids", "label_probs", "topk_masses", "entropies", "weights")
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the lists must have one entry per token each; they have {lengths}")
        return self


SERVICE_EVENT_KINDS = frozenset(
    {
        "status",
        "attempt",
        "stage",
        "cancel_requested",
        "note",
        "sentinel",
        "held",
        "released",
        "priority",
        "preempt_requested",
        "resize_requested",
        "stage_reused",
    }
)
"""Kinds of events that the service itself writes; readers trust their `detail`."""
PREEMPTION_ACKNOWLEDGED = "preemption_acknowledged"
"""Kind of the event by which a driver says after which stage and step it gives way."""
REUSE_DECLINED = "reuse_declined"
"""Kind of the event by which a driver says that it runs stages itself which others have run."""
ENGINE_LENT = "engine_lent"
ENGINE_RETURNED = "engine_returned"
ENGINE_NOT_ADDED = "engine_not_added"
"""Kinds of the events by which a driver says what became of a lent engine, by its `id`."""
MAX_DETAIL_CHARACTERS = 20_000


class RunEvent(WireModel):
    """Something that a person should know about the run: `checkpoint_skipped`, …"""

    ts: datetime
    kind: str = Field(pattern=r"^[a-z0-9_]{1,60}$")
    message: str = Field(max_length=2000)
    detail: dict[str, Any] = {}
    """Facts for machines, at most `MAX_DETAIL_CHARACTERS` as JSON."""

    @field_validator("kind")
    @classmethod
    def _is_not_the_services_own(cls, kind: str) -> str:
        if kind in SERVICE_EVENT_KINDS:
            raise ValueError(f"events of kind {kind!r} are written by the service alone; choose another word")
        return kind

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        length = len(self.model_dump_json(include={"detail"}))
        if length > MAX_DETAIL_CHARACTERS:
            raise ValueError(f"detail is {length} characters long; {MAX_DETAIL_CHARACTERS} are allowed: shorten it")
        return self


class Progress(WireModel):
    """What the attempt is doing now."""

    stage: StageName | None
    phase: str
    """A few words: `starting rollout engine`, `training`, `generating`, `syncing weights`."""
    step: int
    num_steps: int
    since: datetime


class StageResult(WireModel):
    """What a finished stage leaves behind. Written once per experiment and stage."""

    stage: StageName
    started_at: datetime
    finished_at: datetime
    duration_s: float
    steps_done: int
    steps_planned: int
    metrics: dict[str, float]
    """Final values by metric name."""
    checkpoint: str | None = None
    """Where the stage's final model is."""
    detail: dict[str, Any] = {}
    """Facts of the stage: tau and its histogram, dropped samples, per-prompt counts of correct completions."""


class ReusedStage(WireModel):
    """Where a stage was run whose result is reused."""

    stage: StageName
    experiment_id: str
    output_dir: str
    """Of that experiment; to be read only."""


class StartReply(WireModel):
    """All that a driver needs to know, in one answer."""

    experiment_id: str
    attempt_id: str
    attempt_number: int
    spec: ExperimentSpec
    output_dir: str
    """Folder or fsspec URL of the experiment; shared by its attempts."""
    completed_stages: list[StageResult]
    report_interval_s: float
    nodes: list[str] = []
    """Ray's ids of the nodes that the scheduler has chosen: one for each of the trainer's ranks, then for each rollout
    engine; none: anywhere."""
    reused_stages: list[ReusedStage] = []
    """Of `completed_stages`, those that another experiment has run."""


class WorkerReport(WireModel):
    """What gathered since the last report; also the heartbeat, so it may be empty."""

    seq: int = Field(ge=1)
    """Counts the attempt's reports; a repeated one is acknowledged and not stored again."""
    points: list[MetricPoint] = []
    """Single values."""
    series: list[MetricColumns] = []
    """More values, by metric."""
    log_lines: list[LogLine] = []
    rollouts: list[RolloutSample] = []
    token_views: list[TokenView] = []
    events: list[RunEvent] = []
    progress: Progress | None = None

    def columns(self) -> list[MetricColumns]:
        """All values by metric, those of `points` first."""
        found: dict[str, list[MetricPoint]] = {}
        for point in self.points:
            found.setdefault(point.name, []).append(point)
        singles = [
            MetricColumns.model_construct(
                name=name,
                steps=[point.step for point in points],
                ts=[point.ts for point in points],
                values=[point.value for point in points],
            )
            for name, points in found.items()
        ]
        return [*singles, *self.series]


class LentEngine(WireModel):
    """A rollout engine that idle capacity lends, and takes back when somebody else needs it."""

    id: str
    node: str
    """Ray's id of the node on which it lies; empty: any."""


class ReportAck(WireModel):
    """The service's answer to a report."""

    seq: int
    duplicate: bool
    cancel: bool
    """A person wants the run to stop."""
    preempt: bool = False
    """Another experiment needs the resources: stop where nothing is lost, and say so (`preemption_acknowledged`)."""
    lent_engines: list[LentEngine] = []
    """Rollout engines beyond those of the specification that the run shall have: others of this kind go."""


class FinishReport(WireModel):
    """The driver's last word."""

    reason: EndReason
    message: str = ""
    steps_done: int = 0
    steps_planned: int = 0
    evidence: dict[str, Any] = {}
    """Traceback, last lines, versions: what a person needs to understand the end."""

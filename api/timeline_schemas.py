"""What the API answers about the course of an experiment."""

from datetime import datetime
from typing import Literal

from service.contract.stages import StageName
from service.contract.status import AttemptStatus, EndReason
from service.contract.strict_model import WireModel

SpanState = Literal["finished", "running", "interrupted"]
Weight = Literal["problem", "notice", "milestone"]


class StageSpan(WireModel):
    """A stretch in which an attempt ran a stage, or, without a stage, was starting."""

    stage: StageName | None
    start: datetime
    end: datetime | None
    """None: it goes on."""
    state: SpanState
    steps_done: int | None
    steps_planned: int | None


class AttemptSpan(WireModel):
    """One attempt from its admission to its end, and what it did."""

    number: int
    status: AttemptStatus
    start: datetime
    end: datetime | None
    end_reason: EndReason | None
    message: str
    spans: list[StageSpan]


class WaitSpan(WireModel):
    """A stretch in the queue."""

    start: datetime
    end: datetime | None


class Incident(WireModel):
    """Something that happened on the way, apart from stages that begin and end."""

    event_id: int
    ts: datetime
    kind: str
    weight: Weight
    """`problem`: work was lost or a figure is in doubt; `notice`: worth knowing; `milestone`: as it should be."""
    message: str
    attempt_number: int | None


class TakenOver(WireModel):
    """A stage that was not run, because another experiment had run the same."""

    stage: StageName
    experiment_id: str


class Timeline(WireModel):
    """The course of an experiment so far."""

    now: datetime
    """By the service's clock."""
    start: datetime
    end: datetime | None
    waits: list[WaitSpan]
    attempts: list[AttemptSpan]
    incidents: list[Incident]
    """Oldest first; of very many the first ones."""
    taken_over: list[TakenOver]

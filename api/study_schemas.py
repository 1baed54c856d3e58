"""What the API answers and takes about studies. The client reads these too: pydantic and the contract only."""

from datetime import datetime
from typing import Any

from pydantic import Field

from service.contract.status import EndReason, ExperimentStatus
from service.contract.strict_model import StrictModel, WireModel
from service.contract.studies import StudySpec
from service.contract.study_changes import AmendmentKind, StudyReason, StudyState
from service.contract.study_plan import StudyPlan


class StudyOrder(StrictModel):
    """Pause or cancel a study, and why."""

    reason: str = Field(default="", max_length=2000)


class ExclusionOrder(StrictModel):
    """Take a run out of the study's figures. The reason stands in the report."""

    reason: str = Field(min_length=1, max_length=2000)


class StudySummary(WireModel):
    """One row of a list."""

    id: str
    name: str
    project: str
    user: str
    question: str
    state: StudyState
    state_reason: StudyReason | None
    message: str
    created_at: datetime
    state_at: datetime
    """When the state last changed."""
    num_runs: int
    runs: dict[ExperimentStatus, int]
    """Experiments by status; a status without any is left out."""
    num_excluded: int

    @property
    def num_ended(self) -> int:
        """Experiments to which nothing more happens by itself."""
        return sum(number for status, number in self.runs.items() if status.is_terminal)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it waits or runs, nor will."""
        return not self.state.is_open and self.num_ended == self.num_runs


class AmendmentOut(WireModel):
    """A change after the study was locked."""

    number: int
    at: datetime
    by: str
    kind: AmendmentKind
    change: dict[str, Any]
    reason: str


class StudyOut(StudySummary):
    """All that is known of a study but its runs one by one and its report."""

    spec: StudySpec
    """As it stands, amendments applied."""
    submitted_spec: StudySpec
    amendments: list[AmendmentOut]
    plan: StudyPlan
    """Of the experiments of the submission, or of the last amendment: when they were made."""
    evidence: dict[str, Any]
    """The figures behind a stopped, cancelled or finished state."""
    gpu_hours: float
    """Held so far, failed attempts included."""
    cpu_hours: float
    half_widths: dict[str, float | None] | None
    """By arm, as the stopping rule last saw them; null without one."""


class StudyPage(WireModel):
    """Studies, newest first."""

    items: list[StudySummary]
    next_cursor: str | None


class StudyRunOut(WireModel):
    """One experiment of a study."""

    position: int
    arm: str
    sft_seed: int
    rl_seed: int
    experiment_id: str
    amendment: int | None
    """The number of the amendment that brought it."""
    status: ExperimentStatus
    end_reason: EndReason | None
    message: str
    waiting_reason: str | None
    started_at: datetime | None
    ended_at: datetime | None
    excluded_at: datetime | None
    excluded_by: str | None
    excluded_reason: str | None


class StudyRunPage(WireModel):
    """All runs of a study, in the order in which they were queued."""

    items: list[StudyRunOut]


class StudyPlanReply(WireModel):
    """A dry run: the study with its defaults, and what follows from it. Nothing was stored."""

    spec: StudySpec
    plan: StudyPlan

"""What is said of a specification's text before it is submitted. The client reads these too."""

from typing import Literal

from pydantic import Field, JsonValue

from service.contract.plan import ExperimentPlan
from service.contract.strict_model import StrictModel, WireModel
from service.contract.study_plan import StudyPlan


class SpecTextIn(StrictModel):
    """A specification as a person writes it."""

    text: str = Field(max_length=400_000)
    """YAML or JSON."""


class TextFinding(WireModel):
    """What is wrong, and where."""

    line: int
    """From 1."""
    field: str
    """Dotted path."""
    problem: str
    hint: str = ""


class TextPlace(WireModel):
    """Where a value stands in the text; lines and columns from 0."""

    kind: Literal["scalar", "block", "flow"]
    key_line: int
    line: int
    column: int
    end_line: int
    end_column: int


class StartOutlook(WireModel):
    """When it would start if it were submitted now."""

    place: int
    """In the queue, behind all who wait in its class; fair share may move it."""
    num_queued: int
    fits_now: bool | None
    """Whether what is free would hold it; None while the cluster is unknown."""
    words: str


class TextCheck(WireModel):
    """What the text means so far."""

    findings: list[TextFinding]
    """Empty: it can be submitted."""
    body: dict[str, JsonValue] | None
    """What is to be submitted; None where the text cannot be read."""
    places: dict[str, TextPlace]
    """By dotted path."""


class ExperimentCheck(TextCheck):
    """Of an experiment."""

    plan: ExperimentPlan | None
    """What follows from it; None with findings."""
    start: StartOutlook | None


class StudyCheck(TextCheck):
    """Of a study."""

    plan: StudyPlan | None


class SpecTemplate(WireModel):
    """Something to begin with."""

    name: str
    kind: Literal["experiment", "study"]
    title: str
    text: str
    """YAML, with comments."""

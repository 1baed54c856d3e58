"""Any set of experiments side by side: in groups, with means and intervals over seeds. Nothing of it is stored."""

from typing import Literal

from service.contract.metric_names import Better
from service.contract.stages import StageName
from service.contract.status import ExperimentStatus
from service.contract.strict_model import WireModel
from service.contract.study_report import Figure

MAX_EXPERIMENTS = 200
"""Of one comparison."""
MAX_METRICS = 12
"""Series of one comparison."""

ComparisonForm = Literal["json", "csv", "md"]


class ComparedExperiment(WireModel):
    """One of those that are compared."""

    id: str
    name: str
    project: str
    status: ExperimentStatus
    seed: int
    rl_seed: int
    group: str
    """Label of its group."""


class ComparedGroup(WireModel):
    """Experiments with the same values in what is grouped by."""

    label: str
    values: dict[str, str]
    """What it is grouped by, by dotted path."""
    experiment_ids: list[str]


class SpecDifference(WireModel):
    """A field of the specification in which the experiments differ."""

    path: str
    values: list[str]
    """In the order of the groups; several values in one group are joined by commas. `–`: there is no such field."""
    within_groups: bool
    """Whether it differs within a group too."""


class ResultRow(WireModel):
    """One metric of a finished stage, for every group."""

    stage: StageName
    metric: str
    unit: str
    better: Better
    meaning: str
    figures: list[Figure | None]
    """In the order of the groups; the interval is over seeds. None: no run of the group has it."""


class RunLine(WireModel):
    """One run behind a curve."""

    experiment_id: str
    steps: list[int]
    values: list[float | None]


class GroupCurve(WireModel):
    """A metric over steps: mean over the seeds of a group, at steps that all of its runs have reached."""

    group: str
    num_units: int
    num_runs: int
    steps: list[int]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]
    """Edges of the 95 % interval; null with one seed."""
    seconds: list[float] | None
    """Working time by then, of its stage; null where it is not known."""
    tokens: list[float] | None
    """Tokens trained by then; null where they were not counted."""
    runs: list[RunLine]


class MetricCurves(WireModel):
    """One metric of all groups that have it."""

    metric: str
    unit: str
    meaning: str
    curves: list[GroupCurve]


class Comparison(WireModel):
    """The whole comparison."""

    by: list[str]
    """What it is grouped by, as dotted paths; empty where all is one group."""
    fields: list[str]
    """What it could be grouped by: the fields in which the experiments differ."""
    experiments: list[ComparedExperiment]
    groups: list[ComparedGroup]
    differing: list[SpecDifference]
    warnings: list[str]
    """What stands against reading the figures side by side."""
    results: list[ResultRow]
    metrics: list[str]
    """All series that one of the experiments has."""
    curves: list[MetricCurves]
    """Of the metrics asked for."""

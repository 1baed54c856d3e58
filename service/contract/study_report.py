"""The report of a study: what its runs say about its question, how surely, at which cost, and how to run it again.

    StudyReport ──> parts: arms that may be compared ──> table, comparisons, diversity, associations, curves
              └───> costs, provenance

Every figure comes with the number of runs and of independent units (seeds) behind it; docs/study-report.md has the
formulas.
"""

from datetime import datetime
from typing import Literal

from service.contract.stages import EvaluationPoint
from service.contract.status import ExperimentStatus
from service.contract.strict_model import WireModel


class Figure(WireModel):
    """A mean and its interval; low and high are None where fewer than two units were run."""

    mean: float
    low: float | None = None
    high: float | None = None
    num_units: int
    """Independent seeds."""
    num_runs: int
    """Runs behind them: several RL seeds of one SFT are one unit."""

    @property
    def half_width(self) -> float | None:
        """For `mean ± half_width`."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class Column(WireModel):
    """What one column of the table measures."""

    key: str
    """The set's name, or `average`."""
    metric: str
    """With its k: `pass@1`, `avg@16`, `maj@16`."""
    num_prompts: int
    """Those that every run of the part has answered in full."""
    num_left_out: int = 0
    """Prompts of which some run has no judged answer; they count for nobody."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.key} {self.metric}"


class Cell(WireModel):
    """One arm's figure in one column."""

    figure: Figure | None
    """None where no run has it yet."""
    is_best: bool = False
    """The highest of its stage, and distinguishable from the second: what a table prints in bold."""


class Row(WireModel):
    """One arm at one point."""

    point: EvaluationPoint
    arm: str
    cells: list[Cell]
    """In the order of the columns."""
    source: str = ""
    """Where the figures come from, if not from runs of the study."""


class MainTable(WireModel):
    """Arms x evaluation sets, at every point."""

    columns: list[Column]
    rows: list[Row]


class ArmComparison(WireModel):
    """An arm against its baseline in one column."""

    arm: str
    baseline: str
    column: str
    """Key of the column."""
    metric: str
    point: EvaluationPoint
    """Asked for; an arm without that stage is taken at its last point before."""
    is_primary: bool
    """Whether the study was set up to decide by this one."""
    difference: Figure
    """Arm minus baseline; num_units are pairs of seeds, or the smaller arm's seeds where they are not paired."""
    p_value: float | None
    p_adjusted: float | None
    """By Holm over the arms of this column and point."""
    method: Literal["signs of pairs", "labels of units", "none"]
    is_distinguishable: bool | None
    """None where nothing can be said yet."""
    wanted_difference: float
    """The smallest one that matters, or the one that was seen."""
    further_seeds: int | None
    """Of each arm: so many more would show it in 4 of 5 studies. None if unknown, or if no number would."""
    sentence: str


class PassCurve(WireModel):
    """pass@k over k."""

    arm: str
    column: str
    point: EvaluationPoint
    ks: list[int]
    figures: list[Figure]


class DiversityRow(WireModel):
    """One metric of diversity at one point."""

    arm: str
    column: str
    point: EvaluationPoint
    metric: str
    unit: str
    figure: Figure


class Bounds(WireModel):
    """An estimate and its interval; None where it cannot be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


class RunPoint(WireModel):
    """One run in a scatter plot."""

    arm: str
    sft_seed: int
    rl_seed: int
    x: float
    y: float


class AssociationRow(WireModel):
    """How what RL made of a policy goes with what the policy was before, over all runs."""

    x: str
    """Metric of the policy that RL began with."""
    y: Literal["RL gain", "after RL"]
    """Of the study's primary metric."""
    num_runs: int
    num_clusters: int
    """Policies that RL began with."""
    pearson: Bounds
    spearman: Bounds
    slope: Bounds
    """Of y by x, in their units."""
    points: list[RunPoint]


class StepCurve(WireModel):
    """A metric over RL steps: the mean over an arm's units and its interval, and what the steps had cost by then."""

    arm: str
    metric: str
    num_units: int
    num_runs: int
    steps: list[int]
    """The last of each bin."""
    mean: list[float]
    low: list[float | None]
    high: list[float | None]
    updates: list[float]
    tokens: list[float]
    """Completion tokens trained."""
    gpu_hours: list[float]
    cpu_hours: list[float]


class Condition(WireModel):
    """Something that figures depend on, and that runs of the study do not agree in."""

    name: str
    values: list[str]
    """By part, in their order."""


class StudyPart(WireModel):
    """Arms that may stand in one table."""

    arms: list[str]
    num_runs: int
    conditions: dict[str, str]
    """What all of its runs agree in."""
    table: MainTable
    comparisons: list[ArmComparison]
    pass_curves: list[PassCurve]
    diversity: list[DiversityRow]
    associations: list[AssociationRow]
    step_curves: list[StepCurve]
    notes: list[str]
    """What a reader should know before trusting it."""


class PhaseCost(WireModel):
    """Of the results that an arm rests on, each stage once, wherever it was run."""

    phase: str
    """`sft`, `evaluation`, `rl`; `rl: generation` and the like are parts of `rl`, and may run at the same time."""
    wall_s: float
    gpu_s: float
    cpu_s: float


class ArmCost(WireModel):
    """What an arm took; all arms together for `arm` = `all`."""

    arm: str
    num_runs: int
    phases: list[PhaseCost]
    held_gpu_s: float
    """By the attempts of its own runs, from admission until the resources were free."""
    held_cpu_s: float
    wasted_gpu_s: float
    """Of it: runs that failed, were cancelled or excluded, and attempts that failed, without the stages they finished.
    What a checkpoint saved of a failed attempt is counted as wasted too."""
    wasted_cpu_s: float
    sft_tokens_trained: float
    rl_tokens_trained: float
    rl_tokens_generated: float
    evaluation_tokens_generated: float

    @property
    def wasted_share(self) -> float | None:
        """Of GPU-seconds, or of CPU-seconds where no GPU was held."""
        wasted, held = (self.wasted_gpu_s, self.held_gpu_s) if self.held_gpu_s else (self.wasted_cpu_s, self.held_cpu_s)
        return wasted / held if held else None


class LostRun(WireModel):
    """A run that counts for nothing, or not for all."""

    experiment_id: str
    arm: str
    sft_seed: int
    rl_seed: int
    why: Literal["excluded", "failed", "cancelled"]
    reason: str


class ReportedAmendment(WireModel):
    """A change of the study after it was submitted."""

    at: datetime
    by: str
    what: str
    reason: str


class KnownVersion(WireModel):
    """A digest or a version, and how many runs have it."""

    what: str
    """`workers (sha256)`, `vllm`, `sft data (sha256)` …"""
    value: str
    num_runs: int


class Provenance(WireModel):
    """Where the figures come from."""

    service_version: str
    lock_sha256: str | None
    """Of the service's requirements.lock; None where it was installed without."""
    spec_sha256: str
    """Of the specification as submitted."""
    versions: list[KnownVersion]
    amendments: list[ReportedAmendment]
    lost_runs: list[LostRun]
    reproduce: list[str]
    """Commands."""


class StudyReport(WireModel):
    """All of it."""

    study_id: str
    name: str
    project: str
    question: str
    made_at: datetime
    is_finished: bool
    runs_by_status: dict[ExperimentStatus, int]
    num_planned: int
    """Runs of the specification with its amendments."""
    state: str
    """In a sentence: how far it has come."""
    baseline: str
    primary: str
    """What decides, in words."""
    alpha: float
    answers: list[str]
    """The primary comparisons' sentences."""
    differing: list[Condition]
    """Why there are several parts; empty with one."""
    parts: list[StudyPart]
    costs: list[ArmCost]
    provenance: Provenance

"""What a comparison is computed from: plain facts of its experiments, read from the database by `reading`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.contract.stages import StageName
from service.contract.status import ExperimentStatus
from service.statistics.scores import Array
from service.study_report.facts import StepSeries


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which experiments; what is left out does not narrow the choice. At least one part is given."""

    ids: Sequence[str] = ()
    study: str | None = None
    """Its runs, without those that were taken out of its figures."""
    tag: str | None = None
    name: str | None = None
    """A part of the name, in any case."""
    project: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is chosen."""
        return not (self.ids or self.study or self.tag or self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How they are compared."""

    by: Sequence[str] | None = None
    """Dotted paths of the specification, or `arm`; None: by the arms of a study, else by all that differs but seeds."""
    metrics: Sequence[str] | None = None
    """Series; None: a few that say the most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedRun:
    """One experiment."""

    id: str
    name: str
    project: str
    status: ExperimentStatus
    seed: int
    rl_seed: int
    has_sft: bool
    spec: Mapping[str, Any]
    """With all defaults."""
    study_arm: str | None
    results: Mapping[StageName, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of the stages that are finished."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    training_data: Mapping[str, str] = field(default_factory=dict)
    series: Mapping[str, StepSeries] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """What tells it apart where figures were not measured alike."""
        return self.id

    @property
    def has_ended_badly(self) -> bool:
        """Whether it will never have all of its figures."""
        return self.status in (ExperimentStatus.FAILED, ExperimentStatus.CANCELLED)

    def seeds_of(self, stage: StageName | None) -> tuple[int | None, int | None]:
        """SFT and RL seed whose chance a figure of the stage has; None: of RL or what comes behind it."""
        if stage in ("sft", "evaluate_after_sft", "evaluate_base"):
            return self.seed, None
        return self.seed if self.has_sft else None, self.rl_seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Runs with the same values in what is grouped by."""

    label: str
    values: Mapping[str, str]
    runs: Sequence[ComparedRun]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BinnedRun:
    """One run on a group's common steps."""

    run: ComparedRun
    values_B: Array
    seconds_B: Array | None
    tokens_B: Array | None

"""What the API answers about an experiment's specification and where the experiment comes from."""

from typing import Any, Literal

from service.contract.stages import StageName
from service.contract.strict_model import WireModel

Relation = Literal["chosen", "cloned_from", "baseline"]


class ComparedWith(WireModel):
    """The experiment that a specification is compared with, and why."""

    experiment_id: str
    name: str
    relation: Relation


class SpecChange(WireModel):
    """A setting that differs; a side that does not have it has null there."""

    path: str
    """Dotted, as in the specification: `sft.optimizer.learning_rate`."""
    before: Any
    """In the experiment that it is compared with."""
    after: Any


class SpecificationOut(WireModel):
    """An experiment's specification: as it came, as it runs, and what differs from another one's."""

    experiment_id: str
    submitted: dict[str, Any] | None
    """Word for word; null for an experiment of a study, and from before submissions were kept."""
    chosen: dict[str, Any]
    """What differs from the defaults: the shortest specification that means the same."""
    resolved: dict[str, Any]
    """With every default."""
    defaults: list[str]
    """Dotted paths of what stands at its default."""
    against: ComparedWith | None
    changes: list[SpecChange]
    """Empty where nothing differs, and without an experiment to compare with."""


class RelatedExperiment(WireModel):
    """Another experiment that this one has to do with."""

    experiment_id: str
    name: str
    """Empty if it is gone."""
    stage: StageName | None = None
    """The stage that was taken over, if that is what binds them."""


class DataDigest(WireModel):
    """What a finished stage was made from."""

    stage: StageName
    what: str
    """`data_sha256`, `tokenizer_sha256`, `template_sha256`, `lineage_sha256`, `prompts_sha256`."""
    sha256: str


class StudyMembership(WireModel):
    """The experiment's place in a study."""

    study_id: str
    study_name: str
    arm: str
    sft_seed: int
    rl_seed: int
    baseline: str
    baseline_id: str | None
    """The baseline's experiment with the same seeds; null for the baseline itself."""


class Lineage(WireModel):
    """Where an experiment comes from, and what was made of it."""

    experiment_id: str
    cloned_from: RelatedExperiment | None
    copies: list[RelatedExperiment]
    study: StudyMembership | None
    taken_from: list[RelatedExperiment]
    """Whose stages this one took over."""
    taken_by: list[RelatedExperiment]
    """Who took over stages of this one."""
    data: list[DataDigest]
    code: dict[str, str]
    """Digest of the workers' sources and versions of libraries, of the newest stage that tells them."""

"""What all stages of one attempt share."""

from dataclasses import dataclass, field
from typing import Any

from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from workers.stages.roles import Engine, LoadPrompts, Reports, Trainer, WeightSync


@dataclass(slots=True, kw_only=True)
class PolicyVersions:
    """Who holds which weights. The base model is version 0, and each time the policy has changed makes one more.

    SFT as a whole counts once, each reinforcement learning step once; so a version names the same weights in a resumed
    run as in one that was never interrupted.
    """

    trainer: int = 0
    engine: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """The seams of a stage, and the little state that outlives it."""

    spec: ExperimentSpec
    output_dir: str
    trainer: Trainer
    engine: Engine
    sync_weights: WeightSync
    reports: Reports
    load_prompts: LoadPrompts
    versions: PolicyVersions = field(default_factory=PolicyVersions)

    def checkpoint_root(self, stage: StageName) -> str:
        """Where the stage's checkpoints lie; shared by the experiment's attempts."""
        return f"{self.output_dir.rstrip('/')}/checkpoints/{stage}"

    def model_folder(self, stage: StageName) -> str:
        """Where the stage's final model is exported to."""
        return f"{self.output_dir.rstrip('/')}/models/{stage}"

    @property
    def num_sft_versions(self) -> int:
        """The version of the policy with which reinforcement learning begins."""
        return 1 if self.spec.sft else 0

    def bring_engine_up_to_date(self) -> bool:
        """Give the engine the trainer's weights if it has others; says whether it had."""
        if self.versions.engine == self.versions.trainer:
            return False
        self.sync_weights(self.versions.trainer)
        self.versions.engine = self.versions.trainer
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """What a stage hands back; the driver adds the times."""

    steps_done: int
    """All steps of the stage, those of earlier attempts included."""
    steps_planned: int
    metrics: dict[str, float]
    """Final values by metric name."""
    checkpoint: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

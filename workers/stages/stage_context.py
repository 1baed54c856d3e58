"""What all stages of one attempt share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.contract.messages import ReusedStage
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from workers.checkpoints import verify_checkpoint
from workers.code_version import code_facts
from workers.reporter.give_way import GiveWay
from workers.stages.roles import Engine, LoadPrompts, Reports, Trainer, WeightSync
from workers.stages.run_check import RunCheck

NO_WEIGHTS = -1
"""The version of an engine that has dropped its weights."""


@dataclass(slots=True, kw_only=True)
class PolicyVersions:
    """Who holds which weights: numbers that follow from the specification, not from what an attempt happened to do.

    The base model is 0. Then each step of SFT after which a set is sampled counts one, the end of SFT one, and each
    reinforcement learning step one. So a version names the same weights in a resumed run as in one that was never
    interrupted.
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
    check: RunCheck
    """Raises when the run must end now; called in every wait, those of the seams included."""
    versions: PolicyVersions = field(default_factory=PolicyVersions)
    give_way: GiveWay = field(default_factory=GiveWay)
    """Whether the service wants the run to stop for another experiment; training stages stop between two steps."""
    reused: Mapping[StageName, ReusedStage] = field(default_factory=dict)
    """Stages that another experiment has run, with the place of what it left."""
    code: Mapping[str, str] = field(default_factory=code_facts)
    """Which code runs here."""
    verify_checkpoint: Callable[[str], None] = verify_checkpoint
    """Reads a checkpoint that was just written; raises DamagedCheckpoint."""

    def checkpoint_root(self, stage: StageName) -> str:
        """Where the stage's checkpoints lie; shared by the experiment's attempts."""
        return f"{self.output_dir.rstrip('/')}/checkpoints/{stage}"

    def model_folder(self, stage: StageName) -> str:
        """Where the stage's final model is exported to."""
        return f"{self.output_dir.rstrip('/')}/models/{stage}"

    def evaluation_folder(self, stage: StageName) -> str:
        """Where the results of evaluations within a stage lie; shared by the experiment's attempts."""
        return f"{self.output_dir.rstrip('/')}/evaluations/{stage}"

    @property
    def sampled_sft_steps(self) -> list[int]:
        """Optimizer steps of SFT after which the evaluation's set is sampled, rising."""
        return self.spec.evaluation.sft_steps if self.spec.evaluation else []

    @property
    def num_sft_versions(self) -> int:
        """The version of the policy with which SFT ends and reinforcement learning begins."""
        return len(self.sampled_sft_steps) + 1 if self.spec.sft else 0

    def policy_version(self, stage: Literal["sft", "rl"], step: int) -> int:
        """The version of the policy after one of the `sampled_sft_steps`, or after any step of RL."""
        return self.sampled_sft_steps.index(step) + 1 if stage == "sft" else self.num_sft_versions + step

    def bring_engine_up_to_date(self) -> Mapping[str, float]:
        """Give the engine the trainer's weights if it has others; returns what that took, by metric name."""
        if self.versions.engine == self.versions.trainer:
            return {}
        metrics = self.sync_weights(self.versions.trainer)
        self.versions.engine = self.versions.trainer
        return metrics


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

"""`ExperimentSpec`: what a person submits. Everything that a run depends on stands here."""

from hashlib import sha256
from typing import Literal, Self

from pydantic import Field, model_validator

from service.contract.access import PROJECT_NAME
from service.contract.data import ChatSpec
from service.contract.evaluation import EvaluationSet, EvaluationSpec
from service.contract.mirrors import MirrorSpec
from service.contract.resources import ResourcesSpec
from service.contract.scheduling import PREEMPTIBLE_CLASSES, SchedulingSpec
from service.contract.sentinels import Sentinel, default_sentinels
from service.contract.stages import RlSpec, SftSpec, StageName
from service.contract.stall import StallSpec
from service.contract.strict_model import StrictModel
from service.contract.weight_sync import WeightSyncSpec

PriorityName = Literal["urgent", "high", "normal", "low", "backfill"]
PRIORITY_RANK: dict[PriorityName, int] = {"urgent": 0, "high": 1, "normal": 2, "low": 3, "backfill": 4}


class LoraSpec(StrictModel):
    """Low-rank adapters (LoRA, arXiv 2106.09685) are trained, and the base model's own weights stay as they are."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0.0, allow_inf_nan=False)
    """The adapters' product is scaled by alpha / rank."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Names of linear layers, such as `q_proj`; `all-linear` is every one but the output layer."""


class ModelSpec(StrictModel):
    """A Hugging Face causal language model in a folder: config, safetensors and tokenizer."""

    path: str = Field(min_length=1)
    """A folder that the service and the workers can read."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: int = Field(default=2048, ge=2)
    """Tokens of prompt and completion that the rollout engine accepts."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input in the forward pass and compute the rest again in the backward pass: less memory,
    about a third more time, the same gradient."""
    lora: LoraSpec | None = None
    """Train adapters instead of the weights, in both stages."""


class ExperimentSpec(StrictModel):
    """One experiment: a base model, an optional SFT stage, an optional RL stage, and the evaluations around them."""

    name: str = Field(min_length=1, max_length=120)
    project: str = Field(default="default", pattern=PROJECT_NAME)
    description: str = Field(default="", max_length=4000)
    tags: list[str] = Field(default=[], max_length=32)
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: ModelSpec
    sft: SftSpec | None = None
    rl: RlSpec | None = None
    evaluation: EvaluationSpec | None = None
    resources: ResourcesSpec = ResourcesSpec()
    stall: StallSpec = StallSpec()
    priority: PriorityName = "normal"
    max_runtime_s: int = Field(default=4 * 3600, ge=30)
    """Wall time of one attempt, counted from its submission to Ray; beyond it the attempt is stopped."""
    no_progress_timeout_s: int | None = Field(default=2 * 3600, ge=30)
    """Longest time without a step, another phase or another stage; then the attempt is ended as hung, and tried again.
    Without a number nothing but `max_runtime_s` ends a run that reports and stands still."""
    sentinels: list[Sentinel] = Field(default_factory=default_sentinels, max_length=64)
    """Limits on the run's own metrics; each raises an alert, holds the run, or stops it."""
    max_retries: int = Field(default=2, ge=0, le=20)
    """Further attempts after failures of the infrastructure, for each kind of them (a node, the engine, a job that was
    lost); counted anew after an hour of work that lasts. A failure of the experiment itself is never retried, and room
    made for others or waited for is no failure."""
    scheduling: SchedulingSpec = SchedulingSpec()
    mirrors: list[MirrorSpec] = Field(default=[], max_length=8)
    """Other trackers that the run is shown in; none of them can slow or fail it."""
    reuse: Literal["auto", "never"] = "auto"
    """Whether stages that another experiment of the project has run already, equal in all that determines their result,
    are taken from it instead of being run again."""

    @property
    def is_preemptible(self) -> bool:
        """Whether an experiment of a higher class may stop this one for a while."""
        chosen = self.scheduling.preemptible
        return self.priority in PREEMPTIBLE_CLASSES if chosen is None else chosen

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        if self.sft is None and self.rl is None and self.evaluation is None:
            raise ValueError("nothing to do: give at least one of sft, rl, evaluation")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        for stage, length in (
            ("rl", self.rl.max_completion_length if self.rl else 0),
            *((where, one.max_completion_length) for where, one in self.evaluation_sets().items()),
        ):
            if length >= self.model.max_model_len:
                raise ValueError(
                    f"{stage}.max_completion_length {length} leaves no room for a prompt in model.max_model_len "
                    f"{self.model.max_model_len}"
                )
        return self

    @model_validator(mode="after")
    def _reference_fits_the_model(self) -> Self:
        if self.rl and self.rl.kl_reference == "adapters_off" and self.model.lora is None:
            raise ValueError("rl.kl_reference 'adapters_off' needs model.lora: without adapters, take 'start'")
        return self

    @model_validator(mode="after")
    def _sampled_steps_need_their_stage(self) -> Self:
        if self.evaluation and self.evaluation.sft_steps and self.sft is None:
            raise ValueError("evaluation.sft_steps: there is no sft stage whose steps they could be")
        if self.evaluation and self.evaluation.rl_eval_steps and self.rl is None:
            raise ValueError("evaluation.rl_eval_steps: there is no rl stage whose steps they could be")
        return self

    @model_validator(mode="after")
    def _turns_exclude_working_ahead(self) -> Self:
        if self.rl and self.rl.mode == "async" and self.resources.placement == "colocated":
            raise ValueError(
                "resources.placement 'colocated' lets trainer and engines work by turns, and rl.mode 'async' lets them "
                "work at the same time; set the placement to 'disaggregated' or the mode to 'sync'"
            )
        return self

    @model_validator(mode="after")
    def _nccl_needs_gpus(self) -> Self:
        roles = {"trainer": self.resources.trainer.num_gpus, "rollout": self.resources.rollout.num_gpus}
        without = [f"resources.{role}.num_gpus" for role, num_gpus in roles.items() if num_gpus < 1]
        if self.weight_sync.transport == "nccl" and without:
            raise ValueError(
                f"rl.weight_sync.transport 'nccl' moves weights between GPUs that nobody else uses, but "
                f"{' and '.join(without)} is below 1; give both roles whole GPUs or take 'auto'"
            )
        return self

    @property
    def held_resources(self) -> ResourcesSpec:
        """What an attempt holds of the cluster: `resources`, without rollout engines where nothing asks them."""
        return self.resources if self.rl or self.evaluation else self.resources.without_engines()

    @property
    def rl_seed(self) -> int:
        """From which RL draws all its chance."""
        return self.seed if self.rl is None or self.rl.seed is None else self.rl.seed

    @property
    def weight_sync(self) -> WeightSyncSpec:
        """The settings of every weight sync, whichever stage asks for it."""
        return self.rl.weight_sync if self.rl else WeightSyncSpec()

    def stage_names(self) -> list[StageName]:
        """The stages in the order in which they run.

        The base model is evaluated after SFT has trained: the rollout engine, which still holds the base weights then,
        starts while the trainer is at work. Where the set is sampled during SFT, the engine's weights change on the
        way, so the base model comes first.
        """
        points = self.evaluation.points if self.evaluation else []
        base_first = self.evaluation is not None and bool(self.evaluation.sft_steps)
        stages: list[tuple[StageName, bool]] = [
            ("evaluate_base", "base" in points and base_first),
            ("sft", self.sft is not None),
            ("evaluate_base", "base" in points and not base_first),
            ("evaluate_after_sft", "after_sft" in points and self.sft is not None),
            ("rl", self.rl is not None),
            ("evaluate_after_rl", "after_rl" in points and self.rl is not None),
        ]
        return [name for name, wanted in stages if wanted]

    def evaluation_sets(self) -> dict[str, EvaluationSet]:
        """The sets by where they stand: `evaluation`, then `evaluation.further_sets.0`, …; none without evaluations."""
        sets = self.evaluation.sets if self.evaluation else []
        return {
            "evaluation" if number == 0 else f"evaluation.further_sets.{number - 1}": one
            for number, one in enumerate(sets)
        }

    def chats(self) -> tuple[ChatSpec, ...]:
        """The chats of all data, each once: what ends an assistant's turn in one of them ends a completion."""
        stages = (self.sft, self.rl, *self.evaluation_sets().values())
        chats = (stage.data.chat_in_effect for stage in stages if stage is not None)
        return tuple({chat.model_dump_json(): chat for chat in chats if chat is not None}.values())

    def canonical_json(self) -> str:
        """The specification with all defaults filled in, keys sorted by the model's own order."""
        return self.model_dump_json()

    def sha256(self) -> str:
        """Digest of the canonical form, used to recognise a Ray job as this experiment's."""
        return sha256(self.canonical_json().encode()).hexdigest()

"""The stages of one experiment: supervised fine-tuning, reinforcement learning, and the evaluations around them."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from service.contract.data import PromptData, SupervisedData
from service.contract.gate import GateSpec
from service.contract.memory_sizes import MICROBATCH_TOKENS_ON_CPU
from service.contract.objectives import CrossEntropyObjective, ObjectiveSpec
from service.contract.rewards import RewardSpec
from service.contract.rl import (
    REWARD_SCALES,
    AdvantageEstimator,
    DynamicSampling,
    KlEstimator,
    KlReference,
    LossAggregation,
    OverlongBuffer,
    PolicyLossName,
    PresetName,
    RewardScale,
    RolloutCorrection,
    RolloutMode,
    with_defaults,
)
from service.contract.strict_model import StrictModel
from service.contract.weight_sync import WeightSyncSpec

EvaluationPoint = Literal["base", "after_sft", "after_rl"]
StageName = Literal["sft", "evaluate_base", "evaluate_after_sft", "rl", "evaluate_after_rl"]


class OptimizerSpec(StrictModel):
    """AdamW with gradient clipping."""

    learning_rate: float = Field(ge=0.0, allow_inf_nan=False)
    lr_schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    """Shape after the warm-up; all but `constant` end at 0 with the last planned step. `wsd` (warm-up, stable, decay)
    stays at the full rate and falls linearly at the end."""
    warmup_ratio: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the planned steps in which the rate rises linearly from 0."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """The same as a number of steps; give one of the two."""
    decay_ratio: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the planned steps in which `wsd` falls, 0.1 if left out; other schedules have none."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    adam_beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    adam_beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    adam_epsilon: float = Field(default=1e-8, gt=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)

    @model_validator(mode="after")
    def _schedule_settings_fit(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and warmup_ratio {self.warmup_ratio:g} both say how long the "
                "warm-up lasts; leave one out"
            )
        if self.lr_schedule != "wsd" and self.decay_ratio is not None:
            raise ValueError(f"decay_ratio only means something with lr_schedule 'wsd', not {self.lr_schedule!r}")
        return self


BestMetric = Literal["sft/eval/nll", "sft/eval/mean_token_accuracy"]


class SftSpec(StrictModel):
    """Supervised fine-tuning on the completion tokens."""

    data: SupervisedData
    objective: ObjectiveSpec = CrossEntropyObjective()
    optimizer: OptimizerSpec
    num_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Sequences per optimizer step. The last, smaller batch of an epoch is trained too."""
    max_tokens_per_microbatch: int | None = Field(default=None, ge=1)
    """Tokens of one forward and backward pass on one rank, padding included. Changes memory and speed, never the
    gradient. Left out: 8,192 on a GPU; 2,048 without one, whose caches hold no more."""
    packing: bool = False
    """Put the sequences of a micro-batch end to end instead of padding them. No token sees another sequence's."""
    max_length: int = Field(default=2048, ge=2)
    """Tokens of prompt and completion together, end-of-sequence included."""
    overlong: Literal["error", "drop", "truncate"] = "error"
    """What happens to samples beyond `max_length`; dropped and truncated ones are counted in the stage's result.
    A truncated sample loses its end, and with it the end-of-sequence token."""
    max_overlong_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    """A larger share of samples beyond `max_length` is refused, whatever `overlong` says."""
    neftune_alpha: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Uniform noise of alpha / sqrt(L d) on the input embeddings while training (NEFTune, arXiv 2310.05914).

    L is the sequence's own length, without padding, and d the embeddings' width. The paper's alpha is 5.
    """
    save_steps: int = Field(default=100, ge=1)
    save_total_limit: int = Field(default=2, ge=2)
    """Newest checkpoints kept during the stage; two at least, in case the newest turns out damaged."""
    eval_data: SupervisedData | None = None
    """Held-out samples; instead of them `holdout_fraction` may take some from `data`."""
    holdout_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of `data` that is not trained but held out. The hash of a record's prompt decides, so that equal prompts
    stay together and further records move none of the present ones."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two measurements on the held-out samples; left out: before the first and after the last
    step only."""
    num_eval_samples: int | None = Field(default=256, ge=1)
    """The first so many held-out samples are measured; None: all."""
    num_token_view_samples: int = Field(default=8, ge=0, le=64)
    """Held-out samples whose tokens are stored one by one, to be looked at."""
    best_metric: BestMetric = "sft/eval/nll"
    """What makes a checkpoint a good one; measured on the held-out samples."""
    num_best_checkpoints: int = Field(default=0, ge=0)
    """Best checkpoints kept beside the newest. A checkpoint is measured when it is saved."""
    export: Literal["last", "best"] = "last"
    """With which checkpoint's weights the stage ends."""

    def microbatch_tokens(self, *, on_gpu: bool) -> int:
        """The budget of a pass in effect."""
        return self.max_tokens_per_microbatch or (8192 if on_gpu else MICROBATCH_TOKENS_ON_CPU)

    @property
    def has_held_out(self) -> bool:
        """Whether there are samples to measure on."""
        return self.eval_data is not None or self.holdout_fraction > 0.0

    @model_validator(mode="after")
    def _held_out_settings_fit(self) -> Self:
        if self.eval_data is not None and self.holdout_fraction:
            raise ValueError("eval_data and holdout_fraction both say what is held out; leave one out")
        if not self.has_held_out:
            needy = [
                name
                for name, wanted in (
                    ("eval_steps", self.eval_steps is not None),
                    ("num_best_checkpoints", self.num_best_checkpoints > 0),
                    ("export 'best'", self.export == "best"),
                )
                if wanted
            ]
            if needy:
                raise ValueError(f"{', '.join(needy)}: needs held-out samples; give eval_data or holdout_fraction")
        if self.export == "best" and self.num_best_checkpoints == 0:
            raise ValueError("export 'best' needs a best checkpoint that is kept; set num_best_checkpoints to 1")
        return self


class RlSpec(StrictModel):
    """GRPO (arXiv 2402.03300) and its kin, in step with the rollouts or behind them."""

    preset: PresetName | None = None
    """Fills what is left out with a whole algorithm's settings."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Of the prompts' order, the rollouts, the gate and the mini-batches. Left out: the experiment's. With one of its
    own several runs of RL go on from one SFT, which is run once."""
    data: PromptData
    reward: RewardSpec
    optimizer: OptimizerSpec
    mode: RolloutMode = "sync"
    """`sync`: a step's rollouts are made by the policy that is trained on them, with the trainer waiting.
    `async`: the next steps' rollouts are made while the trainer works, and weights are updated under them."""
    max_staleness: int | None = Field(default=None, ge=1)
    """Of `async`: how many versions older than the trained policy the policy of a token may be, and so how many steps
    the rollouts may be ahead. Left out: 1."""
    num_steps: int = Field(ge=1)
    """Rounds of rollouts, training and weight sync."""
    num_prompts_per_step: int = Field(ge=1)
    num_generations: int = Field(ge=2)
    """Completions per prompt, the group."""
    mini_batch_size: int | None = Field(default=None, ge=1)
    """Sequences per optimizer update; must divide prompts x generations. Left out: one update per step."""
    num_iterations: int = Field(default=1, ge=1)
    """Passes over the same rollouts."""
    max_tokens_per_microbatch: int | None = Field(default=None, ge=1)
    """As for SFT. Left out: 16,384 on a GPU, 2,048 without one."""
    adv_estimator: AdvantageEstimator = "grpo"
    """How rewards become advantages; docs/rl.md has the formulas."""
    adv_k: int | None = Field(default=None, ge=1)
    """The k of `pass_at_k`, below num_generations; other estimators have none."""
    scale_rewards: RewardScale = "group"
    """What the centred reward is divided by: the standard deviation of the `group`'s rewards, of the `batch`'s, or
    nothing. Left out: what the estimator's authors do."""
    policy_loss: PolicyLossName = "ppo_clip"
    loss_agg_mode: LossAggregation = "token-mean"
    """How the tokens' losses are weighed; every denominator is that of the whole optimizer update."""
    epsilon_low: float = Field(default=0.2, gt=0.0, le=1.0)
    """1 means no lower bound."""
    epsilon_high: float = Field(default=0.28, gt=0.0, allow_inf_nan=False)
    delta: float | None = Field(default=None, gt=1.0, allow_inf_nan=False)
    """Dual clip: with a negative advantage the ratio counts up to this (arXiv 1912.09729). Left out: no bound."""
    beta: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """Factor of the KL divergence from the reference, in the loss; 0 holds none."""
    kl_reference: KlReference = "start"
    """`start`: the policy with which the stage began, a copy of what is trained. `adapters_off`: the model without its
    adapters, which needs no copy; after SFT that is not the policy with which the stage began."""
    kl_estimator: KlEstimator = "k3"
    """For `beta`. Of k1 the value counts and the gradient is that of k2, since its own is 0 in expectation."""
    entropy_coef: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """Factor of the next-token distribution's entropy, subtracted from the loss."""
    rollout_correction: RolloutCorrection = RolloutCorrection()
    mask_truncated_completions: bool = False
    """Completions cut at `max_completion_length` count for their group's advantages but are not trained."""
    overlong_buffer: OverlongBuffer | None = None
    dynamic_sampling: DynamicSampling = DynamicSampling()
    temperature: float = Field(default=1.0, gt=0.0)
    max_completion_length: int = Field(ge=1)
    save_steps: int = Field(default=50, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    """Newest checkpoints kept during the stage."""
    rollout_store_steps: int | None = Field(default=None, ge=1)
    """Steps between two whose rollouts are stored as Parquet in the experiment's folder, 1 for all; left out: none."""
    rollout_sample_size: int = Field(default=32, ge=0, le=4096)
    """Completions of every step that are stored beside them, of all rewards, lengths and ages; 0: none."""
    gate: GateSpec | None = None
    """What the policy must show before the first step; left out: nothing."""
    weight_sync: WeightSyncSpec = WeightSyncSpec()

    @property
    def num_steps_ahead(self) -> int:
        """Steps that the rollouts may be ahead of the trainer: 0 in step."""
        return self.max_staleness or 0

    def microbatch_tokens(self, *, on_gpu: bool) -> int:
        """The budget of a pass in effect."""
        return self.max_tokens_per_microbatch or (16384 if on_gpu else MICROBATCH_TOKENS_ON_CPU)

    @property
    def num_samples_per_step(self) -> int:
        """Sequences generated and trained in one step."""
        return self.num_prompts_per_step * self.num_generations

    @property
    def num_sequences_per_update(self) -> int:
        """Sequences behind one optimizer update."""
        return self.mini_batch_size or self.num_samples_per_step

    @model_validator(mode="before")
    @classmethod
    def _fill_what_is_left_out(cls, body: Any) -> Any:
        return with_defaults(body) if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _staleness_fits_the_mode(self) -> Self:
        if self.mode == "sync" and self.max_staleness is not None:
            raise ValueError(
                f"max_staleness {self.max_staleness} only means something with mode 'async': in step, every rollout is "
                "made by the policy that is trained; leave it out or set the mode"
            )
        return self

    @model_validator(mode="after")
    def _estimator_settings_fit(self) -> Self:
        scales = REWARD_SCALES[self.adv_estimator]
        if self.scale_rewards not in scales:
            raise ValueError(
                f"scale_rewards {self.scale_rewards!r} does not go with adv_estimator {self.adv_estimator!r}, which "
                f"takes {' or '.join(repr(scale) for scale in scales)}; change one of them or leave scale_rewards out"
            )
        if (self.adv_estimator == "pass_at_k") != (self.adv_k is not None):
            raise ValueError("adv_k belongs to adv_estimator 'pass_at_k', which cannot do without; give both or none")
        if self.adv_k is not None and self.adv_k >= self.num_generations:
            raise ValueError(
                f"adv_k {self.adv_k} must lie below num_generations {self.num_generations}: advantages come from "
                "comparing different choices of k completions"
            )
        return self

    @model_validator(mode="after")
    def _loss_settings_fit(self) -> Self:
        if self.delta is not None and self.policy_loss != "ppo_clip":
            raise ValueError(f"delta only means something with policy_loss 'ppo_clip', not {self.policy_loss!r}")
        if self.delta is not None and self.delta <= 1.0 + self.epsilon_high:
            raise ValueError(
                f"delta {self.delta:g} must lie above 1 + epsilon_high ({1.0 + self.epsilon_high:g}): below it, it "
                "would clip what epsilon_high lets pass"
            )
        if self.kl_reference != "start" and not self.beta:
            raise ValueError(f"kl_reference {self.kl_reference!r} only means something with beta above 0")
        if self.overlong_buffer and self.overlong_buffer.len > self.max_completion_length:
            raise ValueError(
                f"overlong_buffer.len {self.overlong_buffer.len} exceeds max_completion_length "
                f"{self.max_completion_length}: it is the last part of it"
            )
        return self

    @model_validator(mode="after")
    def _mini_batches_divide(self) -> Self:
        if self.num_samples_per_step % self.num_sequences_per_update:
            raise ValueError(
                f"mini_batch_size {self.mini_batch_size} does not divide the {self.num_samples_per_step} samples of a "
                f"step (num_prompts_per_step {self.num_prompts_per_step} x num_generations {self.num_generations}); "
                "choose a divisor of it or leave mini_batch_size out"
            )
        return self

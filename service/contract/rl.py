"""What an algorithm of reinforcement learning is made of, and the presets that stand for a whole one.

A preset fills what the user left out. What a user wrote beside it stays and stands in the resolved specification; the
dry run names what differs from the preset.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel

AdvantageEstimator = Literal[
    "grpo", "dr_grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "pass_at_k"
]
RewardScale = Literal["group", "batch", "none"]
PolicyLossName = Literal["ppo_clip", "gspo", "cispo", "reinforce"]
LossAggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
KlEstimator = Literal["k1", "k2", "k3"]
KlReference = Literal["start", "adapters_off"]
PresetName = Literal["grpo", "dapo", "dr_grpo", "sed_paper"]
RolloutMode = Literal["sync", "async"]

ASYNC_DEFAULTS: Mapping[str, Any] = {"max_staleness": 1, "rollout_correction": {"mode": "token_truncate"}}
"""What the mode `async` stands for where nothing is said.

Most of what asynchrony gains comes with one step. Completions of older policies need importance weights; truncated ones
lose no token, and one ratio a token does not vanish with the length, as the product over a sequence does (TIS).
"""

REWARD_SCALES: Mapping[str, tuple[RewardScale, ...]] = {
    "grpo": ("group", "batch", "none"),
    "dr_grpo": ("none",),
    "rloo": ("none",),
    "reinforce_plus_plus": ("batch",),
    "reinforce_plus_plus_baseline": ("batch",),
    "pass_at_k": ("group", "none"),
}
"""What each estimator can divide by; the first is what it does when nothing is said."""


class RolloutCorrection(StrictModel):
    """Weights for what the rollout engine sampled with a slightly other distribution than the trainer computes.

    The ratio of a token is trainer before the step's first update over engine. Masked tokens stay in the denominators.
    """

    mode: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "none"
    """`truncate` caps the ratio at `max`; `mask` gives ratios outside [min, max] the weight 0."""
    aggregate: Literal["sum", "mean"] = "sum"
    """Of a sequence's log-ratios: `sum` is the ratio of the sequences, `mean` its geometric mean per token."""
    max: float = Field(default=3.0, gt=0.0, allow_inf_nan=False)
    min: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min {self.min:g} must lie below max {self.max:g}")
        if self.min and not self.mode.endswith("_mask"):
            raise ValueError(f"min {self.min:g} only means something with a mask, not with mode {self.mode!r}")
        if self.aggregate == "mean" and not self.mode.startswith("sequence_"):
            raise ValueError(f"aggregate 'mean' only means something with a sequence mode, not with {self.mode!r}")
        return self


class OverlongBuffer(StrictModel):
    """Soft punishment of long completions (DAPO, arXiv 2503.14476).

    The last `len` tokens before `max_completion_length` cost up to `penalty_factor` of the reward, linearly.
    """

    len: int = Field(ge=1)
    penalty_factor: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)


class DynamicSampling(StrictModel):
    """What happens to groups whose completions all get the same training signal: none (DAPO, arXiv 2503.14476)."""

    mode: Literal["none", "filter", "replace"] = "none"
    """`filter` generates for further prompts until the step has enough groups with a signal, `replace` puts copies of
    the step's own groups with a signal in their place."""
    max_gen_batches: int = Field(default=1, ge=1)
    """With `filter`, the generations of a step at most; what is still missing then is filled with groups without."""

    @model_validator(mode="after")
    def _cap_fits(self) -> Self:
        if (self.mode == "filter") != (self.max_gen_batches > 1):
            raise ValueError(
                f"mode {self.mode!r} with max_gen_batches {self.max_gen_batches}: 'filter' needs at least 2 to find "
                "further groups, and no other mode generates twice"
            )
        return self


def with_defaults(body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an RL stage as written, completed by its preset, its mode and what its estimator divides by."""
    filled = _without_unset(body)
    for defaults in (_preset_values(filled), _mode_values(filled)):
        for key, value in defaults.items():
            filled[key] = _completed(filled[key], value) if key in filled else value
    estimator = filled.get("adv_estimator", "grpo")
    scales = REWARD_SCALES.get(estimator) if isinstance(estimator, str) else None
    # What nobody wrote gives way to an estimator that somebody wrote beside the preset.
    if scales and "scale_rewards" not in body and filled.get("scale_rewards") not in scales:
        filled["scale_rewards"] = scales[0]
    return filled


def preset_differences(settings: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Where a stage's settings are not those of its preset: name, value, and the preset's value."""
    for key, wanted in _flat(_preset_values(settings)):
        found: Any = settings
        for part in key.split("."):
            found = None if found is None else found[part]
        if found != wanted:
            yield key, found, wanted


def _mode_values(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return ASYNC_DEFAULTS if body.get("mode") == "async" else {}


def _without_unset(body: Mapping[str, Any]) -> dict[str, Any]:
    """An empty bound is the same as none at all."""
    return {key: value for key, value in body.items() if key != "max_staleness" or value is not None}


def _completed(given: Any, preset: Any) -> Any:
    """A part that the user wrote only some of gets the rest from the preset."""
    return {**preset, **given} if isinstance(given, Mapping) and isinstance(preset, Mapping) else given


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


_CLIPPED: Mapping[str, Any] = {"policy_loss": "ppo_clip", "epsilon_low": 0.2, "beta": 0.0, "entropy_coef": 0.0}


def _preset_values(body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the body's preset stands for; none without one.

    grpo       arXiv 2402.03300 as verl and TRL run it today: no KL, token mean
    dapo       arXiv 2503.14476; lengths follow from `max_completion_length` in the paper's proportion of one fifth
    dr_grpo    arXiv 2503.20783
    sed_paper  the settings that the authors of SED-SFT (arXiv 2602.07464) release for their RL on mathematics
    """
    match body.get("preset"):
        case "grpo":
            return {
                **_CLIPPED,
                "adv_estimator": "grpo",
                "scale_rewards": "group",
                "loss_agg_mode": "token-mean",
                "epsilon_high": 0.2,
            }
        case "dapo":
            return {
                **_CLIPPED,
                "adv_estimator": "grpo",
                "scale_rewards": "group",
                "loss_agg_mode": "token-mean",
                "epsilon_high": 0.28,
                "dynamic_sampling": {"mode": "filter", "max_gen_batches": 10},
                **_dapo_buffer(body.get("max_completion_length")),
            }
        case "dr_grpo":
            return {
                **_CLIPPED,
                "adv_estimator": "dr_grpo",
                "scale_rewards": "none",
                "loss_agg_mode": "seq-mean-token-sum-norm",
                "epsilon_high": 0.2,
            }
        case "sed_paper":
            return dict(_SED_PAPER)
        case _:
            return {}


def _dapo_buffer(max_completion_length: object) -> dict[str, Any]:
    if not isinstance(max_completion_length, int) or max_completion_length < 5:
        return {}
    return {"overlong_buffer": {"len": max_completion_length // 5, "penalty_factor": 1.0}}


_SED_PAPER: Mapping[str, Any] = {
    **_CLIPPED,
    "adv_estimator": "grpo",
    "scale_rewards": "group",
    "loss_agg_mode": "token-mean",
    "epsilon_high": 0.28,
    "delta": 3.0,
    "num_steps": 80,
    "num_prompts_per_step": 256,
    "num_generations": 8,
    "mini_batch_size": 256,
    "num_iterations": 1,
    "temperature": 1.0,
    "max_completion_length": 3072,
    "save_steps": 20,
    "optimizer": {
        "learning_rate": 1e-6,
        "lr_schedule": "constant",
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
    },
}

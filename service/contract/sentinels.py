"""Limits on a run's own metrics: which points pass them, how many in a row count, and what is done then. Pure.

point ──(passes the limit)──> streak + 1 ──(streak = window)──> fires, once an attempt: alert | stop
      └─(does not)──> streak 0
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal, Self, assert_never

from pydantic import Field, field_validator, model_validator

from service.contract.metric_names import METRICS, describe_metric
from service.contract.strict_model import StrictModel

SentinelAction = Literal["alert", "stop"]
_WINDOW = Field(default=20, ge=1, le=100_000)
"""Points in a row."""


class NonFiniteSentinel(StrictModel):
    """A metric becomes NaN or infinite."""

    type: Literal["non_finite"] = "non_finite"
    metrics: list[str] = Field(
        default=["sft/loss", "sft/grad_norm", "actor/pg_loss", "actor/grad_norm", "reward/mean"], min_length=1
    )
    window: int = Field(default=1, ge=1, le=100_000)
    """Points in a row."""
    action: SentinelAction = "alert"


class EntropyCollapseSentinel(StrictModel):
    """The policy has become certain of every token: RL explores nothing any more."""

    type: Literal["entropy_collapse"] = "entropy_collapse"
    threshold: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    """Of `actor/entropy`, in nats; below it counts."""
    window: int = _WINDOW
    """Points in a row."""
    action: SentinelAction = "alert"


class RewardSaturationSentinel(StrictModel):
    """Nearly all groups have equal rewards: no step learns anything."""

    type: Literal["reward_saturation"] = "reward_saturation"
    threshold: float = Field(default=0.98, gt=0.0, le=1.0)
    """Of `group/frac_reward_zero_std`; at or above it counts."""
    window: int = _WINDOW
    """Points in a row."""
    action: SentinelAction = "alert"


class ClippedRatioSentinel(StrictModel):
    """Nearly all completions are cut at the length limit."""

    type: Literal["clipped_ratio"] = "clipped_ratio"
    threshold: float = Field(default=0.9, gt=0.0, le=1.0)
    """Of `completions/clipped_ratio`; at or above it counts."""
    window: int = _WINDOW
    """Points in a row."""
    action: SentinelAction = "alert"


class MetricSentinel(StrictModel):
    """Any metric goes beyond a limit."""

    type: Literal["metric"] = "metric"
    metric: str = Field(min_length=1, max_length=200)
    above: float | None = Field(default=None, allow_inf_nan=False)
    """A larger value counts."""
    below: float | None = Field(default=None, allow_inf_nan=False)
    """A smaller value counts."""
    window: int = _WINDOW
    """Points in a row."""
    action: SentinelAction = "alert"

    @field_validator("metric")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if describe_metric(name) is None:
            near = get_close_matches(name, [metric.name for metric in METRICS], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no metric is called {name!r}{hint}")
        return name

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"a sentinel on {self.metric} needs either above or below")
        return self


Sentinel = Annotated[
    NonFiniteSentinel | EntropyCollapseSentinel | RewardSaturationSentinel | ClippedRatioSentinel | MetricSentinel,
    Field(discriminator="type"),
]


def default_sentinels() -> list[Sentinel]:
    """What every run is watched for unless its specification says otherwise: alerts alone."""
    return [NonFiniteSentinel(), EntropyCollapseSentinel(), RewardSaturationSentinel(), ClippedRatioSentinel()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a sentinel means for one metric."""

    key: str
    """Names it among the experiment's: sentinel by its place, then metric."""
    metric: str
    kind: Literal["non_finite", "below", "at_least", "above"]
    threshold: float
    window: int
    action: SentinelAction
    type: str

    def is_passed(self, value: float) -> bool:
        """Whether a value counts. NaN passes no limit but that on being finite."""
        match self.kind:
            case "non_finite":
                return not math.isfinite(value)
            case "below":
                return value < self.threshold
            case "at_least":
                return value >= self.threshold
            case "above":
                return value > self.threshold
            case _:
                assert_never(self.kind)

    def describe(self, first_step: int, last_step: int, value: float) -> str:
        """What happened, for people."""
        how = {
            "non_finite": "was not finite",
            "below": f"was below {self.threshold:g}",
            "at_least": f"was {self.threshold:g} or more",
            "above": f"was above {self.threshold:g}",
        }[self.kind]
        times = "" if self.window == 1 else f" {self.window} times in a row (steps {first_step} to {last_step})"
        return f"{self.metric} {how}{times}: {value:g} at step {last_step}"


def limits_of(sentinels: Sequence[Sentinel]) -> list[Limit]:
    """The limits on single metrics that the sentinels stand for."""
    return [limit for place, sentinel in enumerate(sentinels) for limit in _limits(place, sentinel)]


def _limits(place: int, sentinel: Sentinel) -> list[Limit]:
    match sentinel:
        case NonFiniteSentinel():
            return [_limit(place, sentinel, name, "non_finite", 0.0) for name in sentinel.metrics]
        case EntropyCollapseSentinel():
            return [_limit(place, sentinel, "actor/entropy", "below", sentinel.threshold)]
        case RewardSaturationSentinel():
            return [_limit(place, sentinel, "group/frac_reward_zero_std", "at_least", sentinel.threshold)]
        case ClippedRatioSentinel():
            return [_limit(place, sentinel, "completions/clipped_ratio", "at_least", sentinel.threshold)]
        case MetricSentinel(below=None):
            return [_limit(place, sentinel, sentinel.metric, "above", sentinel.above or 0.0)]
        case MetricSentinel():
            return [_limit(place, sentinel, sentinel.metric, "below", sentinel.below or 0.0)]
        case _:
            assert_never(sentinel)


def _limit(
    place: int,
    sentinel: Sentinel,
    metric: str,
    kind: Literal["non_finite", "below", "at_least", "above"],
    threshold: float,
) -> Limit:
    return Limit(
        key=f"{place}:{metric}",
        metric=metric,
        kind=kind,
        threshold=threshold,
        window=sentinel.window,
        action=sentinel.action,
        type=sentinel.type,
    )

"""From judged groups to what is trained: shaped rewards, dynamic sampling, advantages.

generated groups ──> shaped rewards ──> groups with a signal ──> filled up to the step's size ──> samples
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import fmean

from service.contract.stages import RlSpec
from workers.advantages import AdvantageRule, overlong_penalty
from workers.rollouts import TrainingSample
from workers.stages.sampling import JudgedGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapedGroup:
    """A judged group as training sees it."""

    judged: JudgedGroup
    penalties: tuple[float, ...]
    """What lengths add to the rewards, at most 0."""
    is_trained: tuple[bool, ...]
    """By completion; False where it was cut and such ones are masked."""

    @property
    def rewards(self) -> tuple[float, ...]:
        """Those that advantages are made of."""
        return tuple(map(sum, zip(self.judged.rewards, self.penalties, strict=True)))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each completion."""
        return tuple(len(completion.token_ids) for completion in self.judged.completions)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """The groups of a step, as many as it trains, and how they came about."""

    groups: tuple[ShapedGroup, ...]
    num_without_signal: int
    """Of the generated groups."""
    num_replaced: int
    """Groups that are copies of others of the step."""
    num_unfilled: int
    """Groups without a signal that are trained because no other was found."""


class GroupSelection:
    """Collects a step's groups, generation by generation."""

    def __init__(self, spec: RlSpec) -> None:
        self._spec = spec
        self._rule = AdvantageRule(estimator=spec.adv_estimator, scale=spec.scale_rewards, k=spec.adv_k)
        self._with_signal: list[ShapedGroup] = []
        self._without_signal: list[ShapedGroup] = []
        self._in_order: list[ShapedGroup] = []

    def add(self, groups: Iterable[JudgedGroup]) -> None:
        """Take the groups of one generation."""
        for judged in groups:
            group = _shaped(judged, self._spec)
            has_signal = any(group.is_trained) and self._rule.has_signal(group.rewards)
            (self._with_signal if has_signal else self._without_signal).append(group)
            self._in_order.append(group)

    @property
    def is_full(self) -> bool:
        """Whether no further generation could change the step."""
        return self._spec.dynamic_sampling.mode != "filter" or len(self._with_signal) >= self._wanted

    def result(self) -> StepGroups:
        """The step's groups. Those that are replaced or left out are decided by order, never by chance."""
        chosen, num_replaced = self._chosen()
        without = set(map(id, self._without_signal))
        return StepGroups(
            groups=tuple(chosen),
            num_without_signal=len(self._without_signal),
            num_replaced=num_replaced,
            num_unfilled=0 if self._spec.dynamic_sampling.mode == "none" else sum(id(g) in without for g in chosen),
        )

    def samples(self, groups: Sequence[ShapedGroup]) -> list[TrainingSample]:
        """What the trainer gets, group after group."""
        advantages = self._rule.advantages([g.rewards for g in groups], [g.lengths for g in groups])
        return [
            TrainingSample(
                prompt_token_ids=group.judged.prompt.token_ids,
                completion_token_ids=completion.token_ids,
                rollout_logprobs=completion.logprobs,
                advantage=advantage,
                is_trained=is_trained,
            )
            for group, advantages_G in zip(groups, advantages, strict=True)
            for completion, advantage, is_trained in zip(
                group.judged.completions, advantages_G, group.is_trained, strict=True
            )
        ]

    @property
    def _wanted(self) -> int:
        return self._spec.num_prompts_per_step

    def _chosen(self) -> tuple[list[ShapedGroup], int]:
        """The step's groups and how many of them are copies."""
        match self._spec.dynamic_sampling.mode:
            case "filter":
                return (self._with_signal + self._without_signal)[: self._wanted], 0
            case "replace" if self._with_signal:
                num_missing = self._wanted - len(self._with_signal)
                return self._with_signal + list(islice(cycle(self._with_signal), num_missing)), num_missing
            case _:
                return self._in_order, 0


def selection_metrics(spec: RlSpec, generated: int, step: StepGroups) -> dict[str, float]:
    """What became of the groups, as far as the specification lets something become of them."""
    values: dict[str, float] = {}
    if spec.dynamic_sampling.mode != "none":
        values |= {
            "dynamic_sampling/num_gen_batches": generated / spec.num_prompts_per_step,
            "dynamic_sampling/num_without_signal": float(step.num_without_signal),
            "dynamic_sampling/num_replaced": float(step.num_replaced),
            "dynamic_sampling/num_unfilled": float(step.num_unfilled),
        }
    if spec.overlong_buffer is not None:
        values["reward/overlong_penalty"] = fmean(penalty for group in step.groups for penalty in group.penalties)
    if spec.mask_truncated_completions:
        values["completions/masked_ratio"] = fmean(not trained for group in step.groups for trained in group.is_trained)
    return values


def _shaped(judged: JudgedGroup, spec: RlSpec) -> ShapedGroup:
    return ShapedGroup(
        judged=judged,
        penalties=tuple(
            overlong_penalty(len(completion.token_ids), spec.max_completion_length, spec.overlong_buffer)
            for completion in judged.completions
        ),
        is_trained=tuple(
            not (spec.mask_truncated_completions and completion.finish_reason == "length")
            for completion in judged.completions
        ),
    )

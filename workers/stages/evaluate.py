"""Evaluation at one point of the run: many samples for every held-out prompt, with the same seeds at every point."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.contract.evaluation import EvaluationSet, EvaluationSpec
from service.contract.messages import RolloutSample
from service.contract.stages import StageName
from workers.evaluation.summary import EvaluatedGroup, summarise
from workers.rewards.reward import Reward, open_reward
from workers.rewards.samples import RewardFailed
from workers.rollouts import Prompt, SamplingParameters
from workers.stages.sampling import JudgedGroup, judge, make_requests, shown_samples, verify_completions
from workers.stages.stage_context import StageContext, StageOutcome
from workers.stages.untrained_groups import data_digest

_REQUESTS_PER_CALL = 2048
"""Enough to keep an engine full; few enough to show progress."""
_NUM_SHOWN = 8

PromptsOfSets = dict[str, list[Prompt]]
"""By the names of the sets."""
OnProgress = Callable[[str, int], None]
"""Told the phase and the prompts done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlace:
    """At which point of the run an evaluation stands."""

    stage: StageName
    global_step: int
    """SFT and RL steps trained so far: 0 for the base model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What an evaluation found."""

    num_prompts: int
    metrics: dict[str, float]
    detail: dict[str, Any]
    shown: list[RolloutSample] = field(default_factory=list)
    """Some of the completions, for people to read; none where the result was read from a file."""


def run_evaluation(context: StageContext, spec: EvaluationSpec, place: EvaluationPlace) -> StageOutcome:
    """Sample with the policy of this point and summarise; the engine gets the trainer's weights first if need be."""
    prompts = load_evaluation_prompts(context, spec)
    num_prompts = sum(map(len, prompts.values()))

    def show(phase: str, num_done: int) -> None:
        context.reports.progress(place.stage, phase, num_done, num_prompts)

    show("starting rollout engine", 0)
    context.engine.wait_started()
    if place.stage != "evaluate_base":
        context.trainer.wait_loaded()
        show("syncing weights", 0)
        context.bring_engine_up_to_date()
    found = sample_sets(context, spec, place, prompts, show)
    context.reports.rollouts(found.shown)
    context.reports.points(place.global_step, found.metrics)
    return StageOutcome(
        steps_done=found.num_prompts, steps_planned=num_prompts, metrics=found.metrics, detail=found.detail
    )


def load_evaluation_prompts(context: StageContext, spec: EvaluationSpec) -> PromptsOfSets:
    """The prompts of the sets that are sampled, each of which leaves room for a completion."""
    most = context.spec.model.max_model_len
    return {
        one.name: context.load_prompts(one.data, most - one.max_completion_length, one.num_prompts) for one in spec.sets
    }


def sample_sets(
    context: StageContext, spec: EvaluationSpec, place: EvaluationPlace, prompts: PromptsOfSets, show: OnProgress
) -> Evaluated:
    """Sample all sets with the policy that the engine holds; what it finds is the caller's to report.

    The detail is the first set's, with the others' under `further_sets` by name.
    """
    found: dict[str, Evaluated] = {}
    for one in spec.sets:
        num_before = sum(len(prompts[name]) for name in found)
        with open_reward(one.reward, context.check) as reward:
            found[one.name] = _sample_and_judge(
                context, one, place, prompts[one.name], _counting_from(num_before, show), reward
            )
    return _together(found)


def _counting_from(num_before: int, show: OnProgress) -> OnProgress:
    return lambda phase, num_done: show(phase, num_before + num_done)


def _together(found: dict[str, Evaluated]) -> Evaluated:
    first, *others = found.values()
    if not others:
        return first
    sums = {name: sum(one.detail[name] for one in found.values()) for name in ("generation_s", "num_tokens")}
    return Evaluated(
        num_prompts=sum(one.num_prompts for one in found.values()),
        metrics={name: value for one in found.values() for name, value in one.metrics.items()},
        detail=first.detail | sums | {"further_sets": {name: found[name].detail for name in list(found)[1:]}},
        shown=[sample for one in found.values() for sample in one.shown],
    )


def _sample_and_judge(
    context: StageContext,
    spec: EvaluationSet,
    place: EvaluationPlace,
    prompts: list[Prompt],
    show: OnProgress,
    reward: Reward,
) -> Evaluated:
    sampled = _Sampled(groups=[], generation_s=0.0)
    prompts_per_call = max(1, _REQUESTS_PER_CALL // spec.num_generations)
    for first in range(0, len(prompts), prompts_per_call):
        show("generating", first)
        sampled.extend(_sample(context, spec, prompts[first : first + prompts_per_call], reward))
    show("judging", len(prompts))
    metrics, detail = _summary(spec, _wholly_judged(sampled.groups), reward)
    facts = {
        "generation_s": sampled.generation_s,
        "num_tokens": sampled.num_tokens,
        "prompts_sha256": data_digest(prompts),
        "policy_version": context.versions.engine,
        "global_step": place.global_step,
    }
    return Evaluated(
        num_prompts=len(sampled.groups),
        metrics=metrics | _set_metrics(spec.name, reward.metrics_of(reward.take_tally())),
        detail=detail | facts,
        shown=shown_samples(sampled.groups, place.stage, place.global_step, _NUM_SHOWN),
    )


@dataclass(slots=True, kw_only=True)
class _Sampled:
    groups: list[JudgedGroup]
    generation_s: float

    @property
    def num_tokens(self) -> int:
        return sum(len(completion.token_ids) for group in self.groups for completion in group.completions)

    def extend(self, other: "_Sampled") -> None:
        self.groups += other.groups
        self.generation_s += other.generation_s


def _sample(context: StageContext, spec: EvaluationSet, prompts: list[Prompt], reward: Reward) -> _Sampled:
    # Neither stage nor step enters the seed: points are compared under the same draws.
    requests = make_requests(prompts, spec.num_generations, context.spec.seed, "evaluate", spec.name)
    sampling = SamplingParameters(temperature=spec.temperature, max_completion_length=spec.max_completion_length)
    began = time.monotonic()
    completions = context.engine.generate(requests, sampling)
    generation_s = time.monotonic() - began
    verify_completions(requests, completions, context.versions.engine)
    return _Sampled(groups=judge(prompts, completions, reward), generation_s=generation_s)


def _wholly_judged(groups: list[JudgedGroup]) -> list[JudgedGroup]:
    """Without the prompts that have dropped completions: chances are counted over equally many samples a prompt."""
    judged = [group for group in groups if not group.num_dropped]
    if not judged:
        raise RewardFailed(
            f"each of the {len(groups)} prompts has a completion that could not be judged, so there is nothing to "
            "count; see the log for why, or set the reward's on_error to 'zero'"
        )
    return judged


def _set_metrics(name: str, metrics: dict[str, float]) -> dict[str, float]:
    """A reward's own figures under the names of an evaluation's set."""
    return {f"eval/{name}/{metric}": value for metric, value in metrics.items()}


def _summary(
    spec: EvaluationSet, groups: list[JudgedGroup], reward: Reward
) -> tuple[dict[str, float], dict[str, object]]:
    return summarise(spec.name, [_evaluated(group, reward) for group in groups], spec.pass_at_k)


def _evaluated(group: JudgedGroup, reward: Reward) -> EvaluatedGroup:
    texts = [completion.text for completion in group.completions]
    return EvaluatedGroup(
        prompt_uid=group.prompt.uid,
        rewards=list(group.rewards),
        answer_keys=[reward.answer_key(text) for text in texts],
        texts=texts,
        lengths=[len(completion.token_ids) for completion in group.completions],
        logprob_sums=[math.fsum(completion.logprobs) for completion in group.completions],
        clipped=[completion.finish_reason == "length" for completion in group.completions],
    )

"""From prompts to judged groups: requests with their seeds, checked answers, rewards, and samples for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from service.contract.messages import RolloutSample
from service.contract.stages import StageName
from workers.reporter.text import storable
from workers.rewards.reward import Reward, Verdict
from workers.rewards.samples import RewardSample
from workers.rollouts import Completion, GenerationRequest, Prompt
from workers.seeds import derive_seed

SHOWN_CHARACTERS = 20_000
"""Of a prompt, completion or answer that is sent for people to read."""


class RolloutMismatch(Exception):
    """The engine's completions do not belong to what was asked, or come from another policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGroup:
    """All completions of one prompt with their rewards."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: tuple[float, ...]
    """Of a completion that could not be judged and is dropped: the mean of the group's others, so that it neither wins
    nor loses against them; 0 where no completion was judged."""
    reward_parts: tuple[Mapping[str, float], ...] = ()
    """Of each completion, the scores of the reward's parts by name; empty for a dropped one."""
    num_dropped: int = 0
    """Completions that could not be judged."""

    @property
    def is_mixed(self) -> bool:
        """Whether the rewards differ."""
        return any(reward != self.rewards[0] for reward in self.rewards)


def make_requests(
    prompts: Sequence[Prompt], num_generations: int, seed: int, *purpose: str | int
) -> list[GenerationRequest]:
    """`num_generations` requests per prompt, a prompt's together, seeded by (seed, purpose, prompt uid, sample).

    A prompt that stands twice in `prompts` gets further sample indices, so its completions are not drawn twice.
    """
    requests, asked = [], Counter[int]()
    for prompt in prompts:
        for _ in range(num_generations):
            index = asked[prompt.uid]
            asked[prompt.uid] += 1
            request_seed = derive_seed(seed, *purpose, prompt.uid, index)
            requests.append(GenerationRequest(prompt=prompt, sample_index=index, seed=request_seed))
    return requests


def verify_completions(
    requests: Sequence[GenerationRequest], completions: Sequence[Completion], policy_version: int
) -> None:
    """Raise RolloutMismatch unless each request has its completion, in order, non-empty and from the right policy."""
    verify_answers(requests, completions)
    verify_versions(completions, range(policy_version, policy_version + 1))


def verify_versions(completions: Sequence[Completion], allowed: range) -> None:
    """Raise RolloutMismatch unless policies of the allowed versions alone have drawn all tokens."""
    wrong = {span.version for completion in completions for span in completion.spans if span.version not in allowed}
    if wrong:
        asked = f"version {allowed.start}" if len(allowed) == 1 else f"versions {allowed.start} to {allowed.stop - 1}"
        raise RolloutMismatch(
            f"completions of policy version {sorted(wrong)} received where {asked} was asked: "
            "the engine missed a weight update or took one while it generated"
        )


def verify_answers(requests: Sequence[GenerationRequest], completions: Sequence[Completion]) -> None:
    """Raise RolloutMismatch unless each request has its completion, in order, non-empty and with all that belongs to
    each token."""
    _verify_order(requests, completions)
    for completion in completions:
        _verify_tokens(completion)


def _verify_order(requests: Sequence[GenerationRequest], completions: Sequence[Completion]) -> None:
    asked = [(request.prompt.uid, request.sample_index) for request in requests]
    got = [(completion.prompt_uid, completion.sample_index) for completion in completions]
    if asked != got:
        wrong = next((pair for pair in zip(asked, got, strict=False) if pair[0] != pair[1]), None)
        raise RolloutMismatch(
            f"{len(asked)} completions asked, {len(got)} received; first difference (asked, received): {wrong}; "
            "rewards would go to the wrong samples, so the step is not trained"
        )


def _verify_tokens(completion: Completion) -> None:
    which = f"completion {completion.sample_index} of prompt {completion.prompt_uid}"
    num_tokens = len(completion.token_ids)
    if not num_tokens or num_tokens != len(completion.logprobs):
        raise RolloutMismatch(
            f"{which} has {num_tokens} tokens and {len(completion.logprobs)} log-probs: both must be equal, and at "
            "least one"
        )
    spans = completion.spans
    ends = [0, *(span.end for span in spans)]
    versions = [span.version for span in spans]
    is_whole = [span.start for span in spans] == ends[:-1] and ends[-1] == num_tokens
    if not is_whole or versions != sorted(versions) or versions[0] != completion.policy_version:
        raise RolloutMismatch(
            f"{which} of version {completion.policy_version} and {num_tokens} tokens is said to be made of {spans}: "
            "spans must lie end to end over all tokens, the oldest version first"
        )


def judge(prompts: Sequence[Prompt], completions: list[Completion], reward: Reward) -> list[JudgedGroup]:
    """The completions of `make_requests`' order, cut into groups, each with its rewards."""
    size = len(completions) // len(prompts)
    asked = [prompt for prompt in prompts for _ in range(size)]
    verdicts = reward.judge([_reward_sample(*pair) for pair in zip(asked, completions, strict=True)])
    groups = []
    for position, prompt in enumerate(prompts):
        members = slice(position * size, (position + 1) * size)
        groups.append(_judged_group(prompt, completions[members], verdicts[members]))
    return groups


def _reward_sample(prompt: Prompt, completion: Completion) -> RewardSample:
    return RewardSample(
        prompt_uid=prompt.uid,
        sample_index=completion.sample_index,
        prompt=prompt.text,
        completion=completion.text,
        answer=prompt.answer,
    )


def _judged_group(prompt: Prompt, completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> JudgedGroup:
    known = [verdict.score for verdict in verdicts if verdict.score is not None]
    # The mean lies within its values, also where rounding would not have it so: equal rewards must stay equal.
    neutral = min(max(fmean(known), min(known)), max(known)) if known else 0.0
    return JudgedGroup(
        prompt=prompt,
        completions=tuple(completions),
        rewards=tuple(neutral if verdict.score is None else verdict.score for verdict in verdicts),
        reward_parts=tuple(verdict.parts for verdict in verdicts),
        num_dropped=len(verdicts) - len(known),
    )


def shown_samples(groups: Sequence[JudgedGroup], stage: StageName, step: int, limit: int) -> list[RolloutSample]:
    """Up to `limit` completions for people to read: the best and the worst of a group, mixed groups first."""
    ordered = sorted(groups, key=lambda group: not group.is_mixed)
    pairs = [_best_and_worst(group, stage, step) for group in ordered[:limit]]
    return list(chain.from_iterable(pairs))[:limit]


def _best_and_worst(group: JudgedGroup, stage: StageName, step: int) -> list[RolloutSample]:
    best = max(range(len(group.rewards)), key=group.rewards.__getitem__)
    worst = min(range(len(group.rewards)), key=group.rewards.__getitem__)
    return [_shown(group, position, stage, step) for position in dict.fromkeys((best, worst))]


def _shown(group: JudgedGroup, position: int, stage: StageName, step: int) -> RolloutSample:
    completion = group.completions[position]
    return RolloutSample(
        stage=stage,
        step=step,
        prompt_uid=group.prompt.uid,
        sample_index=completion.sample_index,
        prompt=storable(group.prompt.text[:SHOWN_CHARACTERS]),
        completion=storable(completion.text[:SHOWN_CHARACTERS]),
        answer=storable(group.prompt.answer[:SHOWN_CHARACTERS]),
        reward=group.rewards[position],
        num_tokens=len(completion.token_ids),
        policy_version=completion.policy_version,
    )

"""Judged groups around the synthetic samples of `tiny_model`, as a step hands them to the store."""

from collections.abc import Mapping
from typing import Any

from service.contract.rewards import CombinedReward, ExactMatchReward, RewardPart
from tests.workers.tiny_model import make_samples
from workers.rollouts import Completion, Prompt, TrainingSample
from workers.stages.rollout_store import StepToStore
from workers.stages.sampling import JudgedGroup

PARTS = ({"form": 0.0, "value": 0.0}, {"form": 1.0, "value": 1.0}, {"form": 0.5, "value": 0.0}, {})
REWARD = CombinedReward(
    parts=[
        RewardPart(name="form", weight=0.5, reward=ExactMatchReward()),
        RewardPart(name="value", weight=0.5, reward=ExactMatchReward()),
    ]
)


def groups_of(samples: list[TrainingSample], version: int) -> list[JudgedGroup]:
    """Four completions a prompt, of two ages."""
    return [group_of(samples[4 * uid : 4 * uid + 4], uid, version) for uid in range(len(samples) // 4)]


def group_of(samples: list[TrainingSample], uid: int, version: int) -> JudgedGroup:
    """The second of them is one version older, the last one could not be judged and was cut."""
    completions = tuple(
        Completion(
            prompt_uid=uid,
            sample_index=index,
            token_ids=sample.completion_token_ids,
            logprobs=sample.rollout_logprobs,
            finish_reason="length" if index == 3 else "stop",
            text="ü \ud800 w1",
            policy_version=max(version - (index == 1), 0),
        )
        for index, sample in enumerate(samples)
    )
    prompt = Prompt(uid=uid, text="w0 w1", token_ids=samples[0].prompt_token_ids, answer="w2")
    return JudgedGroup(prompt=prompt, completions=completions, rewards=(0.0, 1.0, 0.25, 1 / 3), reward_parts=PARTS)


def step_to_store(step: int, metrics: Mapping[str, float], **changes: Any) -> StepToStore:
    """What `make_samples(step)` is as a step whose version is its number less one."""
    samples = make_samples(step)
    groups = groups_of(samples, step - 1)
    facts = {"generated": groups, "groups": groups, "samples": samples, "metrics": metrics}
    return StepToStore(step=step, trained_version=step - 1, **(facts | changes))

"""The metrics of a reinforcement learning step that the driver itself knows; the trainer adds its own."""

from collections.abc import Sequence
from statistics import fmean, pstdev

from workers.stages.sampling import JudgedGroup

FULL_REWARD = 1.0


def rollout_metrics(groups: Sequence[JudgedGroup]) -> dict[str, float]:
    """`reward/*`, `group/*` and `completions/*` of all that a step generated, before penalties for length.

    The standard deviation is the population's.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    return {
        "reward/mean": fmean(rewards),
        "reward/std": pstdev(rewards),
        "group/frac_reward_zero_std": fmean(not group.is_mixed for group in groups),
        "group/frac_all_correct": fmean(min(group.rewards) >= FULL_REWARD for group in groups),
        "group/frac_all_wrong": fmean(max(group.rewards) <= 0.0 for group in groups),
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": fmean(completion.finish_reason == "length" for completion in completions),
    }

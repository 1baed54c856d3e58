"""Samples to judge."""

from workers.rewards.samples import RewardSample


def make_sample(completion: str, answer: str = "", *, uid: int = 0, index: int = 0, prompt: str = "") -> RewardSample:
    """One completion with its gold answer."""
    return RewardSample(prompt_uid=uid, sample_index=index, prompt=prompt, completion=completion, answer=answer)

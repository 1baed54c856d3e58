"""Advantages of a group of completions of one prompt."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

STD_EPSILON = 1e-6
"""Added to the standard deviation, in units of the reward."""


def grpo_advantages(rewards_G: Sequence[float], scale: Literal["group", "none"]) -> list[float]:
    """Centred rewards of one group, [G], with `group` divided by the group's standard deviation.

    GRPO (arXiv 2402.03300, section 4.1.2), outcome supervision. `none` leaves the division out, as Dr. GRPO
    (arXiv 2503.20783) does. The standard deviation is the sample's (G - 1 in the denominator) plus 1e-6. A group whose
    rewards are exactly equal has no signal: all its advantages are exactly 0, decided by comparison and not by a
    standard deviation that rounding may lift above 0.

    Raises ValueError for fewer than two rewards and for rewards that are NaN or infinite.
    """
    if len(rewards_G) < 2:
        raise ValueError(f"a group of {len(rewards_G)} completions has no advantage: give at least two")
    if not all(math.isfinite(reward) for reward in rewards_G):
        raise ValueError(f"rewards {list(rewards_G)} are not all finite: the reward function must return numbers")
    if all(reward == rewards_G[0] for reward in rewards_G):
        return [0.0] * len(rewards_G)
    mean = fmean(rewards_G)
    centred_G = [reward - mean for reward in rewards_G]
    if scale == "none":
        return centred_G
    std = math.sqrt(math.fsum(value * value for value in centred_G) / (len(rewards_G) - 1))
    return [value / (std + STD_EPSILON) for value in centred_G]

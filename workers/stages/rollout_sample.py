"""A small sample of a step's completions in which every kind of them is to be seen.

    completions ──> strata: reward x length x age x cut or not ──> one of each by turns, until the sample is full

So rare kinds are in the sample more often than in the step. Each sampled completion carries the number of those that it
stands for: the strata's sizes over their expected parts, so that sums with these weights are, over the draws, the sums
over the step (Horvitz and Thompson 1952).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_REWARD_SHARES = (0.25, 0.5, 0.75)
_LENGTH_SHARES = (1 / 3, 2 / 3)
_MAX_REWARDS = 4
"""So many different rewards or fewer are a band each; more are cut into quarters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What decides to which stratum a completion belongs."""

    reward: float
    num_tokens: int
    age: int
    is_cut: bool
    """The length limit ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One completion of the sample."""

    index: int
    weight: float
    """How many completions of the step it stands for, itself included."""


def draw_sample(kinds: Sequence[Kind], size: int, seed: int) -> list[Drawn]:
    """Up to `size` of the completions, in their order; the same seed draws the same."""
    if size >= len(kinds):
        return [Drawn(index=index, weight=1.0) for index in range(len(kinds))]
    generator = np.random.Generator(np.random.PCG64(seed))
    strata = _strata(kinds)
    counts, expected = _shares([len(stratum) for stratum in strata], size, generator)
    drawn = [
        Drawn(index=stratum[place], weight=len(stratum) / share)
        for stratum, count, share in zip(strata, counts, expected, strict=True)
        for place in generator.permutation(len(stratum))[:count].tolist()
    ]
    return sorted(drawn, key=lambda one: one.index)


def _shares(sizes: Sequence[int], size: int, generator: np.random.Generator) -> tuple[list[int], list[float]]:
    """Completions taken of each stratum, and how many that are in the mean over all draws."""
    counts, expected = [0] * len(sizes), [0.0] * len(sizes)
    left = size
    while left:
        is_open = [place for place, number in enumerate(sizes) if counts[place] < number]
        # The last round is too short for all of them: who gets one of it is drawn by lot.
        served = is_open if left >= len(is_open) else generator.permutation(is_open)[:left].tolist()
        for place in is_open:
            expected[place] += len(served) / len(is_open)
        for place in served:
            counts[place] += 1
        left -= len(served)
    return counts, expected


def _strata(kinds: Sequence[Kind]) -> list[list[int]]:
    """Indices of the completions of each stratum that has any."""
    rewards = _bands([kind.reward for kind in kinds], _REWARD_SHARES, _MAX_REWARDS)
    lengths = _bands([float(kind.num_tokens) for kind in kinds], _LENGTH_SHARES, len(_LENGTH_SHARES))
    strata: dict[Hashable, list[int]] = {}
    for index, (kind, reward, length) in enumerate(zip(kinds, rewards, lengths, strict=True)):
        strata.setdefault((reward, length, kind.age, kind.is_cut), []).append(index)
    return list(strata.values())


def _bands(values: Sequence[float], shares: Sequence[float], max_values: int) -> list[int]:
    """The band of each value; equal values are in one band."""
    different = sorted(set(values))
    limits = different[1:] if len(different) <= max_values else np.quantile(values, shares).tolist()
    return np.searchsorted(np.asarray(limits, dtype=float), np.asarray(values), side="right").tolist()

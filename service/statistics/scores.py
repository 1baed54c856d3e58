"""From counts of right samples to a value for each prompt and run, and to the units that resampling draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScores:
    """One run of an arm: an SFT seed, an RL seed, and its value for each prompt."""

    sft_seed: int | None
    """None where nothing was fine-tuned: each RL seed is a unit of its own then."""
    rl_seed: int | None
    values_P: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """An arm as resampling sees it: units that are independent of each other, and their values."""

    units: tuple[int, ...]
    """A seed for each unit: the SFT seed, or the RL seed where all runs share their SFT."""
    values_UP: Array
    """Mean over a unit's runs, for each prompt."""

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.units)

    @property
    def unit_means_U(self) -> Array:
        """Mean over prompts."""
        means_U: Array = self.values_UP.mean(axis=1)
        return means_U

    @property
    def mean(self) -> float:
        """The arm's figure."""
        return float(self.values_UP.mean())


def pass_at_k_values(num_correct: Sequence[int], num_samples: int, k: int) -> Array:
    """The unbiased pass@k of each prompt: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374).

    As a product, exact to rounding for any n. Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    correct_P = np.asarray(num_correct, dtype=np.int64)
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} cannot be computed from {num_samples} samples a prompt: k must lie between 1 and n")
    if correct_P.size and (correct_P.min() < 0 or correct_P.max() > num_samples):
        raise ValueError(f"counts of right samples must lie between 0 and the {num_samples} samples of a prompt")
    wrong_P = num_samples - correct_P
    none_right_P = np.ones(len(correct_P))
    for drawn in range(k):
        none_right_P *= np.maximum(wrong_P - drawn, 0) / (num_samples - drawn)
    return 1.0 - none_right_P


def arm_scores(runs: Sequence[RunScores]) -> ArmScores:
    """The arm's units: runs of one SFT seed are averaged, since they share its chance.

    Where all runs have the same SFT seed, or none, RL seeds are the units: what is said holds for that one SFT.

    Raises ValueError without runs, for runs over different numbers of prompts, and for values that are not finite.
    """
    if not runs:
        raise ValueError("an arm without a finished run has no scores")
    if len({len(run.values_P) for run in runs}) != 1 or not len(runs[0].values_P):
        raise ValueError("the runs of an arm must have been evaluated on the same prompts, at least one")
    if not all(np.isfinite(run.values_P).all() for run in runs):
        raise ValueError("scores must be finite")
    members = _by_unit(runs)
    units = tuple(sorted(members))
    return ArmScores(units=units, values_UP=np.stack([np.mean(members[unit], axis=0) for unit in units]))


def _by_unit(runs: Sequence[RunScores]) -> Mapping[int, list[Array]]:
    shares_sft = len({run.sft_seed for run in runs}) == 1
    members: dict[int, list[Array]] = {}
    for run in runs:
        seed = run.rl_seed if shares_sft and run.rl_seed is not None else run.sft_seed
        members.setdefault(0 if seed is None else seed, []).append(run.values_P)
    return members

"""Two arms compared: the difference, its interval, and how often chance alone would give as much.

Seeds that both arms ran are paired: they share base model, data order and the random numbers of rollouts. The p-value
permutes arms: within pairs (signs of the differences) where there are enough of them to reach 5 %, else the labels of
all units. Both hold their level whatever the distribution, if the arms do not differ; exact up to 20,000 arrangements.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any, Literal

import numpy as np
from scipy.stats import permutation_test, t

from service.statistics.power import Wanted, further_units
from service.statistics.scores import ArmScores, Array
from service.statistics.two_way import Interval, cell_variance, mean_interval

MIN_PAIRS = 6
"""Signs of 5 pairs have 32 arrangements: no difference could be below p = .0625."""
MAX_ARRANGEMENTS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An arm against the baseline."""

    difference: Interval
    """Arm minus baseline. For unpaired units the interval is Welch's."""
    p_value: float | None
    """Two-sided, before any correction for several arms; None with fewer than two units in an arm."""
    num_pairs: int
    """0 where the arms share too few seeds and the labels of all units were permuted."""
    further_units: int | None
    """Of each arm, beyond those run: so many would show the difference seen in 4 of 5 studies. None if unknown."""
    method: Literal["signs of pairs", "labels of units", "none"]
    spread: float | None = None
    """Standard deviation of the difference that one unit, or one of each arm, shows: what power is counted with."""


def compare(arm: ArmScores, baseline: ArmScores, *, alpha: float = 0.05, seed: int = 0) -> Comparison:
    """Arm minus baseline on the same prompts, in the same order. Raises ValueError for tables of different widths."""
    _require_same_prompts(arm, baseline)
    shared = _pairs(arm, baseline)
    if shared:
        return _of_pairs(_rows(arm, shared) - _rows(baseline, shared), alpha, seed)
    return _of_labels(arm, baseline, alpha, seed)


def difference_interval(arm: ArmScores, baseline: ArmScores, *, alpha: float = 0.05, seed: int = 0) -> Interval:
    """The difference of `compare` without its test. Raises ValueError for tables of different widths."""
    _require_same_prompts(arm, baseline)
    if shared := _pairs(arm, baseline):
        return mean_interval(_rows(arm, shared) - _rows(baseline, shared), confidence=1 - alpha, seed=seed)
    return _welch(arm, baseline, alpha)


def permutation_p(arm: ArmScores, other: ArmScores, *, seed: int = 0) -> float | None:
    """The p-value of `compare` without its interval; None with fewer than two units in an arm."""
    if shared := _pairs(arm, other):
        return sign_flip_p((_rows(arm, shared) - _rows(other, shared)).mean(axis=1), seed=seed)
    if arm.num_units < 2 or other.num_units < 2:
        return None
    return label_p(arm.unit_means_U, other.unit_means_U, seed=seed)


def smallest_p(num_units: int) -> float:
    """What the p-value of two arms with the same `num_units` seeds cannot fall below."""
    return 2 / (comb(2 * num_units, num_units) if num_units < MIN_PAIRS else 2**num_units)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted so that the chance of any false positive among all stays at the level (Holm 1979); None stays None."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = largest
    return adjusted


def _of_pairs(differences_UP: Array, alpha: float, seed: int) -> Comparison:
    interval = mean_interval(differences_UP, confidence=1 - alpha, seed=seed)
    means_U = differences_UP.mean(axis=1)
    wanted = Wanted(difference=interval.mean, alpha=alpha)
    return Comparison(
        difference=interval,
        p_value=sign_flip_p(means_U, seed=seed),
        num_pairs=len(means_U),
        further_units=further_units(float(means_U.std(ddof=1)), len(means_U), wanted),
        method="signs of pairs",
        spread=float(means_U.std(ddof=1)),
    )


def _of_labels(arm: ArmScores, baseline: ArmScores, alpha: float, seed: int) -> Comparison:
    interval = _welch(arm, baseline, alpha)
    if arm.num_units < 2 or baseline.num_units < 2:
        return Comparison(difference=interval, p_value=None, num_pairs=0, further_units=None, method="none")
    spread = np.sqrt(arm.unit_means_U.var(ddof=1) + baseline.unit_means_U.var(ddof=1))
    wanted = Wanted(difference=interval.mean, alpha=alpha, paired=False)
    return Comparison(
        difference=interval,
        p_value=label_p(arm.unit_means_U, baseline.unit_means_U, seed=seed),
        num_pairs=0,
        further_units=further_units(float(spread), min(arm.num_units, baseline.num_units), wanted),
        method="labels of units",
        spread=float(spread),
    )


def _require_same_prompts(arm: ArmScores, baseline: ArmScores) -> None:
    if arm.values_UP.shape[1] != baseline.values_UP.shape[1]:
        raise ValueError("arms can be compared on the same prompts only")


def _pairs(arm: ArmScores, baseline: ArmScores) -> list[int]:
    """The units by which the arms are paired; none where too few are shared."""
    shared = sorted(set(arm.units) & set(baseline.units))
    return shared if len(shared) >= MIN_PAIRS and len(shared) == min(arm.num_units, baseline.num_units) else []


def _rows(arm: ArmScores, units: Sequence[int]) -> Array:
    return arm.values_UP[[arm.units.index(unit) for unit in units]]


def sign_flip_p(differences_U: Array, *, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of pairs, were each pair's sign a coin's."""
    return _permuted((differences_U,), lambda x, axis: np.mean(x, axis=axis), "samples", seed)


def label_p(arm_U: Array, baseline_U: Array, *, seed: int = 0) -> float:
    """Two-sided p-value of a difference of means, were the units dealt to the arms by chance."""
    return _permuted(
        (arm_U, baseline_U), lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis), "independent", seed
    )


def _permuted(
    data: tuple[Array, ...],
    statistic: Callable[..., Any],
    kind: Literal["samples", "independent"],
    seed: int,
) -> float:
    found = permutation_test(
        data,
        statistic,
        permutation_type=kind,
        n_resamples=MAX_ARRANGEMENTS,
        vectorized=True,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _welch(arm: ArmScores, baseline: ArmScores, alpha: float) -> Interval:
    """Without pairs: the arms' units vary by themselves, and what a prompt makes of the difference is shared."""
    difference = arm.mean - baseline.mean
    num_prompts = arm.values_UP.shape[1]
    num_units = min(arm.num_units, baseline.num_units)
    low = high = error = None
    if num_units > 1:
        parts = [float(side.unit_means_U.var(ddof=1)) / side.num_units for side in (arm, baseline)]
        error = sqrt(sum(parts) + _prompt_variance(arm, baseline))
        reach = error * float(t.ppf(1 - alpha / 2, _degrees_of_freedom(parts, (arm.num_units, baseline.num_units))))
        low, high = difference - reach, difference + reach
    return Interval(
        mean=difference,
        low=low,
        high=high,
        standard_error=error,
        num_units=num_units,
        num_prompts=num_prompts,
        confidence=1 - alpha,
    )


def _prompt_variance(arm: ArmScores, baseline: ArmScores) -> float:
    """What further prompts add to the difference's variance, without the cells, which are in the units' already."""
    num_prompts = arm.values_UP.shape[1]
    if num_prompts == 1:
        return 0.0
    whole = float((arm.values_UP.mean(axis=0) - baseline.values_UP.mean(axis=0)).var(ddof=1) / num_prompts)
    return max(0.0, whole - cell_variance(arm.values_UP) - cell_variance(baseline.values_UP))


def _degrees_of_freedom(parts: Sequence[float], num_units: Sequence[int]) -> float:
    """Welch-Satterthwaite; where nothing varies, those of the smaller arm."""
    if not any(parts):
        return min(num_units) - 1
    whole = sum(parts)
    return whole * whole / sum(part * part / (units - 1) for part, units in zip(parts, num_units, strict=True))

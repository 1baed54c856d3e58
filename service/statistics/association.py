"""Whether runs that have more of one thing have more of another: diversity after SFT and what RL gained, over all runs.

Pearson's and Spearman's correlation and the slope of the least-squares line, with percentile intervals of the bootstrap
over clusters: runs that share their SFT are one draw, not several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from service.statistics.scores import Array

NUM_REPLICATES = 4000
MIN_CLUSTERS = 4
"""Below, an interval would say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its interval; None where it cannot be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """How y goes with x over runs."""

    num_runs: int
    num_clusters: int
    pearson: Estimate
    spearman: Estimate
    slope: Estimate
    """Of y by x, in their units."""


def associate(
    x: Sequence[float], y: Sequence[float], clusters: Sequence[object], *, confidence: float = 0.95, seed: int = 0
) -> Association:
    """One entry a run in each. Raises ValueError where their numbers differ or a value is not finite."""
    x_R, y_R = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not len(x_R) == len(y_R) == len(clusters):
        raise ValueError("x, y and clusters need one entry for each run")
    if not (np.isfinite(x_R).all() and np.isfinite(y_R).all()):
        raise ValueError("x and y must be finite")
    members = _members(clusters)
    estimates = _bootstrap(x_R, y_R, members, confidence, np.random.default_rng(seed))
    return Association(
        num_runs=len(x_R),
        num_clusters=len(members),
        pearson=estimates[0],
        spearman=estimates[1],
        slope=estimates[2],
    )


def _members(clusters: Sequence[object]) -> list[Array]:
    found: dict[object, list[int]] = {}
    for index, cluster in enumerate(clusters):
        found.setdefault(cluster, []).append(index)
    return [np.array(indices) for indices in found.values()]


def _bootstrap(
    x_R: Array, y_R: Array, members: list[Array], confidence: float, rng: np.random.Generator
) -> list[Estimate]:
    values = _figures(x_R, y_R)
    if len(members) < MIN_CLUSTERS or values is None:
        return [Estimate(value=value) for value in values or (None, None, None)]
    replicates = []
    for _ in range(NUM_REPLICATES):
        drawn = np.concatenate([members[index] for index in rng.integers(len(members), size=len(members))])
        # A replicate without variation has no correlation; it says nothing for or against one.
        if (found := _figures(x_R[drawn], y_R[drawn])) is not None:
            replicates.append(found)
    if not replicates:
        return [Estimate(value=value) for value in values]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(replicates), [tail, 1 - tail], axis=0)
    return [
        Estimate(value=value, low=float(below), high=float(above))
        for value, below, above in zip(values, low, high, strict=True)
    ]


def _figures(x_R: Array, y_R: Array) -> tuple[float, float, float] | None:
    if np.ptp(x_R) == 0.0 or np.ptp(y_R) == 0.0:
        return None
    pearson = _correlation(x_R, y_R)
    return pearson, _correlation(rankdata(x_R), rankdata(y_R)), pearson * float(y_R.std() / x_R.std())


def _correlation(x_R: Array, y_R: Array) -> float:
    deviations_x, deviations_y = x_R - x_R.mean(), y_R - y_R.mean()
    return float(deviations_x @ deviations_y / np.sqrt((deviations_x @ deviations_x) * (deviations_y @ deviations_y)))

"""Whether runs that have more of one thing have more of another: diversity after SFT and what RL gained, over all runs.

Pearson's and Spearman's correlation and the slope of the least-squares line, with percentile intervals of the bootstrap
over clusters: runs that share their SFT are one draw, not several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.statistics.scores import Array

NUM_REPLICATES = 4000
MIN_CLUSTERS = 4
"""Below, an interval would say nothing."""
_MOST_CELLS = 4_000_000
"""Replicates x runs that are worked on at once."""
_NOTHING = 1e-20
"""Share of the values' squares below which a sum of squared deviations is rounding."""


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
    values = _figures(x_R, y_R, np.ones((1, len(x_R))))
    if len(members) < MIN_CLUSTERS or not len(values):
        return [Estimate(value=float(value)) for value in values[0]] if len(values) else [Estimate(value=None)] * 3
    cluster_R = np.empty(len(x_R), dtype=int)
    for number, indices in enumerate(members):
        cluster_R[indices] = number
    # A replicate without variation has no correlation; it says nothing for or against one.
    replicates = np.concatenate(
        [
            _figures(x_R, y_R, _drawn(len(members), size, rng)[:, cluster_R])
            for size in _batches(NUM_REPLICATES, len(x_R))
        ]
    )
    if not len(replicates):
        return [Estimate(value=float(value)) for value in values[0]]
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return [
        Estimate(value=float(value), low=float(below), high=float(above))
        for value, below, above in zip(values[0], low, high, strict=True)
    ]


def _drawn(num_clusters: int, num_replicates: int, rng: np.random.Generator) -> Array:
    """How often each cluster is in each replicate, [B, clusters]."""
    shares = np.full(num_clusters, 1 / num_clusters)
    return rng.multinomial(num_clusters, shares, size=num_replicates).astype(float)


def _batches(num_replicates: int, num_runs: int) -> list[int]:
    """Sizes that sum to all of them and keep memory bounded."""
    size = max(1, min(num_replicates, _MOST_CELLS // num_runs))
    whole, rest = divmod(num_replicates, size)
    return [size] * whole + ([rest] if rest else [])


def _figures(x_R: Array, y_R: Array, weights_BR: Array) -> Array:
    """Pearson, Spearman and slope of each replicate that has them, [B, 3]; runs count as often as their weight says."""
    pearson_B, slope_B = _correlation(np.broadcast_to(x_R, weights_BR.shape), y_R, weights_BR)
    spearman_B, _ = _correlation(_ranks(x_R, weights_BR), _ranks(y_R, weights_BR), weights_BR)
    found_BF: Array = np.stack([pearson_B, spearman_B, slope_B], axis=1)
    known_BF: Array = found_BF[np.isfinite(found_BF).all(axis=1)]
    return known_BF


def _ranks(values_R: Array, weights_BR: Array) -> Array:
    """Mid-ranks within each replicate, in which a run stands as often as its weight says."""
    order_R = np.argsort(values_R, kind="stable")
    _, starts_G, group_R = np.unique(values_R[order_R], return_index=True, return_inverse=True)
    weights_BG = np.add.reduceat(weights_BR[:, order_R], starts_G, axis=1)
    ranks_BG = np.cumsum(weights_BG, axis=1) - (weights_BG - 1) / 2
    ranks_BR: Array = np.empty_like(weights_BR)
    ranks_BR[:, order_R] = ranks_BG[:, group_R]
    return ranks_BR


def _correlation(x_BR: Array, y_BR: Array, weights_BR: Array) -> tuple[Array, Array]:
    """Correlation and slope of each replicate; not finite where x or y do not vary."""
    total_B1 = weights_BR.sum(axis=1, keepdims=True)
    dx_BR = x_BR - (weights_BR * x_BR).sum(axis=1, keepdims=True) / total_B1
    dy_BR = y_BR - (weights_BR * y_BR).sum(axis=1, keepdims=True) / total_B1
    xx_B, yy_B = (weights_BR * dx_BR**2).sum(axis=1), (weights_BR * dy_BR**2).sum(axis=1)
    xy_B = (weights_BR * dx_BR * dy_BR).sum(axis=1)
    # Rounding leaves a little where nothing varies.
    varies_B = (xx_B > _NOTHING * _scale(x_BR)) & (yy_B > _NOTHING * _scale(y_BR))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation_B = np.where(varies_B, xy_B / np.sqrt(xx_B * yy_B), np.nan)
        slope_B = np.where(varies_B, xy_B / xx_B, np.nan)
    return correlation_B, slope_B


def _scale(values_BR: Array) -> float:
    return float(np.square(values_BR).max(initial=0.0))

"""A metric over steps, of several runs: brought onto common steps, averaged over units, with an interval. Pure.

A run's steps are put into at most `NUM_BINS` bins of equal width, and a bin's value is the mean over its steps. Over
units (seeds) the interval is Student's: mean ± t(1 - a/2, U - 1) s / sqrt(U).
"""

from math import sqrt

import numpy as np
from scipy.stats import t

from service.statistics.scores import Array

NUM_BINS = 100


def bin_edges(last_step: int, num_bins: int = NUM_BINS) -> Array:
    """The last step of each bin, rising to `last_step`, which is at least 1."""
    edges_B: Array = np.unique(np.linspace(0, last_step, min(num_bins, last_step) + 1).astype(int)[1:])
    return edges_B


def bin_means(steps_S: Array, values_S: Array, edges_B: Array) -> Array:
    """The mean over the steps of each bin (edge before, edge]; between its neighbours where a bin has no step."""
    place_S = np.searchsorted(edges_B, steps_S, side="left")
    within_S = (place_S < len(edges_B)) & np.isfinite(values_S)
    sums_B = np.bincount(place_S[within_S], weights=values_S[within_S], minlength=len(edges_B))
    counts_B = np.bincount(place_S[within_S], minlength=len(edges_B))
    known_B = counts_B > 0
    if not known_B.any():
        return np.full(len(edges_B), np.nan)
    means_B: Array = np.interp(edges_B, edges_B[known_B], sums_B[known_B] / counts_B[known_B])
    return means_B


def bin_totals(steps_S: Array, values_S: Array, edges_B: Array) -> Array:
    """The sum of all steps up to the end of each bin, for a metric that is measured at every step."""
    widths_B = np.diff(np.concatenate([[0], edges_B]))
    totals_B: Array = np.cumsum(bin_means(steps_S, values_S, edges_B) * widths_B)
    return totals_B


def band(values_UB: Array, confidence: float) -> tuple[list[float | None], list[float | None]]:
    """Low and high of the mean in each bin; None with fewer than two units."""
    num_units = len(values_UB)
    if num_units < 2:
        return [None] * values_UB.shape[1], [None] * values_UB.shape[1]
    reach_B = float(t.ppf((1 + confidence) / 2, num_units - 1)) * values_UB.std(axis=0, ddof=1) / sqrt(num_units)
    mean_B = values_UB.mean(axis=0)
    return (mean_B - reach_B).tolist(), (mean_B + reach_B).tolist()

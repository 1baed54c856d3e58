"""The mean of a table of units x prompts, and how far it may lie from what further seeds and prompts would give.

D is the table's mean, D_u a unit's, D_p a prompt's. Where every unit answers every prompt, the variance of D is
(Cameron, Gelbach & Miller 2011, for one cell each)

    V = V_units + V_prompts - V_cells        V_units = var(D_u) / U,  V_prompts = var(D_p) / P,
                                             V_cells = var(D_up - D_u - D_p + D) / (U P)

since the chance of single cells is in both of the first two. The bootstrap resamples units, then prompts, once for all
units; a prompt's deviation is scaled so that the replicates have this variance, and not one that counts the cells three
times (as the plain two-way bootstrap has, Owen 2007). Intervals are expanded percentile intervals (Hesterberg 2015):
their percentiles lie further out, as Student's quantile of U - 1 degrees of freedom does beside the normal one, because
a handful of seeds underrates its own variance.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import norm, t

from service.statistics.scores import Array

NUM_REPLICATES = 4000
"""So many that the noise of a 95 % percentile is a twentieth of a standard error."""
_DIGITS = 12
"""Values that agree so far differ by rounding alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its uncertainty."""

    mean: float
    low: float | None
    """None where one unit only was run: nothing is known about its chance."""
    high: float | None
    standard_error: float | None
    num_units: int
    num_prompts: int
    confidence: float

    @property
    def half_width(self) -> float | None:
        """Of the interval, for `mean ± half_width`."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The variance of the mean, by its sources; each at least 0."""

    units: float
    prompts: float
    """Without what single cells add: that is in `units` already."""

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return sqrt(self.units + self.prompts)


def spread_of_mean(values_UP: Array, *, over_prompts: bool = True) -> Spread:
    """The sources of the mean's variance; needs two units."""
    num_units, num_prompts = values_UP.shape
    unit_means_U, prompt_means_P = values_UP.mean(axis=1), values_UP.mean(axis=0)
    units = float(unit_means_U.var(ddof=1)) / num_units
    if not over_prompts or num_prompts == 1:
        return Spread(units=units, prompts=0.0)
    prompts = float(prompt_means_P.var(ddof=1)) / num_prompts
    return Spread(units=units, prompts=max(0.0, prompts - cell_variance(values_UP)))


def cell_variance(values_UP: Array) -> float:
    """What the chance of single cells adds to the mean's variance; needs two units and two prompts."""
    num_units, num_prompts = values_UP.shape
    rest_UP: Array = values_UP - values_UP.mean(axis=1)[:, None] - values_UP.mean(axis=0)[None, :] + values_UP.mean()
    return float((rest_UP**2).sum() / ((num_units - 1) * (num_prompts - 1)) / (num_units * num_prompts))


def bootstrap_means(
    values_UP: Array,
    rng: np.random.Generator,
    *,
    over_prompts: bool = True,
    num_replicates: int = NUM_REPLICATES,
    unit_scale: float = 1.0,
) -> Array:
    """Replicates of the mean, [num_replicates]: units resampled, then prompts."""
    num_units, num_prompts = values_UP.shape
    mean = float(values_UP.mean())
    unit_draws = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_replicates) / num_units
    replicates: Array = mean + unit_scale * (unit_draws @ (values_UP.mean(axis=1) - mean))
    spread = spread_of_mean(values_UP, over_prompts=over_prompts)
    if spread.prompts > 0.0:
        prompt_means_P = values_UP.mean(axis=0) - mean
        scale = sqrt(spread.prompts / (float(prompt_means_P.var(ddof=1)) / num_prompts))
        # Prompts of one value are drawn together: of thousands of prompts few values differ.
        values_V, counts_V = np.unique(np.round(prompt_means_P, _DIGITS), return_counts=True)
        draws_BV = rng.multinomial(num_prompts, counts_V / num_prompts, size=num_replicates)
        replicates = replicates + scale * (draws_BV / num_prompts) @ values_V
    return replicates


def mean_interval(
    values_UP: Array,
    *,
    confidence: float = 0.95,
    over_prompts: bool = True,
    seed: int = 0,
    num_replicates: int = NUM_REPLICATES,
) -> Interval:
    """Mean and interval of a table of units x prompts, the same for the same table.

    With `over_prompts` for further seeds and further prompts of the kind, else for these prompts only.
    """
    num_units, num_prompts = values_UP.shape
    mean = float(values_UP.mean())
    low = high = error = None
    if num_units > 1:
        replicates = bootstrap_means(
            values_UP,
            np.random.default_rng(seed),
            over_prompts=over_prompts,
            num_replicates=num_replicates,
            unit_scale=small_sample_factor(confidence, num_units),
        )
        tail = (1 - confidence) / 2
        low, high = (float(edge) for edge in np.quantile(replicates, [tail, 1 - tail]))
        error = spread_of_mean(values_UP, over_prompts=over_prompts).standard_error
    return Interval(
        mean=mean,
        low=low,
        high=high,
        standard_error=error,
        num_units=num_units,
        num_prompts=num_prompts,
        confidence=confidence,
    )


def small_sample_factor(confidence: float, num_units: int) -> float:
    """By how much an interval from resampling a few units is too narrow."""
    tail = (1 - confidence) / 2
    quantile, normal = float(t.isf(tail, num_units - 1)), float(norm.isf(tail))
    return sqrt(num_units / (num_units - 1)) * quantile / normal

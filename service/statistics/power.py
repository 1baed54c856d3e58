"""How many further seeds would show a difference.

A t-test over U units finds a difference d of standard deviation s in a share `power` of all studies if

    d >= (t_{1 - alpha/2, df} + t_{power, df}) s / sqrt(U)

with df = U - 1 for pairs and 2 U - 2 for two arms of U units (s then is that of a difference of one unit each). s is
itself an estimate, the more so the fewer units there are: the answer says "about".
"""

from dataclasses import dataclass
from math import sqrt

from scipy.stats import t

MAX_UNITS = 10_000
"""Beyond so many the answer is that no study will show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a study shall be able to show."""

    difference: float
    alpha: float = 0.05
    power: float = 0.8
    paired: bool = True


def units_needed(standard_deviation: float, wanted: Wanted) -> int | None:
    """The smallest number of units; None if MAX_UNITS do not suffice, or there is no difference to be shown."""
    if wanted.difference == 0.0:
        return None
    low, high = 2, MAX_UNITS
    if not _suffices(high, standard_deviation, wanted):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _suffices(middle, standard_deviation, wanted) else (middle + 1, high)
    return low


def further_units(standard_deviation: float, num_units: int, wanted: Wanted) -> int | None:
    """Those beyond the units that were run; 0 where they suffice."""
    needed = units_needed(standard_deviation, wanted)
    return None if needed is None else max(0, needed - num_units)


def smallest_difference(standard_deviation: float, num_units: int, wanted: Wanted) -> float:
    """What a study of so many units shows in a share `power` of its repetitions, whatever `wanted.difference` is."""
    return _factor(num_units, wanted) * standard_deviation / sqrt(num_units)


def _suffices(num_units: int, standard_deviation: float, wanted: Wanted) -> bool:
    return abs(wanted.difference) >= smallest_difference(standard_deviation, num_units, wanted)


def _factor(num_units: int, wanted: Wanted) -> float:
    freedom = num_units - 1 if wanted.paired else 2 * num_units - 2
    return float(t.ppf(1 - wanted.alpha / 2, freedom) + t.ppf(wanted.power, freedom))

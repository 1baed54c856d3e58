"""What can be said of two arms, in a sentence. People read scores per cent and differences in points of it."""

from dataclasses import dataclass

from service.contract.stages import EvaluationPoint
from service.statistics.two_way import Interval

POINT_NAMES: dict[EvaluationPoint, str] = {"base": "before SFT", "after_sft": "after SFT", "after_rl": "after RL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the sentence is made of."""

    arm: str
    baseline: str
    difference: Interval
    p_adjusted: float | None
    alpha: float
    wanted_difference: float
    further_seeds: int | None

    @property
    def is_distinguishable(self) -> bool | None:
        """None without a p-value."""
        return None if self.p_adjusted is None else self.p_adjusted <= self.alpha


def sentence(verdict: Verdict) -> str:
    """The verdict for people."""
    seen = f"{verdict.arm} against {verdict.baseline}: {shown_difference(verdict.difference)}"
    if verdict.is_distinguishable is None:
        return f"{seen}; with fewer than two seeds of each nothing can be said."
    level = f"p = {shown_p(verdict.p_adjusted)}"
    if verdict.is_distinguishable:
        return f"{seen}; distinguishable ({level})."
    return f"{seen}; not distinguishable ({level}); {_what_it_takes(verdict)}."


def shown_difference(found: Interval) -> str:
    """In points, with its sign and interval."""
    interval = "" if found.low is None or found.high is None else f" [{signed(found.low)}, {signed(found.high)}]"
    return f"{signed(found.mean)}{interval} points"


def signed(share: float) -> str:
    """A difference of two shares in points."""
    return f"{100 * share:+.1f}"


def shown_p(p_value: float | None) -> str:
    """Two digits; what is smaller than they can show is said to be."""
    if p_value is None:
        return "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def _what_it_takes(verdict: Verdict) -> str:
    if verdict.wanted_difference == 0.0:
        return "no difference was seen"
    wanted, more = f"{100 * verdict.wanted_difference:.2g} points", verdict.further_seeds
    if more is None:
        return f"no number of seeds within reach would show a difference of {wanted}"
    if more == 0:
        return f"these seeds would show a difference of {wanted} in 4 of 5 studies, so it is likely to be smaller"
    return f"about {more} more seeds would show a difference of {wanted}"

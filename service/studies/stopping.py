"""When a study has enough: the rule, and what it looks at. Pure.

    no run waits, none is to be made, none goes on   ──> finished
    something waits or is to be made, and a limit is reached ──> stopped: intervals, GPU-hours, CPU-hours, experiments

The rule of the intervals looks at how well differences are known, never at which way they point, so that stopping by it
favours no arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.studies import StudySpec, arm_names, baseline_of
from service.contract.study_changes import StudyReason, StudyState
from service.statistics.comparison import MIN_PAIRS, difference_interval
from service.statistics.scores import arm_scores
from service.studies.counts import RunCounts, primary_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """A study at one moment."""

    num_planned: int
    num_made: int
    num_waiting: int
    """Queued, held or not."""
    num_live: int
    """Admitted, running or cancelling."""
    num_started: int
    """Those that were ever admitted."""
    gpu_hours: float
    cpu_hours: float
    half_widths: Mapping[str, float | None] | None = None
    """By arm but the baselines; None for an arm with too few seeds. None: not asked for, or not to be had."""

    def as_evidence(self) -> dict[str, Any]:
        """For the study's row."""
        return {
            "num_planned": self.num_planned,
            "num_made": self.num_made,
            "num_waiting": self.num_waiting,
            "num_live": self.num_live,
            "num_started": self.num_started,
            "gpu_hours": round(self.gpu_hours, 6),
            "cpu_hours": round(self.cpu_hours, 6),
            "half_widths": dict(self.half_widths) if self.half_widths is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The state that a study comes to."""

    state: StudyState
    reason: StudyReason
    message: str


def judge(spec: StudySpec, facts: StudyFacts) -> Verdict | None:
    """None while it goes on."""
    nothing_left = facts.num_waiting == 0 and facts.num_made >= facts.num_planned
    if nothing_left and facts.num_live == 0:
        message = f"all {facts.num_made} experiments have ended"
        return Verdict(state=StudyState.FINISHED, reason=StudyReason.ALL_ENDED, message=message)
    if nothing_left:
        return None
    reached = _reached(spec, facts)
    return None if reached is None else Verdict(state=StudyState.STOPPED, reason=reached[0], message=reached[1])


def _reached(spec: StudySpec, facts: StudyFacts) -> tuple[StudyReason, str] | None:
    budget = spec.budget
    if budget.half_width is not None and facts.half_widths and _all_within(facts.half_widths, budget.half_width):
        widest = max(width for width in facts.half_widths.values() if width is not None)
        return (
            StudyReason.HALF_WIDTH,
            f"every arm's difference from the baseline is known to ± {widest:.3g} or better, and ± "
            f"{budget.half_width:g} was asked for",
        )
    if budget.max_gpu_hours is not None and facts.gpu_hours >= budget.max_gpu_hours:
        return StudyReason.MAX_GPU_HOURS, f"{facts.gpu_hours:.3g} of {budget.max_gpu_hours:g} GPU-hours are used"
    if budget.max_cpu_hours is not None and facts.cpu_hours >= budget.max_cpu_hours:
        return StudyReason.MAX_CPU_HOURS, f"{facts.cpu_hours:.3g} of {budget.max_cpu_hours:g} CPU-hours are used"
    if budget.max_experiments is not None and facts.num_started >= budget.max_experiments:
        return (
            StudyReason.MAX_EXPERIMENTS,
            f"{facts.num_started} experiments have started, {budget.max_experiments} were allowed, "
            f"{facts.num_planned} would be the whole study",
        )
    return None


def _all_within(widths: Mapping[str, float | None], wanted: float) -> bool:
    return all(width is not None and width <= wanted for width in widths.values())


def half_widths(spec: StudySpec, runs: Sequence[RunCounts]) -> dict[str, float | None]:
    """Of each arm's difference from its baseline in the primary metric, at the study's confidence.

    An arm has none with fewer than `MIN_PAIRS` units on either side: from a handful of seeds a width is luck. Raises
    ValueError where arms cannot be compared.
    """
    found: dict[str, float | None] = {}
    for arm in arm_names(spec):
        baseline = baseline_of(spec, arm)
        if arm == baseline:
            continue
        mine, theirs = (primary_scores(runs, name, spec.primary) for name in (arm, baseline))
        if not mine or not theirs:
            found[arm] = None
            continue
        pair = arm_scores(mine), arm_scores(theirs)
        enough = min(side.num_units for side in pair) >= MIN_PAIRS
        found[arm] = difference_interval(*pair, alpha=spec.alpha).half_width if enough else None
    return found

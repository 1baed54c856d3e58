"""How long the phases of a run usually take, so that one that takes far longer is noticed. Pure: times are given."""

from collections import defaultdict, deque
from dataclasses import dataclass
from statistics import median

Phase = tuple[str, str]
"""Stage and phase, as reported: (`rl`, `generating`)."""

_REMEMBERED = 50
_ENOUGH = 3
"""So many have to be known before another one can be too long."""
_NOTHING_S = 0.05
"""A phase that is over at once is a note between two others and says nothing about how long it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What the run is at."""

    phase: Phase
    step: int
    since_s: float


class PhaseTimes:
    """Remembers the last durations of each phase."""

    def __init__(self) -> None:
        self._durations: dict[Phase, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self.present: Present | None = None

    def begin(self, phase: Phase, step: int, now_s: float) -> None:
        """The phase before has ended, and this one begins; also the same again."""
        before = self.present
        if before is not None and now_s - before.since_s >= _NOTHING_S:
            self._durations[before.phase].append(now_s - before.since_s)
        self.present = Present(phase=phase, step=step, since_s=now_s)

    def usual_s(self, phase: Phase) -> float | None:
        """The median; None while too few are known."""
        known = self._durations[phase]
        return median(known) if len(known) >= _ENOUGH else None

    def overdue(self, now_s: float, *, factor: float, least_s: float) -> Present | None:
        """The present phase, if it takes `factor` times as long as usual, and at least `least_s`."""
        present = self.present
        if present is None:
            return None
        usual_s = self.usual_s(present.phase)
        if usual_s is None or now_s - present.since_s <= max(least_s, factor * usual_s):
            return None
        return present

"""What a reward counts between two reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from workers.rewards.judgement import Judgement


@dataclass(slots=True)
class _Sums:
    num_errors: int = 0
    num_timeouts: int = 0
    num_dropped: int = 0
    num_audited: int = 0
    num_disagreements: int = 0
    num_audit_errors: int = 0
    part_scores: dict[str, list[float]] = field(default_factory=dict)


class RewardCounts:
    """Figures of the samples since the last `take`."""

    def __init__(self, *, part_names: list[str], can_fail: bool, has_audit: bool) -> None:
        self._part_names, self._can_fail, self._has_audit = part_names, can_fail, has_audit
        self._sums = _Sums()

    def add(self, dropped: Iterable[bool]) -> None:
        """Note which samples of a batch are dropped."""
        self._sums.num_dropped += sum(dropped)

    def add_failures(self, failures: Iterable[Judgement]) -> None:
        """Note samples without a score."""
        for judgement in failures:
            self._sums.num_errors += 1
            self._sums.num_timeouts += judgement.failure == "timeout"

    def add_part(self, name: str, scores: Sequence[float | None]) -> None:
        """Note a part's scores."""
        known = [score for score in scores if score is not None]
        self._sums.part_scores.setdefault(name, []).extend(known)

    def add_audit(self, opinion: Judgement, *, differs: bool) -> None:
        """Note a second opinion."""
        self._sums.num_audited += 1
        self._sums.num_disagreements += differs
        self._sums.num_audit_errors += opinion.score is None

    def take(self) -> dict[str, float]:
        """The figures by metric name; counting begins anew."""
        sums, self._sums = self._sums, _Sums()
        metrics: dict[str, float] = {}
        if self._can_fail:
            metrics["reward/num_errors"] = float(sums.num_errors)
            metrics["reward/num_timeouts"] = float(sums.num_timeouts)
            metrics["reward/num_dropped"] = float(sums.num_dropped)
        for name in self._part_names:
            if scores := sums.part_scores.get(name):
                metrics[f"rewards/{name}/mean"] = fmean(scores)
        if self._has_audit:
            metrics["reward/audit/num_samples"] = float(sums.num_audited)
            metrics["reward/audit/num_errors"] = float(sums.num_audit_errors)
            if decided := sums.num_audited - sums.num_audit_errors:
                metrics["reward/audit/disagreement"] = sums.num_disagreements / decided
        return metrics

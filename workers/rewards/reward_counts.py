"""What a reward counts while it judges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from workers.rewards.judgement import Judgement


@dataclass(slots=True, kw_only=True)
class RewardTally:
    """Sums over some samples; two of them can be put together."""

    num_errors: int = 0
    num_timeouts: int = 0
    num_dropped: int = 0
    num_audited: int = 0
    num_disagreements: int = 0
    num_audit_errors: int = 0
    part_scores: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: "RewardTally") -> None:
        """Take in the sums over other samples."""
        self.num_errors += other.num_errors
        self.num_timeouts += other.num_timeouts
        self.num_dropped += other.num_dropped
        self.num_audited += other.num_audited
        self.num_disagreements += other.num_disagreements
        self.num_audit_errors += other.num_audit_errors
        for name, scores in other.part_scores.items():
            self.part_scores.setdefault(name, []).extend(scores)


class RewardCounts:
    """Figures of the samples since the last `take`."""

    def __init__(self, *, part_names: list[str], can_fail: bool, has_audit: bool) -> None:
        self._part_names, self._can_fail, self._has_audit = part_names, can_fail, has_audit
        self._tally = RewardTally()

    def add(self, dropped: Iterable[bool]) -> None:
        """Note which samples of a batch are dropped."""
        self._tally.num_dropped += sum(dropped)

    def add_failures(self, failures: Iterable[Judgement]) -> None:
        """Note samples without a score."""
        for judgement in failures:
            self._tally.num_errors += 1
            self._tally.num_timeouts += judgement.failure == "timeout"

    def add_part(self, name: str, scores: Sequence[float | None]) -> None:
        """Note a part's scores."""
        known = [score for score in scores if score is not None]
        self._tally.part_scores.setdefault(name, []).extend(known)

    def add_audit(self, opinion: Judgement, *, differs: bool) -> None:
        """Note a second opinion."""
        self._tally.num_audited += 1
        self._tally.num_disagreements += differs
        self._tally.num_audit_errors += opinion.score is None

    def take(self) -> RewardTally:
        """The sums; counting begins anew."""
        taken, self._tally = self._tally, RewardTally()
        return taken

    def metrics(self, tally: RewardTally) -> dict[str, float]:
        """The figures by metric name."""
        metrics: dict[str, float] = {}
        if self._can_fail:
            metrics["reward/num_errors"] = float(tally.num_errors)
            metrics["reward/num_timeouts"] = float(tally.num_timeouts)
            metrics["reward/num_dropped"] = float(tally.num_dropped)
        for name in self._part_names:
            if scores := tally.part_scores.get(name):
                metrics[f"rewards/{name}/mean"] = fmean(scores)
        if self._has_audit:
            metrics["reward/audit/num_samples"] = float(tally.num_audited)
            metrics["reward/audit/num_errors"] = float(tally.num_audit_errors)
            if decided := tally.num_audited - tally.num_audit_errors:
                metrics["reward/audit/disagreement"] = tally.num_disagreements / decided
        return metrics

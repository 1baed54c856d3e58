"""Min, max and mean of neighbouring points, so that a plot of a long series stays small and loses no spike. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

LARGEST_DRAWN = 1e300
"""Values beyond it count as infinite in envelopes: sums of them would overflow. NaN fails the comparison as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Neighbouring points; NaN and infinities count as points only."""

    first_step: int
    last_step: int
    num_points: int
    num_finite: int
    min: float | None
    max: float | None
    mean: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Some points of which only the envelope is known, such as a chunk."""

    first_step: int
    last_step: int
    num_points: int
    num_finite: int
    value_min: float | None
    value_max: float | None
    value_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Some points themselves, steps rising."""

    steps: Sequence[int]
    values: Sequence[float]

    @property
    def first_step(self) -> int:
        """Step of the first point."""
        return self.steps[0]

    @property
    def num_points(self) -> int:
        """How many points."""
        return len(self.steps)


def summarise(steps: Sequence[int], values: Sequence[float]) -> Summary:
    """The envelope of at least one point."""
    finite = [value for value in values if abs(value) <= LARGEST_DRAWN]
    return Summary(
        first_step=steps[0],
        last_step=steps[-1],
        num_points=len(steps),
        num_finite=len(finite),
        value_min=min(finite, default=None),
        value_max=max(finite, default=None),
        value_sum=fsum(finite),
    )


def build_envelope(pieces: Sequence[Summary | Run], max_buckets: int) -> list[Bucket]:
    """At most `max_buckets` buckets over `pieces`, which are disjoint and in order of their steps.

    A bucket is a share of the points, not of the steps, so sparse stretches keep their detail. The piece's first point
    decides where a summary goes: it is never split.
    """
    total = sum(piece.num_points for piece in pieces)
    shares: dict[int, list[Summary]] = {}
    before = 0
    for piece in pieces:
        for part in [piece] if isinstance(piece, Summary) else _split(piece, before, total, max_buckets):
            shares.setdefault(before * max_buckets // total, []).append(part)
            before += part.num_points
    return [_merge(parts) for parts in shares.values()]


def _split(run: Run, before: int, total: int, max_buckets: int) -> Iterable[Summary]:
    """The run cut where a point, the `before`-th of all and later, falls into the next bucket."""
    start = 0
    while start < run.num_points:
        bucket = (before + start) * max_buckets // total
        end = min(-(-(bucket + 1) * total // max_buckets) - before, run.num_points)
        yield summarise(run.steps[start:end], run.values[start:end])
        start = end


def _merge(parts: Sequence[Summary]) -> Bucket:
    num_finite = sum(part.num_finite for part in parts)
    if len(parts) == 1:  # nearly every bucket of a plot, and there are tens of thousands of them
        [only] = parts
        return Bucket(
            first_step=only.first_step,
            last_step=only.last_step,
            num_points=only.num_points,
            num_finite=num_finite,
            min=only.value_min,
            max=only.value_max,
            mean=only.value_sum / num_finite if num_finite else None,
        )
    return Bucket(
        first_step=parts[0].first_step,
        last_step=parts[-1].last_step,
        num_points=sum(part.num_points for part in parts),
        num_finite=num_finite,
        min=min((part.value_min for part in parts if part.value_min is not None), default=None),
        max=max((part.value_max for part in parts if part.value_max is not None), default=None),
        mean=fsum(part.value_sum for part in parts) / num_finite if num_finite else None,
    )
